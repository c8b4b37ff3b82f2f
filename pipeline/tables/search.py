"""The ranking of a search: score against learning rate, for each model and method."""

from dataclasses import replace

import pandas as pd

from pipeline.config.experiment import Halving
from pipeline.config.metrics import METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import FRACTION, Plan
from pipeline.select import select
from pipeline.tables import outcomes
from pipeline.tables.table import Cell, Row, Table


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `search`; the winner of each row is bold, and a score of a part of a run in parentheses.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    experiment = plan.experiments[name]
    whole = outcomes.read(plan, name).assign(whole=True)
    parts = outcomes.read(plan, name, plan.first_rung(name)).assign(whole=False)
    results = pd.concat([whole, parts]) if experiment.halving else whole
    metric = METRICS[results.metric.iloc[0]]
    results["score"] = [metric.points(best.score) if best else None for best in results.best]
    winners = select(plan, name)["winners"]
    rates = sorted(results.lr.dropna().unique())
    rows = []
    for (model, method), runs in results.groupby(["model", "method"], sort=False):
        cells = [Cell(f"{plan.models[str(model)]['short']} ({plan.methods[str(method)]['label']})")]
        for rate in rates:
            cell = _cell(runs[runs.lr == rate], metric.digits)
            won = rate == winners[str(model)][str(method)]["lr"]
            cells.append(replace(cell, bold=won))
        rows.append(Row(cells))
    columns = ["model", "method", "task", "seed", "rank", "lr", "status", "score"]
    columns += [FRACTION] if experiment.halving else []
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=["Model & method", *(spell(rate) for rate in rates)],
        rows=rows,
        notes=[*_halved(experiment.halving), *outcomes.footnotes(results)],
        data=results[columns].to_dict("records"),
    )


def _cell(runs: pd.DataFrame, digits: int) -> Cell:
    whole = runs[runs.whole]
    if len(whole) or runs.empty:
        return outcomes.mean_cell(whole, "score", digits=digits)
    cell = outcomes.mean_cell(runs, "score", digits=digits)
    return replace(cell, text=f"({cell.text})")


def _halved(halving: Halving | None) -> list[str]:
    if halving is None:
        return []
    return [
        f"In parentheses: after {spell(halving.fraction)} of the steps, by which the best {halving.keep} of each row, "
        "and what equals the last of these, were chosen to be made in full."
    ]
