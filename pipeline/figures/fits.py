"""The figure of what fits a card, by method and rung of the ladder."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pipeline.config.plan import Plan
from pipeline.figures.style import headline
from pipeline.tables.fits import METHODS, read

PANELS = {"batch": "Largest batch of 1024 tokens", "length": "Longest single sequence, tokens"}


def draw(plan: Plan, name: str) -> Figure:
    """Draws a bar for each method and card: of the batch on the left, of the length on the right."""
    found = read(plan, name)
    cards = found.card.unique()
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 5))
    for axes, (column, label) in zip(panels, PANELS.items(), strict=True):
        wide = found.pivot(index="method", columns="card", values=column).loc[
            list(dict.fromkeys(found.method))
        ]
        for number, card in enumerate(cards):
            places = [at + 0.27 * (number - 1) for at in range(len(wide))]
            bars = axes.barh(places, wide[card], height=0.25, label=f"{card} GiB")
            axes.bar_label(bars, [f"{size:,}" if size else "–" for size in wide[card]], padding=2, fontsize=7)
        axes.set_xlabel(label)
        axes.set_xscale("symlog", linthresh=wide[wide > 0].min().min())
        axes.set_xlim(0, 6 * wide.max().max())  # with room for the numbers
    panels[0].set_yticks(range(len(wide)), [METHODS[str(method)] for method in wide.index])
    panels[0].invert_yaxis()
    panels[0].legend(loc="lower right")
    headline(figure, plan.experiments[name].title)
    return figure
