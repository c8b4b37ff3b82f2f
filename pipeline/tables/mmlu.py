"""Table 4: methods against instruction data by 5-shot MMLU, beside the paper's numbers; and accuracy by subject."""

from dataclasses import replace

import pandas as pd

from pipeline.config.plan import Plan
from pipeline.tables import outcomes, sanity, verdicts
from pipeline.tables.table import Cell, Row, Table

BASE = "untuned"


def build(plan: Plan, name: str) -> Table:
    """Builds the table of an `mmlu` experiment.

    Raises:
        RecordError: A run's record or evaluation is missing or damaged.
    """
    experiment = plan.experiments[name]
    results = outcomes.read(plan, name)
    published = outcomes.published(plan, name)
    for key in ("macro", "micro"):
        results[key] = [scores.get(key) for scores in results.scores]
    findings = sanity.judge(plan, name, results)
    rows: list[Row] = []
    for model in experiment.models:
        of_model = results[results.model == model]
        base = of_model[of_model.method == BASE]
        rows.append(_row(f"{plan.models[model]['short']} (untuned)", base.iloc[:1], None, None))
        for task in experiment.tasks:
            of_task = of_model[(of_model.task == task) & (of_model.method != BASE)]
            best = of_task.groupby("method").macro.mean().max()
            for method in (method for method in experiment.methods if method != BASE):
                runs = of_task[of_task.method == method]
                words = f"{plan.models[model]['short']}-{plan.tasks[task]['label']}"
                label = f"{words} ({plan.methods[method]['label']})"
                flawed = sanity.flaws(findings, model=model, method=method)
                row = _row(label, runs, base.macro.iloc[0], best)
                rows.append(sanity.mark(row, ["", "# TPs", task, "over base", "per question"], flawed))
                rows += _published_rows(plan, published, model, task, method)
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=["Model & method", "# TPs", "5-shot MMLU", "over base", "per question"],
        rows=rows,
        notes=[
            *verdicts.lines(plan, name),
            "Rows in italics are the paper's own numbers (Table 4), for its models and data.",
            "5-shot MMLU is the mean over subjects, as in prior work; per question, all questions weigh the same.",
            *outcomes.footnotes(results),
            *sanity.notes(plan, name, findings),
        ],
        data=_data(results, published),
    )


def _row(label: str, runs: pd.DataFrame, base: float | None, best: float | None) -> Row:
    accuracy = outcomes.mean_cell(runs, "macro", best)
    known = [details["macro_standard_error"] for details in runs.details if details]
    errors = [100 * error for error in known if error is not None]  # one question for a subject has none
    if errors:  # of one run, over questions; seeds are one in most budgets
        accuracy = replace(accuracy, subscript=f"{sum(errors) / len(errors):.1f}")
    gain = None if base is None or runs.macro.isna().all() else runs.macro.astype(float).mean() - base
    cells = [
        Cell(label),
        Cell(outcomes.count(runs.trainable_parameters.iloc[0])),
        accuracy,
        Cell("–" if gain is None else f"({gain:+.1f})".replace("-", "−")),
        outcomes.mean_cell(runs, "micro"),
    ]
    return Row(cells, rule=True)


def _published_rows(plan: Plan, published: pd.DataFrame, model: str, task: str, method: str) -> list[Row]:
    theirs = published[
        (published.model == plan.models[model]["paper"])
        & (published.task == task)
        & (published.method == method)
    ]
    rows = []
    for line in theirs.to_dict("records"):
        label = f"paper: LLaMA-7b-{plan.tasks[task]['label']} ({plan.methods[method]['label']})"
        numbers = [Cell(f"{line['accuracy']:g}"), Cell(f"({line['improvement']:+g})"), Cell("–")]
        rows.append(Row([Cell(label), Cell(line["trainable_parameters"]), *numbers], published=True))
    return rows


def _data(results: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    columns = ["model", "task", "method", "seed", "rank", "lr", "status", "trainable_parameters"]
    for run in results.to_dict("records"):
        about = {"source": "ours", **{column: run[column] for column in columns}}
        rows.append({**about, "subject": "all", "accuracy": run["macro"], "per_question": run["micro"]})
        for subject in run["details"].get("by_subject", []):
            accuracy = 100 * subject["accuracy"]
            rows.append(
                {
                    **about,
                    "subject": subject["subject"],
                    "questions": subject["questions"],
                    "accuracy": accuracy,
                }
            )
    return rows + [{"source": "paper", "subject": "all", **line} for line in published.to_dict("records")]
