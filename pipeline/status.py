"""Says what of a target is done, what went wrong, and how long the rest will take.

  python -m pipeline.status                                  every experiment of the mini profile, one line each
  python -m pipeline.status tables profile=paper             the paper's tables (or figures, rebuttal)
  python -m pipeline.status table2 --price-per-hour 1.80     one experiment and the search that it waits for
  python -m pipeline.status figure6 --json                   the same for programs
  python -m pipeline.status search --grid                    its combinations, each with its score, the best marked
  python -m pipeline.status --sweep task=mrpc rank=1,2,4     the same of a sweep by hand, in the words that started it

A run is done (trained and, where its table needs it, scored), to score, running (a process holds its lock), diverged
or out of memory (results, too), failed (it broke off with an error and left no record), interrupted (it has a
checkpoint to go on from) or left. The time to go is the mean of finished runs of the same model, method and task,
or else of the model and method, or else of the model; without any of these it is unknown. Making models and data,
tables and memory estimates is not counted. Who trains a run, Snakemake, a sweep or a search, does not matter.
"""

import json
import math
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.cli import command_line, job
from pipeline.config.plan import Plan
from pipeline.config.planner import plan_of_arguments
from pipeline.config.targets import TARGETS, experiments_of
from pipeline.errors import ConfigError, unknown
from pipeline.results import grid, records
from pipeline.results.progress import State
from pipeline.results.status import Line, RunStatus, Status

TOTAL = "all"


def chosen(plan: Plan, target: str | None) -> list[str]:
    """Returns the experiments that a target consists of, with the searches and experiments that they wait for.

    Args:
        plan: The profile's plan.
        target: One of `TARGETS`, an experiment or the file of its table or figure; None for everything.

    Raises:
        ConfigError: There is no such target.
    """
    if target is not None and "/" in target:
        target = Path(target).stem
    if target is None or target in TARGETS:
        wanted = experiments_of(plan, target or "all")
    elif target in plan.experiments:
        wanted = [*plan.experiments[target].compares, target]
    else:
        raise ConfigError(unknown("target", target, [*TARGETS, *plan.experiments]))
    wanted = [name for name in wanted if name in plan.experiments]
    return list(dict.fromkeys(name for one in wanted for name in [*plan.searches_of(one), one]))


def table(plan: Plan, target: str | None = None, price: float | None = None, jobs: int = 1) -> Table:
    """Lays a target out, one line an experiment; an experiment by itself has a line for each model and method.

    Args:
        plan: The profile's plan.
        target: An experiment, one of `TARGETS`; None for all.
        price: Of one run's machine for an hour; None to leave the costs out.
        jobs: Runs at a time.

    Raises:
        ConfigError: There is no such target.
    """
    status, runs, total = _survey(plan, target)
    shown = [state for state in State if total.states.get(state) or state in (State.DONE, State.LEFT)]
    costs = ["cost", "cost to go"] if price is not None else []
    columns = (*(state.words for state in shown), "used", "to go", *costs, "made")
    result = experiments_table(plan, target, target or "experiment", columns)

    def add(name: str, line: Line, style: str | None = None) -> None:
        counts = [str(line.states.get(state, "")) for state in shown]
        cost = [_money(_cost(seconds, price)) for seconds in (line.used, line.to_go)][: len(costs)]
        made = {None: "", True: "yes", False: "no"}[line.made]
        result.add_row(
            name, *counts, spell_time(line.used) if line.used else "", _left(line), *cost, made, style=style
        )

    for name, found in runs.items():
        add(name, status.line(found, status.made(name)))
        for label, part in _groups(found) if name == target else []:
            add(f"  {label}", status.line(part), "dim")
    result.add_section()
    add(TOTAL, total, "bold")
    result.caption = "\n".join([_caption(total, runs, jobs), *open_choices(plan, runs)])
    return result


def open_choices(plan: Plan, experiments: Iterable[str]) -> list[str]:
    """Returns what is not known of searches by halving until their first rungs are finished, a sentence for each."""
    words = []
    for name in experiments:
        halving, tried = plan.experiments[name].halving, len(plan.grids[name])
        if halving is not None and not Path(plan.promotion(name)).is_file():
            words.append(
                f"{name}: {tried} runs make {halving.fraction:g} of their steps, and the best {halving.keep} of each "
                f"model and method, {len(plan.expected(name)) - tried} runs, are then made in full; with what equals "
                f"the last of these, at most {tried}."
            )
    return words


def experiments_table(plan: Plan, target: str | None, first: str, numbers: Iterable[str]) -> Table:
    """Returns an empty table of a target's experiments: a column for their names, and columns of numbers."""
    title = f"Profile {plan.profile.name}: {target or 'everything'}"
    found = Table(first, title=title, box=box.SIMPLE_HEAD)
    found.columns[0].no_wrap = True
    for heading in numbers:
        found.add_column(heading, justify="right")
    return found


def _survey(plan: Plan, target: str | None) -> tuple[Status, dict[str, list[RunStatus]], Line]:
    """Looks at a target; returns the look, the runs of its experiments, and all of them together."""
    status = Status(plan)
    runs = {name: status.runs(name) for name in chosen(plan, target)}
    return status, runs, status.line(one for found in runs.values() for one in found)


def _failed(runs: dict[str, list[RunStatus]]) -> dict[str, str | None]:
    """Returns why runs failed, by directory."""
    return {
        one.run.directory: one.problem
        for found in runs.values()
        for one in found
        if one.state is State.FAILED
    }


