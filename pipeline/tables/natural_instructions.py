"""The rebuttal's table on Super-NaturalInstructions: evaluation loss against the learning rate, and held-out tasks."""

import pandas as pd

from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.tables import outcomes
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
            *outcomes.footnotes(results),
        ],
        data=_data(results, published),
    )


def _data(results: pd.DataFrame, published: pd.DataFrame) -> list[dict[str, object]]:
    columns = ["model", "method", "lr", "seed", "status", "trainable_parameters", "loss", "rouge_l"]
    ours = [{"source": "ours", **line} for line in results[columns].to_dict("records")]
    return ours + [{"source": "paper", **line} for line in published.to_dict("records")]
