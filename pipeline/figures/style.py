"""What figures have in common besides figures.mplstyle."""

from matplotlib.figure import Figure

MARKERS = "os^Dv<>P"  # of points, one for each series
STYLES = ("-", "--", "-.", ":")  # of lines


def headline(figure: Figure, text: str) -> None:
    """Writes a title above all panels, where that of a single panel is."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, fontweight="bold")
