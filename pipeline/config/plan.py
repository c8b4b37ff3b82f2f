"""What there is to do: the runs of a profile's experiments, derived from conf/ for the Snakefile and the tables."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.config.experiment import Bar, Experiment, Halving, Plot, Setting, Statistics, Steps
from pipeline.config.paths import EVALUATION, RECORD, spell, subdir, unplaced
from pipeline.config.profile import Profile
from pipeline.errors import ConfigError, RecordError

ROOT = Path(__file__).parents[2]

# What of an experiment says when and under which heading it is made, and changes nothing in its table.
ORDERING = ("section", "heading", "priority")
# What a table follows from only where it is chosen: or tables without it would all be made anew.
OPTIONS = ("halving",)
PARTS: dict[str, type] = {"plot": Plot, "bar": Bar, "steps": Steps, "halving": Halving}  # of an experiment
FRACTION = "budget.fraction"  # the setting of a run that is made in part


@dataclass
class PlannedRun:
    """One run to do.

    Attributes:
        identity: What determines its weights, `RunConfig.identity()`; Snakemake trains it again when it changes.
        scoring: What determines its scores besides, of its task.
        overrides: What to put after `python -m pipeline.train`.
        axes: The values of the experiment's axes, or of its setting, whose label is `setting`.
        results: The profile's folder of results.
    """

    identity: dict[str, Any]
    scoring: dict[str, Any]
    overrides: list[str]
    axes: dict[str, str]
    results: str

    @cached_property
    def directory(self) -> str:
        """Where it lives, relative to the working directory."""
        about = (self.model, self.method, self.task, self.rank, self.lr)
        return f"{self.results}/{subdir(*about, unplaced(self.overrides), self.seed)}"

    @property
    def evaluation_identity(self) -> dict[str, Any]:
        """What determines its scores, `RunConfig.evaluation_identity()`."""
        return {"run": self.identity, "scoring": self.scoring}

    @property
    def config_hash(self) -> str:
        """What its record is marked with."""
        return files.fingerprint(self.identity)

    @property
    def evaluation_hash(self) -> str:
        """What its evaluation is marked with."""
        return files.fingerprint(self.evaluation_identity)

    @property
    def model(self) -> str:
        """The name of its model."""
        return str(self.identity["model"]["name"])

    @property
    def method(self) -> str:
        """The name of its method."""
        return str(self.identity["method"]["name"])

    @property
    def task(self) -> str:
        """The name of its task."""
        return str(self.identity["task"]["name"])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.identity["seed"])

    @property
    def rank(self) -> int | None:
        """The rank of its adapters, if it has any."""
        rank: int | None = self.identity["rank"]
        return rank

    @property
    def lr(self) -> float | None:
        """Its learning rate, if it trains."""
        lr: float | None = self.identity["lr"]
        return lr

    @property
    def repositories(self) -> list[str]:
        """The hub repositories that training reads, as `models/<id>` and `datasets/<id>`."""
        return [
            f"models/{self.identity['model']['repository']}",
            f"datasets/{self.identity['task']['repository']}",
        ]

    @property
    def benchmarks(self) -> list[str]:
        """Those that only scoring reads."""
        benchmark = self.scoring["benchmark"]
        return [f"datasets/{benchmark['repository']}"] if benchmark else []

    def with_lr(self, lr: float, tuned_by: str) -> "PlannedRun":
        """Returns the run with the learning rate that a search has chosen."""
        return replace(
            self,
            identity={**self.identity, "lr": float(lr)},
            overrides=[*self.overrides, f"lr={spell(lr)}", f"tuned_by={tuned_by}"],
        )

    def shortened(self, fraction: float) -> "PlannedRun":
        """Returns the run that makes only a fraction of its steps, as a search's first rung has it."""
        return replace(
            self,
            identity={**self.identity, "budget": {**self.identity["budget"], "fraction": fraction}},
            overrides=[*self.overrides, f"{FRACTION}={spell(fraction)}"],
            axes={**self.axes, FRACTION: spell(fraction)},
        )


