"""Tables 6 and 7: with which learning rates a setting works, and how well, beside the paper's."""

import pandas as pd

from pipeline.config.metrics import METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.results import records
from pipeline.tables import outcomes, trained
from pipeline.tables.table import Cell, Row, Table

TOLERANCE = 5.0  # points of the metric
LABELS = {
    "method.init_A": "Initialisation of A",
    "alpha": "α",
    "ones": "All-one",
    "normal": "Std-normal",
    "kaiming_uniform": "Kaiming uniform",
    "orthogonal": "Orthogonal (ours)",
    "lora-fa-projected": "Kaiming uniform, projected gradient (ours)",
}
OURS = ("orthogonal", "lora-fa-projected")  # rows that the paper does not have


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `sensitivity` experiment, whose axes are the value that is studied and `lr`.

    Of methods after the first, each is a row of its own.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    experiment = plan.experiments[name]
    axis = studied(plan, name)
    results = trained.read(plan, name)
    results[axis] = results[axis].where(results.method == experiment.methods[0], results.method)
    means = by_rate(results, axis)
    published = outcomes.published(plan, name).set_index(axis.rpartition(".")[2])
    published.index = published.index.map(str)
    best = means.loc[means.works, "mean"].max()
    rows: list[Row] = []
    for value in results[axis].unique():
        rows.append(_our_row(results[results[axis] == value], means[means[axis] == value], value, best))
        if value in published.index:
            line = published.loc[value]
            std = f"{line['std']:g}" if "std" in line else ""
            cells = [f"paper: {LABELS.get(value, value)}", line.learning_rates]
            rows.append(
                Row(
                    [*map(Cell, cells), Cell(f"{line.accuracy:g}", std), Cell("–"), Cell("–")], published=True
                )
            )
    seeds = results.seed.nunique()
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=[
            LABELS.get(axis, axis),
            "Range of η",
            METRICS[results.metric.iloc[0]].label,
            "at η",
            "Diverged",
        ],
        rows=rows,
        notes=[
            "Rows in italics are the paper's own numbers, for its model and data.",
            f"A learning rate works if no seed diverges, the mean is within {TOLERANCE:g} points of the best of the "
            f"row, and it is more than {TOLERANCE:g} points above the majority class where that is known; the paper "
            "does not say what it counted. Learning rates tried: "
            f"{', '.join(spell(float(rate)) for rate in sorted(results.lr.unique()))}.",
            f"Ours: {seeds} seed{'s' * (seeds > 1)}; the best mean, with the seeds' deviation as subscript.",
        ],
        data=means.to_dict("records"),
        text_columns=2,
    )


def studied(plan: Plan, name: str) -> str:
    """Returns the axis beside the learning rate."""
    (axis,) = [key for key in plan.experiments[name].axes if key != "lr"]
    return axis


def by_rate(results: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Returns the mean over seeds by value and learning rate.

    Returns:
        Columns `<axis>`, `lr`, `mean`, `std`, `seeds` (those with a score), `diverged` (number of seeds) and `works`.
    """
    baselines = results.baselines.map(lambda scores: scores.get("majority"))
    majority = baselines.iloc[0] if baselines.notna().all() else None
    means = (
        results.assign(diverged=results.status == records.DIVERGED)
        .groupby([axis, "lr"], sort=False)
        .agg(
            mean=("score", "mean"),
            std=("score", "std"),
            seeds=("score", "count"),
            diverged=("diverged", "sum"),
        )
        .reset_index()
    )
    top = means.groupby(axis)["mean"].transform("max")
    means["works"] = (means.diverged == 0) & (means["mean"] >= top - TOLERANCE)
    if majority is not None:
        means["works"] &= means["mean"] > majority + TOLERANCE
    return means


def rates(values: list[float], tried: list[float]) -> str:
    """Returns learning rates as the paper writes them, {1e-4, ..., 9e-4}; all of them where there are gaps."""
    if not values:
        return "none"
    positions = [tried.index(value) for value in values]
    gapless = positions[-1] - positions[0] == len(positions) - 1
    shown = [spell(float(value)) for value in values]
    if gapless and len(shown) > 2:
        shown = [shown[0], "...", shown[-1]]
    return f"{{{', '.join(shown)}}}"


def _our_row(results: pd.DataFrame, means: pd.DataFrame, value: str, best: float) -> Row:
    tried = sorted(means.lr)
    working = sorted(means.lr[means.works])
    diverged = sorted(means.lr[means.diverged > 0])
    cells = [Cell(LABELS.get(value, value)), Cell(rates(working, tried))]
    if means["mean"].notna().any():
        rate = means.lr[means["mean"].idxmax()]
        at = results[results.lr == rate]
        cells += [outcomes.mean_cell(at, "score", best), Cell(spell(float(rate)))]
    else:
        cells += [outcomes.mean_cell(results, "score"), Cell("–")]
    return Row([*cells, Cell(", ".join(f"× {spell(float(rate))}" for rate in diverged) or "–")], rule=True)
