"""Draws a figure: `python -m pipeline.figures figure2b profile=mini`."""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from pipeline import records
from pipeline.dag import Plan, parse_plan
from pipeline.errors import ConfigError
from pipeline.figures import convergence, memory, pareto, sensitivity
from pipeline.job import job
from pipeline.tables.memory import read_breakdown, read_estimates, read_throughput

STYLE = Path(__file__).with_name("figures.mplstyle")
PICTURES = ("svg", "pdf", "png")
FORMATS = (*PICTURES, "csv")
DRAWERS: dict[str, Callable[[Plan, str], Figure]] = {
    "memory": memory.draw_lines,
    "breakdown": memory.draw_breakdown,
    "throughput": memory.draw_throughput,
    "heatmap": sensitivity.draw,
    "convergence": convergence.draw,
    "pareto": pareto.draw,
}
NUMBERS: dict[str, Callable[[Plan, str], pd.DataFrame]] = {
    "memory": read_estimates,
    "breakdown": lambda plan, name: read_breakdown(plan, name).rename_axis("component"),
    "throughput": read_throughput,
    "heatmap": sensitivity.numbers,
    "convergence": convergence.numbers,
    "pareto": pareto.numbers,
}


def draw(plan: Plan, name: str, folder: Path) -> list[Path]:
    """Draws an experiment and writes it in every format, with its numbers as CSV beside it."""
    kind = plan.experiments[name].kind
    with plt.style.context(str(STYLE)):
        figure = DRAWERS[kind](plan, name)
        files = []
        for ending in PICTURES:
            buffer = io.BytesIO()
            date = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
            figure.savefig(buffer, format=ending, metadata=date, bbox_inches="tight")
            files.append(folder / f"{name}.{ending}")
            records.write_bytes(files[-1], buffer.getvalue())
        plt.close(figure)
    numbers = NUMBERS[kind](plan, name)
    files.append(folder / f"{name}.csv")
    records.write_text(files[-1], numbers.to_csv(index=kind == "breakdown"))
    return files


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.figures", description=__doc__)
    parser.add_argument("figure", help="a file of conf/experiment, without .yaml")
    plan, arguments = parse_plan(parser)
    if arguments.figure not in plan.figures():
        raise ConfigError(f"no figure '{arguments.figure}'; there is {', '.join(plan.figures())}")
    for file in draw(plan, arguments.figure, Path(plan.profile.results, "figures")):
        print(file)


if __name__ == "__main__":
    main()
