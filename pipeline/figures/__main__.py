"""Draws a figure: `python -m pipeline.figures figure2b profile=mini`."""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pipeline.cli import job
from pipeline.config.experiment import KINDS
from pipeline.config.plan import Plan
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError, unknown
from pipeline.figures import interactive
from pipeline.files import write_bytes
from pipeline.tables.stamp import refuse_selections, warning

STYLE = Path(__file__).with_name("figures.mplstyle")
PICTURES = ("svg", "pdf", "png")
FORMATS = (*PICTURES, "html", "csv")


def draw(plan: Plan, name: str, folder: Path, words: str = "") -> list[Path]:
    """Draws an experiment, with words below, and writes it in every format, with its numbers as CSV beside it."""
    kind = KINDS[plan.experiments[name].kind]
    drawer: Callable[[Plan, str], Figure] = resolve_name(f"pipeline.figures.{kind.figure}")
    numbers: Callable[[Plan, str], pd.DataFrame] = resolve_name(f"pipeline.{kind.numbers}")
    with plt.style.context(str(STYLE)):
        figure = drawer(plan, name)
        if words:
            figure.text(0, -0.02, words, va="top", size="small")
        interactive.name_panels(figure)
        contents = {ending: _picture(figure, ending) for ending in PICTURES}
        page = interactive.page(plan.experiments[name].title, figure, contents["svg"].decode())
        plt.close(figure)
    frame = numbers(plan, name)
    contents |= {"html": page.encode(), "csv": frame.to_csv(index=frame.index.name is not None).encode()}
    for ending, content in contents.items():
        write_bytes(folder / f"{name}.{ending}", content)
    return [folder / f"{name}.{ending}" for ending in FORMATS]


def _picture(figure: Figure, ending: str) -> bytes:
    buffer = io.BytesIO()
    date = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
    figure.savefig(buffer, format=ending, metadata=date, bbox_inches="tight")
    return buffer.getvalue()


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.figures", description=__doc__)
    parser.add_argument("figure", help="a file of conf/experiment, without .yaml")
    plan, arguments = parse_plan(parser)
    if arguments.figure not in plan.figures():
        raise ConfigError(unknown("figure", arguments.figure, plan.figures()))
    refuse_selections(plan, arguments.figure, arguments.overrides)
    words = warning(plan, arguments.figure, arguments.overrides)
    for file in draw(plan, arguments.figure, Path(plan.profile.results, "figures"), words):
        print(file)


if __name__ == "__main__":
    main()
