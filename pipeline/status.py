"""Says what of a target is done, what went wrong, and how long the rest will take.

  python -m pipeline.status                                  every experiment of the mini profile, one line each
  python -m pipeline.status tables profile=paper             the paper's tables (or figures, rebuttal)
  python -m pipeline.status table2 --price-per-hour 1.80     one experiment and the search that it waits for
  python -m pipeline.status figure6 --json                   the same for programs

A run is done (trained and, where its table needs it, scored), to score, running (a process holds its lock), diverged
or out of memory (results, too), failed (it broke off with an error and left no record), interrupted (it has a
checkpoint to go on from) or left. The time to go is the mean of finished runs of the same model, method and task,
or else of the model and method, or else of the model; without any of these it is unknown. Making models and data,
tables and memory estimates is not counted. `python -m pipeline.search status EXPERIMENT` shows the scores so far.
"""

import json
import math
import time
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline import locks, records
from pipeline.dag import Plan, PlannedRun, plan_of_arguments
from pipeline.errors import ConfigError, RecordError
from pipeline.job import command_line, job
from pipeline.progress import FAILED, INTERRUPTED, LEFT, RUNNING, Progress, progress
from pipeline.targets import TARGETS, experiments_of

TO_SCORE = "to score"
STATES = {
    records.DONE: "done",
    TO_SCORE: "to score",
    RUNNING: "running",
    records.DIVERGED: "diverged",
    records.OUT_OF_MEMORY: "out of memory",
    FAILED: "failed",
    INTERRUPTED: "interrupted",
    LEFT: "left",
}
TRAIN, SCORE = "train", "score"
TOTAL = "all"


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        run: The run.
        state: A key of `STATES`.
        used: Seconds that its finished training and scoring took.
        parts: What is yet to do of `train` and `score`, as fractions of the whole.
        elapsed: Seconds that a running one has been at it.
        problem: Why it failed.
    """

    run: PlannedRun
    state: str
    used: float
    parts: dict[str, float]
    elapsed: float = 0.0
    problem: str | None = None


@dataclass(frozen=True)
class Line:
    """Some runs together.

    Attributes:
        states: State to number of runs, of those that there are.
        used: Seconds, of all finished work.
        to_go: Seconds, of what can be estimated, one run after the other.
        unknown: How many unfinished runs cannot be estimated.
        made: Whether the table and figure are there; None where there is none.
    """

    states: dict[str, int]
    used: float
    to_go: float
    unknown: int
    made: bool | None = None


class Status:
    """A look at a plan's runs; each is looked at once.

    Args:
        plan: The profile's plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._seen: dict[tuple[str, bool], RunStatus] = {}

    def runs(self, experiment: str) -> list[RunStatus]:
        """Returns an experiment's runs; those of its search are not among them."""
        scored = self.plan.experiments[experiment].evaluated
        return [self._look(run, scored) for run in self.plan.expected(experiment)]

    def line(self, runs: Iterable[RunStatus], made: bool | None = None) -> Line:
        """Adds runs up; one that several experiments share counts once, and as unscored where one of them scores."""
        once: dict[str, RunStatus] = {}
        for one in runs:
            known = once.get(one.run.directory)
            if known is None or sum(one.parts.values()) >= sum(known.parts.values()):
                once[one.run.directory] = one
        estimates = [self._to_go(one) for one in once.values()]
        return Line(
            states=dict(Counter(one.state for one in once.values())),
            used=sum(one.used for one in once.values()),
            to_go=sum(seconds for seconds in estimates if seconds is not None),
            unknown=sum(seconds is None for seconds in estimates),
            made=made,
        )

    def made(self, experiment: str) -> bool | None:
        """Says whether an experiment's table and figure have been written."""
        described, results = self.plan.experiments[experiment], Path(self.plan.profile.results)
        files = [results / "tables" / f"{experiment}.md"] if described.tabled else []
        files += [results / "figures" / f"{experiment}.svg"] if described.drawn else []
        return all(file.is_file() for file in files) if files else None

    def _look(self, run: PlannedRun, scored: bool) -> RunStatus:
        key = run.directory, scored
        if key not in self._seen:
            self._seen[key] = _status(self.plan, run, scored)
        return self._seen[key]

    @cached_property
    def _times(self) -> dict[tuple[str, ...], float]:
        """Mean seconds by part and model, method and task; by part, model and method; by part and model."""
        found: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for run in self.plan.runs.values():
            for part, seconds in _seconds(run).items():
                for key in _keys(run):
                    found[part, *key].append(seconds)
        return {key: fmean(values) for key, values in found.items()}

    def _to_go(self, one: RunStatus) -> float | None:
        total = 0.0
        for part, fraction in one.parts.items():
            known = next(
                (self._times[part, *key] for key in _keys(one.run) if (part, *key) in self._times), None
            )
            if known is None:
                return None
            total += fraction * known
        return max(total - one.elapsed, 0.0)


