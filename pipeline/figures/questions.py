"""Figures of our own questions: the score along what is varied, or setting by setting."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from pipeline.config.experiment import Plot
from pipeline.config.metrics import BENCHMARKS, METRICS
from pipeline.config.plan import Plan
from pipeline.figures.style import MARKERS, STYLES, headline
from pipeline.tables import outcomes
from pipeline.tables.questions import points


def draw(plan: Plan, name: str) -> Figure:
    """Draws a panel for each model and task: means over the seeds, with their deviation as bars."""
    experiment = plan.experiments[name]
    shown = points(plan, name)
    panels = list(shown.groupby(["model", "task"], sort=False))
    height = 3.4 if experiment.plot else 1.2 + 0.3 * shown.setting.nunique()
    figure, grid = plt.subplots(len(panels), 1, figsize=(6.4, height * len(panels)), squeeze=False)
    for axes, ((model, task), found) in zip(grid[:, 0], panels, strict=True):
        metric = (METRICS | BENCHMARKS)[found.metric.iloc[0]].label
        if experiment.plot:
            _curves(axes, plan, experiment.plot, found)
            axes.set_ylabel(metric)
        else:
            _settings(axes, found)
            axes.set_xlabel(metric)
        axes.set_title(f"{plan.tasks[str(task)]['label']}, {plan.models[str(model)]['short']}")
    if experiment.plot:
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    headline(figure, outcomes.title(plan, name, outcomes.read(plan, name)))
    return figure


def _curves(axes: Axes, plan: Plan, plot: Plot, found: pd.DataFrame) -> None:
    """Draws a line for each series; one without a place on x, as Full-FT's on the ranks, is a line across."""
    for number, (values, line) in enumerate(found.groupby(plot.series, sort=False)):
        label = ", ".join(_label(plan, key, value) for key, value in zip(plot.series, values, strict=True))
        color, line = f"C{number % 8}", line.sort_values(plot.x)
        if line[plot.x].isna().all():
            axes.axhline(line["mean"].max(), color=color, linestyle=":", label=label)
            continue
        axes.errorbar(
            line[plot.x],
            line["mean"],
            yerr=line["std"],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=STYLES[number % len(STYLES)],
            color=color,
            capsize=2,
            elinewidth=0.8,
            label=label,
        )
    axes.set_xlabel(plot.label)
    if plot.scale != "linear":
        axes.set_xscale("log", base=2 if plot.scale == "log2" else 10)
    if plot.scale == "log2":
        axes.set_xticks(sorted(found[plot.x].dropna().unique()))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())


def _label(plan: Plan, key: str, value: object) -> str:
    return plan.methods[str(value)]["label"] if key == "method" else str(value)


def _settings(axes: Axes, found: pd.DataFrame) -> None:
    """Draws a line for each setting, from above in the table's order."""
    rows = range(len(found))[::-1]
    axes.errorbar(
        found["mean"], list(rows), xerr=found["std"], fmt="o", capsize=2, elinewidth=0.8, label="_Mean"
    )
    axes.set_yticks(list(rows), found.setting.tolist())
    axes.grid(axis="x")
    axes.margins(y=0.12)
