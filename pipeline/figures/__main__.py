"""Draws a figure: `python -m pipeline.figures figure2b profile=mini`."""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from pipeline import records
from pipeline.dag import Plan, plan_of_arguments
from pipeline.errors import ConfigError
from pipeline.figures import memory
from pipeline.job import job

STYLE = Path(__file__).with_name("figures.mplstyle")
FORMATS = ("svg", "pdf", "png")
DRAWERS: dict[str, Callable[[Plan, str], Figure]] = {
    "memory": memory.draw_lines,
    "breakdown": memory.draw_breakdown,
    "throughput": memory.draw_throughput,
}


def draw(plan: Plan, name: str, folder: Path) -> list[Path]:
    """Draws an experiment and writes it in every format."""
    with plt.style.context(str(STYLE)):
        figure = DRAWERS[plan.experiments[name].kind](plan, name)
        files = []
        for ending in FORMATS:
            buffer = io.BytesIO()
            date = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[ending]
            figure.savefig(buffer, format=ending, metadata=date, bbox_inches="tight")
            files.append(folder / f"{name}.{ending}")
            records.write_bytes(files[-1], buffer.getvalue())
        plt.close(figure)
    return files


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.figures", description=__doc__)
    parser.add_argument("figure", help="a file of conf/experiment, without .yaml")
    parser.add_argument("overrides", nargs="*", help="profile=NAME, and more Hydra overrides for every run")
    arguments = parser.parse_args()
    plan = plan_of_arguments(arguments.overrides)
    if arguments.figure not in plan.figures():
        raise ConfigError(f"no figure '{arguments.figure}'; there is {', '.join(plan.figures())}")
    for file in draw(plan, arguments.figure, Path(plan.profile.results, "figures")):
        print(file)


if __name__ == "__main__":
    main()
