"""How far a plan's runs are, and how long the rest will take."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from pipeline.config.plan import FRACTION, Plan, PlannedRun
from pipeline.errors import RecordError
from pipeline.results import locks, records
from pipeline.results.progress import Progress, State, progress

TRAIN, SCORE = records.FILES


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        run: The run.
        state: How far it is.
        used: Seconds that its finished training and scoring took.
        parts: What is yet to do of `train` and `evaluate`, as fractions of the whole.
        elapsed: Seconds that a running one has been at it.
        problem: Why it failed.
    """

    run: PlannedRun
    state: State
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

    states: dict[State, int]
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
                for key in alike(run):
                    found[part, *key].append(seconds)
        return {key: fmean(values) for key, values in found.items()}

    def _to_go(self, one: RunStatus) -> float | None:
        total = 0.0
        for part, fraction in one.parts.items():
            known = next(
                (self._times[part, *key] for key in alike(one.run) if (part, *key) in self._times), None
            )
            if known is None:
                return None
            total += fraction * known
        return max(total - one.elapsed, 0.0)


def alike(run: PlannedRun) -> list[tuple[str, ...]]:
    """Returns what runs have in common that take about as long, the most alike first."""
    part = run.axes.get(FRACTION, "whole")
    return [(part, run.model, run.method, run.task), (part, run.model, run.method), (part, run.model)]


def _seconds(run: PlannedRun) -> dict[str, float]:
    """Returns what training and scoring took, where they came to a regular end."""
    ended = {part: records.read_ended(run.directory, part) for part in records.FILES}
    return {part: info.wall_time_seconds for part, info in ended.items() if info and info.done}


def _status(plan: Plan, run: PlannedRun, scored: bool) -> RunStatus:
    directory = Path(run.directory)
    found = progress(directory, run.config_hash)
    if not found.state.ended:
        return _unfinished(plan, run, found, scored)
    parts, used = {}, found.seconds or 0.0
    state = found.state
    if scored:
        try:
            score = records.read_evaluation(directory)
            if score.run_info.config_hash != run.evaluation_hash:
                raise RecordError(f"{directory / records.EVALUATION} is of another configuration")
            used += score.evaluation.wall_time_seconds
        except RecordError:
            parts = {SCORE: 1.0}
            state = State.TO_SCORE if state is State.DONE else state
    return RunStatus(run, state, used, parts, problem=found.problem)


def _unfinished(plan: Plan, run: PlannedRun, found: Progress, scored: bool) -> RunStatus:
    directory = Path(run.directory)
    parts = {TRAIN: 1 - found.step / found.steps if found.steps else 1.0, **({SCORE: 1.0} if scored else {})}
    if found.state is State.RUNNING:
        return RunStatus(run, State.RUNNING, 0.0, parts, elapsed=_age(directory / locks.NAME))
    problem = _last_error(plan, run)
    state = State.FAILED if problem and found.state is State.LEFT else found.state
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
