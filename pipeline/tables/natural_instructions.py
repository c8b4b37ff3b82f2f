"""The rebuttal's table on Super-NaturalInstructions: evaluation loss against the learning rate, and held-out tasks."""

from dataclasses import replace
from itertools import combinations

import pandas as pd

from pipeline.comparison import runs as comparison
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.tables import outcomes, verdicts
from pipeline.tables.table import Cell, Row, Table

PUBLISHED = ("model", "task", "lr", "method", "eval_loss")


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `natural-instructions` experiment, two columns for each learning rate.

    Raises:
        RecordError: A run's record or evaluation is missing or damaged.
    """
    experiment = plan.experiments[name]
    results = outcomes.read(plan, name)
    published = outcomes.published(plan, name) if experiment.reference else pd.DataFrame(columns=PUBLISHED)
    published = published.astype({"lr": float})
    results["loss"] = [last.score if last else None for last in results["last"]]
    results["rouge_l"] = [scores.get("rouge_l") for scores in results.scores]
    rates = sorted(results.lr.unique())
    best = results.groupby(["method", "lr"]).loss.mean().min()
    rows: list[Row] = []
    for model in experiment.models:
        for method in experiment.methods:
            runs = results[(results.model == model) & (results.method == method)]
            cells = [Cell(f"{plan.models[model]['short']} ({plan.methods[method]['label']})")]
            for rate in rates:
                at = runs[runs.lr == rate]
                cells.append(outcomes.mean_cell(at, "loss", best, digits=2))
                cells.append(outcomes.mean_cell(at, "rouge_l"))
            rows.append(Row(cells, rule=True))
            theirs = published[published.method == method].set_index("lr").eval_loss
            if len(theirs):
                numbers = [Cell(f"{theirs[rate]:g}" if rate in theirs else "–") for rate in rates]
                label = Cell(f"paper: Llama2-7B ({plan.methods[method]['label']})")
                rows.append(
                    Row(
                        [label, *(cell for number in numbers for cell in (number, Cell("–")))], published=True
                    )
                )
    headings = [
        heading for rate in rates for heading in (f"loss, lr {spell(rate)}", f"ROUGE-L, lr {spell(rate)}")
    ]
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=["Model & method", *headings],
        rows=rows,
        notes=[
            *["Rows in italics are the authors' own numbers (reply to limitation 2 of the first review)."]
            * (not published.empty),
            "The loss is that of the last step; ROUGE-L, in percent, is of the checkpoint with the least loss, on "
            "tasks that were not trained on.",
            *_verdicts(plan, name, results),
            *outcomes.footnotes(results),
        ],
        data=_data(results, published),
    )


def _verdicts(plan: Plan, name: str, results: pd.DataFrame) -> list[str]:
    """Returns what each pair of methods comes to by ROUGE-L, each at the rate of its least loss, on other examples."""
    experiment, found = plan.experiments[name], []
    independent: set[str] = set()
    results = results.assign(best=[best.score if best else float("inf") for best in results.best])
    for model in experiment.models:
        scored = {}
        for method in experiment.methods:
            runs = results[(results.model == model) & (results.method == method)]
            chosen = runs[runs.lr == runs.groupby("lr").best.mean().idxmin()]
            scored[method] = {run.seed: comparison.read(run.directory) for run in chosen.itertuples()}
        for reference, candidate in combinations(experiment.methods, 2):
            # A run that diverged counts as empty answers, which are no baseline that a gain is above.
            paired = comparison.pair("held-out tasks", scored[candidate], scored[reference])
            labels = (plan.methods[method]["label"] for method in (candidate, reference))
            (judged,) = verdicts.report(plan, [replace(paired, baseline=None)], *labels).tasks
            independent.update(judged.independent)
            words = ". ".join(part for part in (judged.text, judged.more) if part)
            found.append(f"{plan.models[model]['short']}, ROUGE-L: {words}.")
    how = (
        "Verdicts pair seeds and instances of the held-out tasks, those of one passage drawn together; each method "
        "has the learning rate of its least loss, which is of other examples. docs/statistics.md"
    )
    return [*found, how, *verdicts.independent_note(independent)]


def _data(results: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, object]]:
    columns = ["model", "method", "lr", "seed", "status", "trainable_parameters", "loss", "rouge_l"]
    ours = [{"source": "ours", **line} for line in results[columns].to_dict("records")]
    return ours + [{"source": "paper", **line} for line in published.to_dict("records")]
