"""Figures of memory: lines against batch size, rank or layers, and Figure 3's stacked bars."""

import json

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from lorafa.memory.cards import USUAL
from pipeline.config.plan import Plan
from pipeline.figures.style import MARKERS
from pipeline.tables import throughput
from pipeline.tables.memory import GIB, METHODS, read_breakdown, read_estimates

OPTIMIZATIONS = {
    "none": "",
    "flash-attention": "FlashAttention",
    "qlora": "QLoRA",
    "zero-3": "ZeRO-3, 8 GPUs",
}


def draw_lines(plan: Plan, name: str) -> Figure:
    """Draws an experiment that has a `plot`: one line for each series, the paper's numbers as crosses."""
    experiment = plan.experiments[name]
    plot = experiment.plot
    assert plot is not None
    cells = read_estimates(plan, name)
    cells[plot.x] = pd.to_numeric(cells[plot.x])
    figure, axes = plt.subplots()
    for number, (values, line) in enumerate(cells.groupby(plot.series, sort=False)):
        line = line.sort_values(plot.x)
        label, color = _label(plot.series, values), f"C{number}"
        axes.plot(
            line[plot.x], line.fitted / GIB, marker=MARKERS[number % len(MARKERS)], color=color, label=label
        )
        published = line[line.paper.str.fullmatch(r"\d+(\.\d+)?")]
        sizes = published.paper.astype(float)
        axes.plot(
            published[plot.x], sizes, "x", color=color, mew=1.6, ms=7, label=f"_{label}, the paper's (GB)"
        )
        for card in cells.attrs["cards"]:
            measured = f"_{label}, measured on {card}"
            axes.plot(line[plot.x], line[card] / GIB, "+", color=color, mew=1.6, ms=9, label=measured)
    for card in cells.attrs["cards"]:
        axes.plot([], [], "+", color="black", mew=1.6, ms=9, label=f"measured on {card}")
    if cells.paper.str.fullmatch(r"\d+(\.\d+)?").any():
        axes.plot([], [], "x", color="black", mew=1.6, ms=7, label="the paper's numbers (GB)")
    title = f"{experiment.title}\n{_setting(cells)}"
    _finish(axes, title, plot.label, plot.scale, sorted(cells[plot.x].unique()))
    _mark_cards(axes)
    return figure


def draw_throughput(plan: Plan, name: str) -> Figure:
    """Draws Figure 5's throughput against the batch size."""
    experiment = plan.experiments[name]
    assert experiment.plot is not None
    speeds = throughput.read(plan, name)
    figure, axes = plt.subplots()
    for number, (method, line) in enumerate(speeds.groupby("method", sort=False)):
        marker = MARKERS[number % len(MARKERS)]
        axes.plot(line.batch_size, line.tokens_per_second, marker=marker, label=METHODS[str(method)])
    _finish(
        axes,
        experiment.title,
        experiment.plot.label,
        experiment.plot.scale,
        sorted(speeds.batch_size.unique()),
    )
    axes.set_ylabel("Tokens per second (modelled)")
    return figure


def draw_breakdown(plan: Plan, name: str) -> Figure:
    """Draws Figure 3: stacked bars of the components, the paper's and ours."""
    parts = read_breakdown(plan, name)
    figure, axes = plt.subplots()
    labels = [source.replace(", ", "\n").replace(" (", "\n(") for source in parts.columns]
    bottom = pd.Series(0.0, index=parts.columns)
    for part, sizes in parts.iterrows():
        bars = axes.bar(labels, sizes, bottom=bottom, label=str(part), width=0.62)
        texts = [f"{size:.1f}" if size >= 3 else "" for size in sizes]
        axes.bar_label(bars, texts, label_type="center", color="white", fontsize=8)
        bottom += sizes
    for position, total in enumerate(bottom):
        axes.text(position, total + 1, f"{total:.1f}", ha="center", fontweight="bold")
    axes.set_ylabel("Memory, GiB")
    axes.set_title(plan.experiments[name].title)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), reverse=True)
    return figure


def _label(series: list[str], values: tuple[str, ...]) -> str:
    named = dict(zip(series, values, strict=True))
    method = METHODS.get(named["method"], named["method"])
    extra = OPTIMIZATIONS.get(named.get("optimization", "none"), "")
    return f"{method} + {extra}" if extra else method


def _setting(cells: pd.DataFrame) -> str:
    """Names the model, rank and length of the estimates, as far as they have them in common."""
    recipes = [json.loads(text) for text in cells.recipe]
    found = []
    for key, word in {"model": "", "rank": "rank ", "source_length": "length "}.items():
        values = {recipe[key] for recipe in recipes}
        found += [f"{word}{values.pop()}"] if len(values) == 1 else []
    return ", ".join(found)


def _mark_cards(axes: Axes) -> None:
    """Draws a line at the memory of each usual card that is in sight."""
    for size in USUAL:
        if size < axes.get_ylim()[1]:
            axes.axhline(size, color="#777777", linewidth=0.8, linestyle=":", zorder=1)
            axes.annotate(
                f"{size} GiB",
                (1, size),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color="#555555",
            )


def _finish(axes: Axes, title: str, label: str, scale: str, ticks: list[float]) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_ylabel("Peak memory, GiB (estimated)")
    axes.set_ylim(0, 1.05 * axes.dataLim.ymax)
    if scale == "log2":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xticks(ticks)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