def _keys(run: PlannedRun) -> list[tuple[str, ...]]:
    return [(run.model, run.method, run.task), (run.model, run.method), (run.model,)]


def _seconds(run: PlannedRun) -> dict[str, float]:
    """Returns what training and scoring took, where they came to a regular end."""
    found = {}
    for part, name, section in (
        (TRAIN, records.NAME, "train_info"),
        (SCORE, records.EVALUATION, "evaluation"),
    ):
        try:
            info = records.read(Path(run.directory, name), [section])[section]
        except RecordError:
            continue
        if info["status"] == records.DONE and "wall_time_seconds" in info:
            found[part] = info["wall_time_seconds"]
    return found


def _status(plan: Plan, run: PlannedRun, scored: bool) -> RunStatus:
    directory = Path(run.directory)
    found = progress(directory, json.loads(run.identity))
    if found.status is None:
        return _unfinished(plan, run, found, scored)
    evaluation = directory / records.EVALUATION
    parts, used = {}, found.seconds or 0.0
    state = found.status
    if scored:
        try:
            score = records.read_evaluation(directory)
            current = records.fingerprint(json.loads(run.evaluation_identity))
            if score["run_info"].get("config_hash") != current:
                raise RecordError(f"{evaluation} is of another configuration")
            used += score["evaluation"].get("wall_time_seconds", 0.0)
        except RecordError:
            parts = {SCORE: 1.0}
            state = TO_SCORE if state == records.DONE else state
    return RunStatus(run, state, used, parts, problem=found.problem)


def _unfinished(plan: Plan, run: PlannedRun, found: Progress, scored: bool) -> RunStatus:
    directory = Path(run.directory)
    parts = {TRAIN: 1 - found.step / found.steps if found.steps else 1.0, **({SCORE: 1.0} if scored else {})}
    if found.state == RUNNING:
        return RunStatus(run, RUNNING, 0.0, parts, elapsed=_age(directory / locks.NAME))
    problem = _last_error(plan, run)
    state = FAILED if problem and found.state == LEFT else found.state
    return RunStatus(run, state, 0.0, parts, problem=problem)


def _age(path: Path) -> float:
    try:
        return max(time.time() - path.stat().st_mtime, 0.0)
    except FileNotFoundError:  # the run has just ended
        return 0.0


def _last_error(plan: Plan, run: PlannedRun) -> str | None:
    """Returns the error that the rule `train` left in a run's log."""
    name = run.directory.removeprefix(f"{plan.runs_folder}/")
    try:
        lines = Path(plan.profile.results, "logs", f"{name}.log").read_text(errors="replace").splitlines()
    except OSError:
        return None
    if any(line.startswith("Traceback ") for line in lines):
        return lines[-1]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else None


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
        raise ConfigError(f"no target '{target}'; there is {', '.join([*TARGETS, *plan.experiments])}")
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
    shown = [state for state in STATES if total.states.get(state) or state in (records.DONE, LEFT)]
    costs = ["cost", "cost to go"] if price is not None else []
    columns = (*(STATES[state] for state in shown), "used", "to go", *costs, "made")
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
    result.caption = _caption(total, runs, jobs)
    return result


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
    return {one.run.directory: one.problem for found in runs.values() for one in found if one.state == FAILED}


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
            "runs": {state: line.states.get(state, 0) for state in STATES},
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


def summary(plan: Plan, started: float) -> str:
    """Returns one line for the end of a DAG run: runs done now, runs reused, wall time, and where the tables are.

    Args:
        plan: The profile's plan.
        started: When the DAG run began, in seconds since the epoch.
    """
    wanted = plan.wanted()
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
        help="tables, figures, rebuttal, all or a file of conf/experiment, and overrides for every run",
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


@job
def main() -> None:
    """Runs the command line."""
    arguments, target, overrides = command_line_of(command_line("pipeline.status", __doc__))
    plan, price = plan_of_arguments(overrides), arguments.price_per_hour
    if arguments.json:
        print(json.dumps(facts(plan, target, price, arguments.jobs), indent=1))
    else:
        Console().print(table(plan, target, price, arguments.jobs))


if __name__ == "__main__":
    main()
