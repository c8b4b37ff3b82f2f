"""Says how far a search is, or searches with Optuna.

  python -m pipeline.search status                              every experiment, as pipeline.status shows them
  python -m pipeline.search status table2 profile=mini          one experiment, one line for each combination
  python -m pipeline.search status table2 --json                the same for programs
  python -m pipeline.search optuna task=mrpc method=lora-fa rank=1,2,4,8 'lr=interval(5e-5,5e-3)' --trials 20

A run is done, running (a process holds its lock), failed (the loss diverged or memory ran out, which is a result),
interrupted (it has a checkpoint to go on from) or left. It does not matter who trains it: Snakemake, a sweep by
hand with `python -m pipeline.train -m` and Optuna's trials share one tree of results.
"""

import argparse
import json
import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import status
from pipeline.cli import command_line, job
from pipeline.config.metrics import METRICS
from pipeline.config.plan import Plan, PlannedRun
from pipeline.config.planner import plan_of_arguments
from pipeline.errors import ConfigError, unknown
from pipeline.results.progress import STATES, progress
from pipeline.worker import Worker


@dataclass
class Cell:
    """One combination of an experiment's grid.

    Attributes:
        model, method, task: What is trained on what.
        axes: The values of the experiment's axes.
        states: State to number of seeds.
        metric: What `score` is.
        score: Mean over seeds of the best score so far; None before the first evaluation.
        best: Whether none of the same model, method and task is better.
        problems: Why seeds failed.
    """

    model: str
    method: str
    task: str
    axes: dict[str, str]
    states: dict[str, int]
    metric: str
    score: float | None
    problems: list[str]
    best: bool = False

    @property
    def row(self) -> tuple[str, str, str]:
        """What is compared: cells of one row differ in their axes alone."""
        return self.model, self.method, self.task


def cells(plan: Plan, experiment: str) -> list[Cell]:
    """Looks at every run of an experiment and returns its grid, seeds taken together.

    Raises:
        ConfigError: There is no such experiment, or it has no runs.
    """
    with_runs = [name for name, runs in plan.grids.items() if runs]
    if experiment not in with_runs:
        raise ConfigError(unknown("experiment with runs", experiment, with_runs))
    groups: dict[str, list[PlannedRun]] = {}
    for run in plan.expected(experiment):
        groups.setdefault(json.dumps([run.model, run.method, run.task, run.axes]), []).append(run)
    result = [_cell(runs) for runs in groups.values()]
    for row in {cell.row for cell in result}:
        scored = [cell for cell in result if cell.row == row and cell.score is not None]
        if len(scored) > 1:
            METRICS[scored[0].metric].best(scored, key=lambda cell: cell.score).best = True
    return result


def _cell(runs: list[PlannedRun]) -> Cell:
    found = [progress(Path(run.directory), run.config_hash) for run in runs]
    metric = runs[0].identity["task"]["metric"]
    scores = [score for one in found if (score := one.best(metric)) is not None]
    return Cell(
        model=runs[0].model,
        method=runs[0].method,
        task=runs[0].task,
        axes=runs[0].axes,
        states=dict(Counter(one.state for one in found)),
        metric=metric,
        score=statistics.mean(scores) if scores else None,
        problems=[one.problem for one in found if one.problem],
    )


def totals(grid: list[Cell]) -> dict[str, int]:
    """Returns how many runs of a grid are in each state."""
    return {state: sum(cell.states.get(state, 0) for cell in grid) for state in STATES}


def _grid_table(grid: list[Cell], title: str) -> Table:
    axes = list(dict.fromkeys(axis for cell in grid for axis in cell.axes))
    table = Table("model", "method", "task", *axes, "runs", "score", title=title)
    previous = grid[0].row
    for cell in grid:
        if cell.row != previous:
            table.add_section()
        previous = cell.row
        score = "" if cell.score is None else f"{cell.metric} {cell.score:.4f}{' ←' if cell.best else ''}"
        states = ", ".join(f"{count} {state}" for state, count in cell.states.items())
        table.add_row(
            *cell.row,
            *(cell.axes.get(axis, "") for axis in axes),
            "; ".join([states, *dict.fromkeys(cell.problems)]),
            score,
            style="bold" if cell.best else None,
        )
    table.caption = ", ".join(f"{count} {state}" for state, count in totals(grid).items())
    return table


def _status(arguments: argparse.Namespace) -> None:
    names = [word for word in arguments.words if "=" not in word]
    plan = plan_of_arguments([word for word in arguments.words if "=" in word])
    if len(names) > 1:
        raise ConfigError(f"one experiment at a time, not {' and '.join(names)}")
    if arguments.json:
        chosen = names or [name for name, runs in plan.grids.items() if runs]
        grids = {name: cells(plan, name) for name in chosen}
        print(
            json.dumps(
                {
                    name: {"runs": totals(grid), "cells": [asdict(cell) for cell in grid]}
                    for name, grid in grids.items()
                },
                indent=1,
            )
        )
        return
    Console().print(
        _grid_table(cells(plan, names[0]), plan.experiments[names[0]].title) if names else status.table(plan)
    )


def _optuna(arguments: argparse.Namespace) -> None:
    try:
        from pipeline import tune
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; it comes with: pip install -e '.[sweep]'"
        ) from error

    worker = Worker(preload=("pipeline.training.fit", "pipeline.results.provenance", "hydra.main"))
    worker.start()
    try:
        study = tune.search(arguments.words, arguments.trials, arguments.jobs, arguments.sampler_seed)
    finally:
        worker.stop()
    Console().print(tune.table(study))


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.search", __doc__)
    commands = parser.add_subparsers(required=True)
    state = commands.add_parser("status", help="what of an experiment is done, running, failed and left")
    state.add_argument(
        "words",
        nargs="*",
        metavar="EXPERIMENT profile=NAME",
        help="a file of conf/experiment, and overrides for every run",
    )
    state.add_argument("--json", action="store_true", help="for programs")
    state.set_defaults(run=_status)
    optuna = commands.add_parser("optuna", help="search by Optuna's TPE; runs below the median are stopped")
    optuna.add_argument(
        "words",
        nargs="+",
        metavar="OVERRIDE",
        help="as for pipeline.train: a,b,c or 'interval(a,b)' is searched, a=b is fixed",
    )
    optuna.add_argument("--trials", type=int, default=20, help="how many runs to try (default: %(default)s)")
    optuna.add_argument("--jobs", type=int, default=1, help="how many at a time (default: %(default)s)")
    optuna.add_argument("--sampler-seed", type=int, default=0, help="of the search, not of the runs")
    optuna.set_defaults(run=_optuna)
    arguments, rest = parser.parse_known_args()  # which leaves words behind an option
    if any(word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.words += rest
    arguments.run(arguments)


if __name__ == "__main__":
    main()
