"""A figure as a page of its own: its points say their numbers to the pointer, the arrow keys and a screen reader."""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

TEMPLATE = Path(__file__).with_name("interactive.html")
UNNAMED = re.compile(r"_(child|container)\d+|_nolegend_")  # what matplotlib calls what has no label


def name_panels(figure: Figure) -> None:
    """Gives each panel the id by which the page finds it, before the figure is written as SVG."""
    for number, axes in enumerate(figure.axes):
        axes.patch.set_gid(f"panel-{number}")


def page(title: str, figure: Figure, svg: str) -> str:
    """Returns the page, which stands alone.

    Args:
        title: What the figure shows.
        figure: The figure, after it was written.
        svg: What was written, with its panels named.
    """
    data = json.dumps(lines(figure), separators=(",", ":")).replace("<", "\\u003c")
    template = TEMPLATE.read_text(encoding="utf-8").replace("@TITLE@", escape(title))
    return template.replace("@DATA@", data).replace("@SVG@", svg[svg.index("<svg") :])


def lines(figure: Figure) -> list[dict[str, Any]]:
    """Returns the lines that have a label; one that begins with "_" is in no legend, but here.

    Returns:
        For each line `panel`, its number, and `points`: each a place, from the left and the top of the panel, in its
        widths and heights, and what stands there, in words.
    """
    return [
        {"panel": number, "points": _points(axes, line, name)}
        for number, axes in enumerate(figure.axes)
        for line, name in _named(axes).items()
    ]


def _named(axes: Axes) -> dict[Line2D, str]:
    bars = {bars.lines[0]: bars for bars in axes.containers if isinstance(bars, ErrorbarContainer)}
    labels = {
        line: str(bars.get(line, line).get_label())
        for line in axes.lines
        if line.get_transform() == axes.transData  # no line across the panel
    }
    return {line: label.removeprefix("_") for line, label in labels.items() if not UNNAMED.fullmatch(label)}


def _points(axes: Axes, line: Line2D, name: str) -> list[tuple[float, float, str]]:
    values = np.asarray(line.get_xydata())
    places = (axes.transScale + axes.transLimits).transform(values)
    seen = np.all((places >= 0) & (places <= 1), axis=1)  # not so of what is missing
    panel = f"{axes.get_title(loc='left')}, " if len(axes.figure.axes) > 1 else ""
    return [
        (
            round(left, 4),
            round(1 - up, 4),
            f"{panel}{name}: {_value(axes.yaxis, y)} at {axes.get_xlabel()} {_value(axes.xaxis, x)}",
        )
        for (left, up), (x, y) in zip(places[seen].tolist(), values[seen].tolist(), strict=True)
    ]


def _value(axis: Axis, value: float) -> str:
    """Returns the name of a tick, where there is one, or else the number."""
    formatter = axis.get_major_formatter()
    named = formatter(value) if isinstance(formatter, FuncFormatter) else ""  # of ticks that were given names
    return named or (f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}")
