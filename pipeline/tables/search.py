"""The ranking of a search: score against learning rate, for each model and method."""

from dataclasses import replace

from pipeline.config.metrics import METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.select import select
from pipeline.tables import outcomes
from pipeline.tables.table import Cell, Row, Table


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `search`; the winner of each row is bold.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    experiment = plan.experiments[name]
    results = outcomes.read(plan, name)
    metric = METRICS[results.metric.iloc[0]]
    results["score"] = [metric.points(best.score) if best else None for best in results.best]
    winners = select(plan, name)["winners"]
    rates = sorted(results.lr.dropna().unique())
    rows = []
    for (model, method), runs in results.groupby(["model", "method"], sort=False):
        cells = [Cell(f"{plan.models[str(model)]['short']} ({plan.methods[str(method)]['label']})")]
        for rate in rates:
            at = runs[runs.lr == rate]
            cell = outcomes.mean_cell(at, "score", digits=metric.digits)
            won = rate == winners[str(model)][str(method)]["lr"]
            cells.append(replace(cell, bold=won))
        rows.append(Row(cells))
    columns = ["model", "method", "task", "seed", "rank", "lr", "status", "score"]
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=["Model & method", *(spell(rate) for rate in rates)],
        rows=rows,
        notes=outcomes.footnotes(results),
        data=results[columns].to_dict("records"),
    )
