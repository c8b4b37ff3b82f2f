"""How far the jobs of a DAG are: runs done and left of each experiment, and the time that the rest will take."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pipeline.config.metrics import METRICS, in_points
from pipeline.config.plan import Plan, PlannedRun
from pipeline.results import records
from pipeline.results.records import Ended, Evaluation, TrainInfo
from pipeline.results.status import alike

OTHERS = {
    "repository": "Models and data",
    "memory": "Memory estimates",
    "table": "Tables and figures",
    "figure": "Tables and figures",
}


@dataclass(frozen=True)
class Line:
    """How far a part of the work is.

    Attributes:
        title: What it is.
        done: Runs, or jobs.
        total: Of so many.
        unit: "runs", or empty for jobs.
        seconds: Until it is done, with as many runs at a time as there may be; None where that is not known.
    """

    title: str
    done: int
    total: int
    unit: str = ""
    seconds: float | None = None


class Tally:
    """Counts what is done.

    Args:
        plan: The profile's plan.
        at_a_time: How many runs there are at a time.
        jobs: Those that are to be done: the name of their rule, and their wildcards.
    """

    def __init__(self, plan: Plan, at_a_time: int, jobs: Iterable[tuple[str, dict[str, str]]]) -> None:
        self._plan, self._at_a_time = plan, at_a_time
        self._pending: set[str] = set()
        self._there: dict[str, bool] = {}
        self._others: dict[str, list[int]] = {}
        self._times: dict[tuple[str, ...], list[float]] = defaultdict(list)
        names: set[str] = set()
        for rule, wildcards in jobs:
            if rule in records.FILES:
                self._pending.add(self._file(rule, wildcards["run"]))
            elif rule in OTHERS:
                self._others.setdefault(OTHERS[rule], [0, 0])[1] += 1
            names |= experiments_in(wildcards)
        found = [name for name in plan.experiments if name in names and plan.grids[name]]
        self.experiments = sorted(found, key=lambda name: -plan.experiments[name].priority)
        self._runs = {name: plan.expected(name) for name in self.experiments}
        finished = {run.directory: run for runs in self._runs.values() for run in runs}
        for run in finished.values():
            for part, name in records.FILES.items():
                if self._is_there(f"{run.directory}/{name}"):
                    self._learn(run, part, records.read_ended(run.directory, part))

    def start(self, rule: str, wildcards: dict[str, str]) -> None:
        """Notes that a job begins: what it makes is not there, or no longer good."""
        if rule in records.FILES:
            self._pending.add(self._file(rule, wildcards["run"]))

    def finish(self, rule: str, wildcards: dict[str, str]) -> str | None:
        """Notes that a job is done; returns what a run came to, in one line."""
        if rule in OTHERS and OTHERS[rule] in self._others:
            count = self._others[OTHERS[rule]]
            count[0] += 1
            count[1] = max(count)
        if rule in ("promote", "select"):
            self._runs = {name: self._plan.expected(name) for name in self.experiments}
        if rule not in records.FILES:
            return None
        file = self._file(rule, wildcards["run"])
        self._pending.discard(file)
        self._there[file] = True
        run = self._plan.run(wildcards["run"])
        info = records.read_ended(run.directory, rule)
        self._learn(run, rule, info)
        return f"{named(run)}: {outcome(run, info)}"

    def name(self, rule: str, wildcards: dict[str, str]) -> str:
        """Returns what people call a job."""
        if rule in records.FILES:
            scored = "scoring " if rule == "evaluate" else ""
            return scored + named(self._plan.run(wildcards["run"]))
        return " ".join([rule, *wildcards.values()])

    def lines(self) -> list[Line]:
        """Returns how far everything is, in the order in which it is made."""
        others = [Line(title, done, total) for title, (done, total) in self._others.items()]
        return [*others, *(self.line(name) for name in self.experiments)]

    def line(self, experiment: str) -> Line:
        """Returns how far the runs of an experiment are."""
        runs = self._runs[experiment]
        done = sum(not any(True for _ in self._left(run, experiment)) for run in runs)
        title = self._plan.experiments[experiment].title
        return Line(title, done, len(runs), "runs", self._to_go([experiment]))

    def line_of(self, run: str) -> Line | None:
        """Returns the line of the first experiment that has a run, given by its path below `Plan.runs_folder`."""
        directory = f"{self._plan.runs_folder}/{run}"
        for name in self.experiments:
            if any(one.directory == directory for one in self._runs[name]):
                return self.line(name)
        return None

    def total(self) -> Line:
        """Returns how far all runs are; one of several experiments counts once."""
        left = {}
        runs: dict[str, PlannedRun] = {}
        for name in self.experiments:
            for run in self._runs[name]:
                runs[run.directory] = run
                if any(True for _ in self._left(run, name)):
                    left[run.directory] = run
        return Line("All runs", len(runs) - len(left), len(runs), "runs", self._to_go(self.experiments))

    def _file(self, rule: str, run: str) -> str:
        return f"{self._plan.runs_folder}/{run}/{records.FILES[rule]}"

    def _is_there(self, file: str) -> bool:
        if file not in self._there:
            self._there[file] = Path(file).is_file()
        return self._there[file] and file not in self._pending

    def _left(self, run: PlannedRun, experiment: str) -> Iterator[str]:
        """Yields what is yet to do of a run, as rules."""
        for part in records.FILES if self._plan.experiments[experiment].evaluated else ["train"]:
            if not self._is_there(f"{run.directory}/{records.FILES[part]}"):
                yield part

    def _to_go(self, experiments: list[str]) -> float | None:
        left = {
            (run.directory, part): run
            for name in experiments
            for run in self._runs[name]
            for part in self._left(run, name)
        }
        total = 0.0
        for (_, part), run in left.items():
            known = next((self._times[key] for key in _keys(part, run) if key in self._times), None)
            if known is None and part == "train":
                return None
            total += median(known) if known else 0.0  # scoring is short beside training
        return total / self._at_a_time

    def _learn(self, run: PlannedRun, part: str, info: Ended | None) -> None:
        if info is not None and info.done:
            for key in _keys(part, run):
                self._times[key].append(info.wall_time_seconds)


def _keys(part: str, run: PlannedRun) -> list[tuple[str, ...]]:
    return [(part, *key) for key in alike(run)]


def experiments_in(wildcards: Mapping[str, str]) -> set[str]:
    """Returns the experiment of which a job makes a table, a figure or a choice, if it does."""
    return {wildcards[key] for key in ("table", "figure", "search") if key in wildcards}


def named(run: PlannedRun) -> str:
    """Returns what people call a run: minilm lora-fa sst2 lr 2e-3 seed 0."""
    axes = [f"{key.split('.')[-1]} {value}" for key, value in run.axes.items() if key != "setting"]
    return " ".join([run.model, run.method, run.task, *axes, f"seed {run.seed}"])


def outcome(run: PlannedRun, info: Ended | None) -> str:
    """Returns what a run's training or scoring came to: accuracy 84.8, 31 s."""
    if info is None:
        return "no record"
    seconds = f"{info.wall_time_seconds:.0f} s"
    if not info.done:
        return f"{info.status.replace('_', ' ')}, {seconds}"
    if isinstance(info, Evaluation):
        scores = in_points(info.scores, run.identity["task"]["metric"])
        shown = [f"{_words(name)} {value:.1f}" for name, value in scores.items()]
        return f"scored, {', '.join([*shown[:3], seconds])}"
    if not isinstance(info, TrainInfo) or info.best is None or info.best.score is None:
        return seconds
    known = METRICS[info.metric]
    return f"{_words(info.metric)} {known.points(info.best.score):.{known.digits}f}, {seconds}"


def _words(metric: str) -> str:
    return metric.replace("_", " ")