def _caption(total: Line, runs: dict[str, list[RunStatus]], jobs: int) -> str:
    words = []
    if total.to_go or not total.unknown:
        words.append(f"{spell_time(total.to_go / jobs)} to go, {jobs} run{'s' * (jobs > 1)} at a time.")
    if total.unknown:
        words.append(f"{total.unknown} runs to go are of unknown length: none of their model has finished.")
    words += [f"\n{directory}: {problem}" for directory, problem in list(_failed(runs).items())[:5]]
    return " ".join(words)


def _groups(runs: list[RunStatus]) -> list[tuple[str, list[RunStatus]]]:
    groups: dict[str, list[RunStatus]] = {}
    for one in runs:
        groups.setdefault(f"{one.run.model}, {one.run.method}", []).append(one)
    return list(groups.items())


def facts(plan: Plan, target: str | None, price: float | None, jobs: int) -> dict[str, Any]:
    """Returns what `table` shows, as plain data; seconds and costs are numbers.

    Raises:
        ConfigError: There is no such target.
    """
    status, runs, total = _survey(plan, target)

    def described(line: Line) -> dict[str, Any]:
        cost = {"used": _cost(line.used, price), "to_go": _cost(line.to_go, price)}
        return {
            "runs": {state: line.states.get(state, 0) for state in State},
            "used_seconds": line.used,
            "to_go_seconds": line.to_go,
            "runs_of_unknown_length": line.unknown,
            "cost": cost if price is not None else None,
        }

    return {
        "profile": plan.profile.name,
        "target": target,
        **described(total),
        "wall_seconds_to_go": total.to_go / jobs,
        "experiments": {
            name: {**described(status.line(found)), "made": status.made(name)} for name, found in runs.items()
        },
        "failed": _failed(runs),
    }


def spell_time(seconds: float) -> str:
    """Returns a time as people say it: 12 min 05 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _left(line: Line) -> str:
    if not line.unknown:
        return spell_time(line.to_go) if line.states else ""
    return f"{spell_time(line.to_go)} + ?" if line.to_go else "?"


def _cost(seconds: float, price: float | None) -> float | None:
    return None if price is None else price * seconds / 3600


def _money(cost: float | None) -> str:
    return f"{cost:.2f}" if cost else ""


def summary(plan: Plan, started: float, experiments: Iterable[str]) -> str:
    """Returns one line for the end of a DAG run: runs done now, runs reused, wall time, and where the tables are.

    Args:
        plan: The profile's plan.
        started: When the DAG run began, in seconds since the epoch.
        experiments: Those that it was asked for.
    """
    wanted = plan.wanted(experiments)
    finished = [path.stat().st_mtime for name in wanted if (path := Path(name, records.NAME)).exists()]
    done = sum(modified >= started for modified in finished)
    minutes, seconds = divmod(round(time.time() - started), 60)
    return (
        f"Profile {plan.profile.name}: {done} runs done in {minutes} min {seconds} s, {len(finished) - done} reused, "
        f"{len(wanted) - len(finished)} left. The tables are in {plan.profile.results}/tables."
    )


def command_line_of(parser: ArgumentParser) -> tuple[Namespace, str | None, list[str]]:
    """Reads a command line of a target, overrides and a price among other options.

    Returns:
        The options; the target, None for everything; and the overrides.

    Raises:
        ConfigError: There are two targets, or the price is none.
    """
    parser.add_argument(
        "words",
        nargs="*",
        metavar="TARGET profile=NAME",
        help=f"{', '.join(TARGETS)} or a file of conf/experiment, and overrides for every run",
    )
    parser.add_argument("--price-per-hour", type=float, help="of the machine or GPU that one run uses")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments, rest = parser.parse_known_args()  # which leaves words behind an option
    if any(word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    words = [*arguments.words, *rest]
    targets = [word for word in words if "=" not in word]
    price = arguments.price_per_hour
    if len(targets) > 1:
        raise ConfigError(f"one target at a time, not {' and '.join(targets)}")
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise ConfigError(f"--price-per-hour must be a number that is not negative, not {price:g}")
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, not {arguments.jobs}")
    return arguments, targets[0] if targets else None, [word for word in words if "=" in word]


def _show_grid(arguments: Namespace, target: str | None, overrides: list[str]) -> None:
    if arguments.sweep:
        if target is not None:
            raise ConfigError(f"--sweep takes overrides alone, not {target}")
        title, runs = "Sweep", grid.sweep(overrides)
    else:
        plan = plan_of_arguments(overrides)
        with_runs = [name for name, found in plan.grids.items() if found]
        if target not in with_runs:
            raise ConfigError(unknown("experiment with runs", str(target), with_runs))
        title, runs = plan.experiments[target].title, plan.expected(target)
    cells = grid.cells(runs)
    if arguments.json:
        print(json.dumps({"runs": grid.totals(cells), "cells": [asdict(cell) for cell in cells]}, indent=1))
    else:
        Console().print(grid.table(cells, title))


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.status", __doc__)
    parser.add_argument("--grid", action="store_true", help="the combinations of one experiment, with scores")
    parser.add_argument(
        "--sweep", action="store_true", help="of the runs that `pipeline.train -m` would train"
    )
    arguments, target, overrides = command_line_of(parser)
    if arguments.sweep or arguments.grid:
        _show_grid(arguments, target, overrides)
        return
    plan, price = plan_of_arguments(overrides), arguments.price_per_hour
    if arguments.json:
        print(json.dumps(facts(plan, target, price, arguments.jobs), indent=1))
    else:
        Console().print(table(plan, target, price, arguments.jobs))


if __name__ == "__main__":
    main()
