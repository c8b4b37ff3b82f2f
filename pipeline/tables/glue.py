"""Table 2: methods against GLUE tasks, beside the paper's numbers."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from pipeline import records
from pipeline.dag import Plan
from pipeline.tables.table import Cell, Row, Table

ROOT = Path(__file__).parents[2]
AVERAGE = "average"
BASELINES = {"majority": "Majority class", "bag_of_words": "Bag of words, linear"}


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `glue` experiment from the records of its runs.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    experiment = plan.experiments[name]
    results = read_results(plan, name)
    published = pd.read_csv(ROOT / experiment.reference, dtype={"trainable_parameters": str})
    tasks = experiment.tasks
    rows: list[Row] = []
    for model in experiment.models:
        rows += _baseline_rows(results[results.model == model], tasks)
        summary = summarise(results[results.model == model], tasks)
        best = summary.groupby("task")["mean"].max()
        for method in experiment.methods:
            ours = summary[summary.method == method].set_index("task")
            title = f"{plan.models[model]['short']} ({plan.methods[method]['short']})"
            rows.append(_our_row(title, ours, [*tasks, AVERAGE], best, rule=True))
            theirs = published[
                (published.model == plan.models[model]["paper"]) & (published.method == method)
            ]
            rows.append(_published_row(plan, theirs, method, [*tasks, AVERAGE]))
    stand_ins = sorted({text for texts in results.stand_ins for text in texts})
    return Table(
        name=name,
        title=experiment.title + (", in miniature" if stand_ins else ""),
        notice=f"Not the paper's material. Stand-ins: {'; '.join(stand_ins)}." if stand_ins else "",
        caption=experiment.caption,
        columns=["Model & method", "# TPs", *(plan.tasks[task]["label"] for task in tasks), "Avg."],
        rows=rows,
        notes=_notes(results, published, tasks),
        data=_data(results, published, tasks),
    )


def read_results(plan: Plan, name: str) -> pd.DataFrame:
    """Reads an experiment's records as one row a run."""
    rows = []
    for run in plan.runs_of(name):
        record = records.read(Path(run.directory, records.NAME))
        info, meta = record["train_info"], record["meta_info"]
        subset = record["run_info"]["config"]["task"]["subset"]
        rows.append(
            {
                "model": run.model,
                "method": run.method,
                "task": run.task,
                "seed": run.seed,
                "status": info["status"],
                "score": 100 * info["best"]["score"] if info["status"] == records.DONE else None,
                "trainable_parameters": info["trainable_parameters"],
                "stand_ins": [
                    meta[kind]["about"]["stand_in"]
                    for kind in ("model", "data")
                    if meta[kind]["about"].get("stand_in")
                ],
                "baselines": meta["data"]["about"].get("baselines", {}).get(subset, {}),
            }
        )
    return pd.DataFrame(rows)


def summarise(results: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """Returns mean and standard deviation over seeds by method and task, and of the seeds' averages over tasks."""
    rows = []
    for method, runs in results.groupby("method", sort=False):
        scores = runs.pivot(index="seed", columns="task", values="score").astype(float)[tasks]
        scores[AVERAGE] = scores.mean(axis=1, skipna=False)
        for task in [*tasks, AVERAGE]:
            seeds = scores[task].dropna()
            status = runs[(runs.task == task) & (runs.status != records.DONE)].status
            rows.append(
                {
                    "method": method,
                    "task": task,
                    "mean": seeds.mean(),
                    "std": seeds.std(ddof=1),
                    "seeds": len(seeds),
                    "status": status.iloc[0] if len(status) else records.DONE,
                    "trainable_parameters": runs.trainable_parameters.iloc[0],
                }
            )
    return pd.DataFrame(rows)


def count(parameters: float) -> str:
    """Returns a number of parameters in millions or thousands."""
    return f"{parameters / 1e6:.1f}M" if parameters >= 1e6 else f"{parameters / 1e3:.0f}k"


def _our_row(title: str, summary: pd.DataFrame, columns: list[str], best: pd.Series, rule: bool) -> Row:
    cells = [Cell(title), Cell(count(summary.trainable_parameters.iloc[0]))]
    for task in columns:
        line = summary.loc[task]
        if line.seeds == 0:
            cells.append(
                Cell({records.DIVERGED: "diverged", records.OUT_OF_MEMORY: "OOM"}.get(line.status, "–"))
            )
        else:
            marker = "†" if line.status != records.DONE else ""
            spread = f"{line['std']:.1f}" if line.seeds > 1 else ""
            is_best = f"{line['mean']:.1f}" == f"{best[task]:.1f}"
            cells.append(Cell(f"{line['mean']:.1f}{marker}", spread, is_best))
    return Row(cells, rule=rule)


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
        if all(key in scores for scores in by_task.values()):
            values = [100 * by_task[task][key] for task in tasks]
            rows.append(Row([Cell(label), Cell("–"), *(Cell(f"{v:.1f}") for v in [*values, fmean(values)])]))
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
    if (results.status != records.DONE).any():
        failed = results[results.status != records.DONE]
        notes.append(
            f"† or a word in place of a number: {len(failed)} runs ended without a result and do not count."
        )
    if results.baselines.map(bool).any():
        notes.append(
            "Majority class and bag of words (logistic or ridge regression on uni- and bigrams, trained on the same "
            "training split) show what a task gives away without a language model."
        )
    return notes


def _data(results: pd.DataFrame, published: pd.DataFrame, tasks: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for model, runs in results.groupby("model", sort=False):
        for line in summarise(runs, tasks).to_dict("records"):
            rows.append({"source": "ours", "model": model, **line})
    for line in published.to_dict("records"):
        rows.append({"source": "paper", **line})
    return rows
