"""Table 2: methods against GLUE tasks, beside the paper's numbers."""

from statistics import fmean
from typing import Any

import pandas as pd

from pipeline.config.plan import Plan
from pipeline.results import records
from pipeline.tables import outcomes, sanity, verdicts
from pipeline.tables.outcomes import count
from pipeline.tables.table import Cell, Row, Table

AVERAGE = "average"
BASELINES = {
    "majority": "Majority class",
    "bag_of_words": "Bag of words, linear",
    "word_overlap": "Word overlap, linear",
}


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `glue` experiment from the records of its runs.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    experiment = plan.experiments[name]
    results = read_scores(plan, name)
    published = outcomes.published(plan, name)
    tasks = experiment.tasks
    findings = sanity.judge(plan, name, results)
    rows: list[Row] = []
    for model in experiment.models:
        rows += _baseline_rows(results[results.model == model], tasks)
        runs = by_task(results[results.model == model], tasks)
        best = runs.groupby(["method", "task"]).score.mean().groupby("task").max()
        for method in experiment.methods:
            label = f"{plan.models[model]['short']} ({plan.methods[method]['short']})"
            flawed = sanity.flaws(findings, model=model, method=method)
            row = _our_row(label, runs[runs.method == method], [*tasks, AVERAGE], best)
            rows.append(sanity.mark(row, [sanity.ROW, "# TPs", *tasks, AVERAGE], flawed))
            theirs = published[
                (published.model == plan.models[model]["paper"]) & (published.method == method)
            ]
            rows.append(_published_row(plan, theirs, method, [*tasks, AVERAGE]))
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=["Model & method", "# TPs", *(plan.tasks[task]["label"] for task in tasks), "Avg."],
        rows=rows,
        notes=[
            *verdicts.lines(plan, name),
            *_notes(results, published, tasks),
            *sanity.notes(plan, name, findings),
        ],
        data=_data(results, published, tasks),
    )


def read_scores(plan: Plan, name: str) -> pd.DataFrame:
    """Reads an experiment's runs with a column `score`, in percent, empty where a run ended without one."""
    results = outcomes.read(plan, name)
    results["score"] = [scores.get("score") for scores in results.scores]
    return results


def by_task(results: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """Returns the runs with, for each model, method and seed, one more task: the average over tasks."""
    rows = []
    for _, runs in results.groupby(["model", "method", "seed"], sort=False):
        failed = runs[runs.status != records.DONE].status
        rows.append(
            {
                **runs.iloc[0].to_dict(),
                "task": AVERAGE,
                "directory": runs.directory.tolist(),
                "score": runs.set_index("task").score.astype(float)[tasks].mean(skipna=False),
                "status": failed.iloc[0] if len(failed) else records.DONE,
            }
        )
    return pd.concat([results, pd.DataFrame(rows)], ignore_index=True)


def _our_row(label: str, runs: pd.DataFrame, tasks: list[str], best: pd.Series) -> Row:
    cells = [Cell(label), Cell(count(runs.trainable_parameters.iloc[0]))]
    for task in tasks:
        of_task = runs[runs.task == task]
        cells.append(outcomes.mean_cell(of_task, "score", best[task]))
    return Row(cells, rule=True)


def _published_row(plan: Plan, published: pd.DataFrame, method: str, columns: list[str]) -> Row:
    title = f"paper: {_short(published.model.iloc[0])} ({plan.methods[method]['short']})"
    by_task = published.set_index("task")
    cells = [Cell(title), Cell(published.trainable_parameters.iloc[0])]
    for task in columns:
        cells.append(Cell(f"{by_task.loc[task, 'mean']:g}", f"{by_task.loc[task, 'std']:.1f}"))
    return Row(cells, published=True)


def _short(paper_model: str) -> str:
    return {"roberta-base": "R-B", "roberta-large": "R-L"}[paper_model]


def _baseline_rows(results: pd.DataFrame, tasks: list[str]) -> list[Row]:
    by_task = {task: results[results.task == task].baselines.iloc[0] for task in tasks}
    rows = []
    for key, label in BASELINES.items():
        values = [by_task[task].get(key) for task in tasks]
        known = [value for value in values if value is not None]
        if known:
            values.append(fmean(known) if len(known) == len(tasks) else None)
            cells = [Cell("–" if value is None else f"{value:.1f}") for value in values]
            rows.append(Row([Cell(label), Cell("–"), *cells]))
    return rows


def _notes(results: pd.DataFrame, published: pd.DataFrame, tasks: list[str]) -> list[str]:
    seeds = results.seed.nunique()
    notes = [
        "Rows in italics are the paper's own numbers (Table 2), for its models and data.",
        "# TPs counts each trained parameter once, the classification head included; the paper's own counts are in "
        "units of 2²⁰ for FT, Lo and Lo-FA and count the head twice (docs/differences.md).",
        f"Ours: {seeds} seed{'s' * (seeds > 1)}; the average's deviation is that of the seeds' averages. "
        "The paper's is the mean of its row's deviations.",
    ]
    notes += outcomes.footnotes(results)
    if results.baselines.map(bool).any():
        notes.append(
            "Majority class and bag of words (logistic or ridge regression on uni- and bigrams, trained on the same "
            "training split) show what a task gives away without a language model; where edited texts are compared, "
            "word overlap does (logistic regression on the shares of words that they have in common)."
        )
    return notes


def _data(results: pd.DataFrame, published: pd.DataFrame, tasks: list[str]) -> list[dict[str, Any]]:
    runs = by_task(results, tasks)
    columns = ["model", "method", "task"]
    summary = runs.groupby(columns, sort=False).agg(
        mean=("score", "mean"),
        std=("score", "std"),
        seeds=("score", "count"),
        trainable_parameters=("trainable_parameters", "first"),
    )
    ours = [{"source": "ours", **line} for line in summary.reset_index().to_dict("records")]
    return ours + [{"source": "paper", **line} for line in published.to_dict("records")]
