"""Figure 6: heat maps of the score by rank and learning rate, one for each method, with one scale of colours."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.config.metrics import METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.figures.style import headline
from pipeline.results import records
from pipeline.tables import outcomes, trained

COLOURS = "cividis"  # even in lightness, and the same for colour-blind readers


def numbers(plan: Plan, name: str) -> pd.DataFrame:
    """Returns a `heatmap` experiment's cells.

    Returns:
        Columns `model`, `method`, `task`, `metric`, `rank`, `lr`, `mean` and `std` over the seeds, `seeds` (those
        with a score) and `status`: done, or the first other one among the seeds.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    cells = (
        trained.read(plan, name)
        .groupby(["model", "method", "task", "metric", "rank", "lr"], sort=False)
        .agg(
            mean=("score", "mean"), std=("score", "std"), seeds=("score", "count"), status=("status", _worst)
        )
    )
    return cells.reset_index()


def draw(plan: Plan, name: str) -> Figure:
    """Draws a panel for each method; a cell with a run that diverged is crossed out."""
    cells = numbers(plan, name)
    results = outcomes.read(plan, name)
    methods = list(cells.method.unique())
    shown = cells["mean"].dropna()
    scale = Normalize(shown.min() if len(shown) else 0, shown.max() if len(shown) else 1)
    height = 1.5 + 0.32 * cells["rank"].nunique()
    figure, panels = plt.subplots(1, len(methods), figsize=(6.4, height), sharey=True, squeeze=False)
    for axes, method in zip(panels[0], methods, strict=True):
        _panel(axes, cells[cells.method == method], scale)
        axes.set_title(plan.methods[method]["label"])
        axes.set_xlabel("Learning rate η")
    panels[0][0].set_ylabel("Rank r")
    image = plt.cm.ScalarMappable(scale, COLOURS)
    label = METRICS[cells.metric.iloc[0]].label
    majority = results.baselines.iloc[0].get("majority")
    if majority is not None:
        label += f"\n(majority class: {majority:.1f})"
    figure.colorbar(image, ax=list(panels[0]), label=label)
    headline(figure, outcomes.title(plan, name, results))
    return figure


def _panel(axes: Axes, cells: pd.DataFrame, scale: Normalize) -> None:
    wide = cells.pivot(index="rank", columns="lr", values="mean").sort_index().sort_index(axis=1)
    statuses = cells.pivot(index="rank", columns="lr", values="status").reindex_like(wide)
    axes.imshow(wide, cmap=COLOURS, norm=scale, aspect="auto", origin="lower")
    for row, rank in enumerate(wide.index):
        for column, rate in enumerate(wide.columns):
            mean, status = wide.loc[rank, rate], statuses.loc[rank, rate]
            if status == records.DIVERGED:
                axes.plot(column, row, "x", color="black", ms=9, mew=2, label="_diverged")
            elif status == records.OUT_OF_MEMORY:
                axes.text(column, row, "OOM", ha="center", va="center", fontsize=7)
            elif mean == mean:
                dark = scale(mean) < 0.55
                axes.text(
                    column, row, f"{mean:.1f}", ha="center", va="center", fontsize=7,
                    color="white" if dark else "black",
                )  # fmt: skip
    axes.set_xticks(range(len(wide.columns)), [spell(float(rate)) for rate in wide.columns], rotation=45)
    axes.set_yticks(range(len(wide.index)), [spell(int(rank)) for rank in wide.index])
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _worst(statuses: pd.Series) -> str:
    failed = statuses[statuses != records.DONE]
    return failed.iloc[0] if len(failed) else records.DONE