@dataclass
class Plan:
    """The runs and experiments of a profile.

    Attributes:
        profile: Its settings.
        statistics: How methods are compared.
        experiments: Name to table or figure.
        grids: Experiment to its runs; those of a tuned experiment are yet to get their learning rate.
        models, methods, tasks: Name to labels, for the tables.
        mirror: Repositories of the mirror that the profile builds, to what they are built from, as JSON.
    """

    profile: Profile
    statistics: Statistics
    experiments: dict[str, Experiment]
    grids: dict[str, list[PlannedRun]]
    models: dict[str, dict[str, str]]
    methods: dict[str, dict[str, str]]
    tasks: dict[str, dict[str, str]]
    mirror: dict[str, str]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Plan":
        """Returns the plan that `asdict` has taken apart."""
        return cls(
            profile=Profile(**data["profile"]),
            statistics=Statistics(**data["statistics"]),
            experiments={name: _experiment(value) for name, value in data["experiments"].items()},
            grids={name: [PlannedRun(**run) for run in runs] for name, runs in data["grids"].items()},
            **{key: data[key] for key in ("models", "methods", "tasks", "mirror")},
        )

    @property
    def runs_folder(self) -> str:
        """The folder that all runs are below."""
        return f"{self.profile.results}/runs"

    @cached_property
    def candidates(self) -> dict[str, list[PlannedRun]]:
        """The runs that an experiment may take: a tuned one with each learning rate of its search."""
        found: dict[str, list[PlannedRun]] = {}
        for name, grid in self.grids.items():
            search = self.experiments[name].tuned_by
            found[name] = self.first_rung(name)
            for run in grid:
                rates = self._rates(search, run) if search else []
                found[name] += [run.with_lr(lr, search) for lr in rates] if search and rates else [run]
        return found

    @cached_property
    def runs(self) -> dict[str, PlannedRun]:
        """Every run that there may be, by directory."""
        return {run.directory: run for runs in self.candidates.values() for run in runs}

    def run(self, name: str) -> PlannedRun:
        """Returns a run by its path below `runs_folder`.

        Raises:
            ConfigError: No experiment of the profile has such a run.
        """
        try:
            return self.runs[f"{self.runs_folder}/{name}"]
        except KeyError:
            raise ConfigError(
                f"no experiment of profile {self.profile.name} has the run {name}; `python -m pipeline.train` trains "
                "any run by itself"
            ) from None

    def runs_of(self, experiment: str) -> list[PlannedRun]:
        """Returns an experiment's runs, with the learning rates that its search has chosen; of a search, the promoted.

        Raises:
            RecordError: The search, or its first rung, is not finished.
        """
        search = self.experiments[experiment].tuned_by
        grid = self.grids[experiment]
        if self.experiments[experiment].halving:
            promoted = files.read_json(Path(self.promotion(experiment)), ["promoted"])["promoted"]
            return [run for run in grid if run.lr in promoted.get(run.model, {}).get(run.method, [])]
        if search is None:
            return grid
        winners = files.read_json(Path(self.selection(search)), ["winners"])["winners"]
        return [
            run.with_lr(winners[run.model][run.method]["lr"], search)
            if run.method in winners.get(run.model, {})
            else run
            for run in grid
        ]

    def expected(self, experiment: str) -> list[PlannedRun]:
        """Returns all runs that an experiment takes, a search's first rung among them.

        While its search is to come, there are runs that stand for those that it will choose.
        """
        try:
            runs = self.runs_of(experiment)
        except RecordError:
            runs = self._stand_ins(experiment)
        return [*self.first_rung(experiment), *runs]

    def first_rung(self, experiment: str) -> list[PlannedRun]:
        """Returns the shortened runs of a search by halving, of which the best are made in full; else none."""
        halving = self.experiments[experiment].halving
        return [run.shortened(halving.fraction) for run in self.grids[experiment]] if halving else []

    def _stand_ins(self, experiment: str) -> list[PlannedRun]:
        """Returns runs that cost what those will that are not chosen yet."""
        grid, halving = self.grids[experiment], self.experiments[experiment].halving
        if halving is None:
            return grid
        return [run for run in grid if run.lr in self._rates(experiment, run)[: halving.keep]]

    def wanted(self, experiments: Iterable[str] | None = None) -> list[str]:
        """Returns the directories of all runs that experiments need, as far as their searches are finished.

        Args:
            experiments: None for all.
        """
        names = self.grids if experiments is None else experiments
        return list(dict.fromkeys(run.directory for name in names for run in self.expected(name)))

    def selection(self, search: str) -> str:
        """Returns the file with a search's winners."""
        return f"{self.profile.results}/search/{search}.json"

    def promotion(self, search: str) -> str:
        """Returns the file with the learning rates that a search by halving makes in full."""
        return f"{self.profile.results}/search/{search}.promoted.json"

    def searches_of(self, experiment: str) -> list[str]:
        """Returns the searches that must be finished before an experiment's runs are known."""
        experiments = self.experiments[experiment].compares or [experiment]
        found = [self.experiments[name].tuned_by for name in experiments if name in self.experiments]
        return sorted({search for search in found if search})

    def sources(self, experiment: str) -> list[str]:
        """Returns the files that an experiment's table or figure is made of."""
        described = self.experiments[experiment]
        if described.estimated:
            return [self.memory_file(experiment)]
        if described.compares:
            return [file for name in described.compares if name in self.grids for file in self.sources(name)]
        names = [RECORD, *([EVALUATION] if described.evaluated else [])]
        runs = [*self.first_rung(experiment), *self.runs_of(experiment)]
        return [f"{run.directory}/{name}" for run in runs for name in names]

    def _rates(self, search: str, run: PlannedRun) -> list[float]:
        """Returns the learning rates that a search tries for a run's model and method."""
        tried = [
            other.lr for other in self.grids[search] if (other.model, other.method) == (run.model, run.method)
        ]
        return sorted({lr for lr in tried if lr is not None})

    def memory_file(self, experiment: str) -> str:
        """Returns the file with what `pipeline.memory predict` says for an experiment without runs."""
        return f"{self.profile.results}/memory/{experiment}.csv"

    def figures(self) -> list[str]:
        """Returns the experiments that are drawn."""
        return [name for name, experiment in self.experiments.items() if experiment.drawn]

    def searches(self) -> list[str]:
        """Returns the experiments that choose for others."""
        return [name for name, experiment in self.experiments.items() if experiment.kind == "search"]

    def halved(self) -> list[str]:
        """Returns the searches of which a first rung spares most runs."""
        return [name for name, experiment in self.experiments.items() if experiment.halving]

    def tables(self) -> list[str]:
        """Returns the experiments that are tabulated."""
        return [name for name, experiment in self.experiments.items() if experiment.tabled]

    def mirrored(self, repositories: Iterable[str]) -> list[str]:
        """Returns those of some repositories that are to be built in the profile's own mirror."""
        return [repository for repository in repositories if repository in self.mirror]

    def mirror_needs(self, repository: str) -> list[str]:
        """Returns the repositories of the mirror that one of them is made of."""
        return json.loads(self.mirror[repository])[0]["needs"]

    def _named(self, experiment: str) -> set[str]:
        """Returns the models, methods and tasks of an experiment's runs."""
        return {name for run in self.grids[experiment] for name in (run.model, run.method, run.task)}

    def layout(self, experiment: str) -> str:
        """Returns what a table follows from besides its records, as JSON; Snakemake makes it anew when it changes."""
        described = self.experiments[experiment]
        words = [
            {name: of[name] for name in of if described.compares or name in self._named(experiment)}
            for of in (self.models, self.methods, self.tasks)
        ]
        judged = asdict(self.statistics) if described.evaluated or described.compares else None
        shown = {
            key: value
            for key, value in asdict(described).items()
            if key not in ORDERING and (value or key not in OPTIONS)
        }
        return json.dumps(
            [shown, *words, judged, _published(described), *_measured(described)], sort_keys=True
        )


def _experiment(data: dict[str, Any]) -> Experiment:
    settings = {label: Setting(**setting) for label, setting in data["settings"].items()}
    parts = {key: kind(**data[key]) for key, kind in PARTS.items() if data[key]}
    return Experiment(**{**data, "settings": settings, **parts})


def _published(experiment: Experiment) -> str | None:
    """Returns a hash of the published numbers beside an experiment's own; a figure may have none but its picture."""
    file = ROOT / experiment.reference
    return files.sha256(file) if file.is_file() else None


def _measured(experiment: Experiment) -> list[str]:
    """Returns hashes of what GPUs have measured: tables of memory have columns for it."""
    found = (ROOT / "results/gpu").glob("*.json") if experiment.kind == "memory" else ()
    return [files.sha256(file) for file in sorted(found)]
