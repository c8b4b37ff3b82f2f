"""The figure of GPU memory that others have measured, beside estimates."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lorafa.memory.margin import MARGIN
from pipeline.config.plan import Plan
from pipeline.figures.style import MARKERS
from pipeline.tables.published import read


def draw(plan: Plan, name: str) -> Figure:
    """Draws the errors of the estimate against what was measured; hollow marks do not count."""
    compared = read(plan, name)
    figure, axes = plt.subplots()
    for number, (source, group) in enumerate(compared.groupby("source", sort=False)):
        color, marker = f"C{number}", MARKERS[number % len(MARKERS)]
        for counts, rows in group.groupby("counts"):
            face, label = (color, f"_{source}") if counts else ("none", f"_{source}, does not count")
            axes.plot(rows.measured_gib, rows.error_percent, marker, color=color, mfc=face, label=label)
        axes.plot([], [], marker, color=color, label=str(source))
    axes.axhline(0, color="black", lw=0.8)
    axes.axhline(
        100 * (1 / (1 + MARGIN) - 1), color="black", lw=0.8, ls="--", label=f"margin: {100 * MARGIN:g} % more"
    )
    axes.plot([], [], "o", color="grey", mfc="none", label="does not count")
    axes.set_title(plan.experiments[name].title)
    axes.set_xlabel("Measured, GiB")
    axes.set_ylabel("Error of the estimate, %")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure
