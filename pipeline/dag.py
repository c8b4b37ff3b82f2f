"""What there is to do: the runs of a profile's experiments, derived from conf/ for the Snakefile and the tables."""

import hashlib
import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline import precision, records
from pipeline.assets.mirror import read_config
from pipeline.config import CONF, compose_experiments, compose_run, problems
from pipeline.errors import ConfigError, RecordError
from pipeline.runs import paper_alpha, spell, subdir, unplaced
from pipeline.schema import (
    WITHOUT_RUNS,
    Bar,
    Experiment,
    Method,
    Model,
    Plot,
    Profile,
    RunConfig,
    Setting,
    Statistics,
    Task,
)

ROOT = Path(__file__).parents[1]

Composer = Callable[[tuple[str, ...]], tuple[RunConfig, DictConfig]]

# What of an experiment says when and under which heading it is made, and changes nothing in its table.
ORDERING = ("section", "heading", "priority")


@dataclass
class PlannedRun:
    """One run to do.

    Attributes:
        directory: Where it lives, relative to the working directory.
        overrides: What to put after `python -m pipeline.train`.
        identity: What determines its weights, as JSON; Snakemake trains it again when it changes.
        evaluation_identity: What determines its scores besides, as JSON.
        repositories: The hub repositories that training reads, as `models/<id>` and `datasets/<id>`.
        benchmarks: Those that only scoring reads.
        model, method, task, seed, rank, lr: To find it in a table.
        axes: The values of the experiment's axes, or of its setting, whose label is `setting`.
    """

    directory: str
    overrides: list[str]
    identity: str
    evaluation_identity: str
    repositories: list[str]
    benchmarks: list[str]
    model: str
    method: str
    task: str
    seed: int
    rank: int | None
    lr: float | None
    axes: dict[str, str]

    def with_lr(self, lr: float, tuned_by: str) -> "PlannedRun":
        """Returns the run with the learning rate that a search has chosen."""
        old, new = f"/lr={spell(self.lr)}/", f"/lr={spell(lr)}/"
        identity, evaluation_identity = json.loads(self.identity), json.loads(self.evaluation_identity)
        identity["lr"] = evaluation_identity["run"]["lr"] = float(lr)
        return replace(
            self,
            directory=self.directory.replace(old, new),
            overrides=[*self.overrides, f"lr={spell(lr)}", f"tuned_by={tuned_by}"],
            identity=json.dumps(identity, sort_keys=True),
            evaluation_identity=json.dumps(evaluation_identity, sort_keys=True),
            lr=lr,
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

    @property
    def runs_folder(self) -> str:
        """The folder that all runs are below."""
        return f"{self.profile.results}/runs"

    @cached_property
    def candidates(self) -> dict[str, list[PlannedRun]]:
        """The runs that an experiment may be made of: of a tuned one, with each learning rate of its search."""
        found: dict[str, list[PlannedRun]] = {}
        for name, grid in self.grids.items():
            search = self.experiments[name].tuned_by
            found[name] = []
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
        """Returns an experiment's runs, with the learning rates that its search has chosen.

        Raises:
            RecordError: The search is not finished.
        """
        search = self.experiments[experiment].tuned_by
        grid = self.grids[experiment]
        if search is None:
            return grid
        winners = records.read(Path(self.selection(search)), ["winners"])["winners"]
        return [
            run.with_lr(winners[run.model][run.method]["lr"], search)
            if run.method in winners.get(run.model, {})
            else run
            for run in grid
        ]

    def expected(self, experiment: str) -> list[PlannedRun]:
        """Returns an experiment's runs; while its search is to come, runs that stand for those that it will choose."""
        try:
            return self.runs_of(experiment)
        except RecordError:
            return self.grids[experiment]

    def wanted(self) -> list[str]:
        """Returns the directories of all runs that the experiments need, as far as their searches are finished."""
        return list(dict.fromkeys(run.directory for name in self.grids for run in self.expected(name)))

    def selection(self, search: str) -> str:
        """Returns the file with a search's winners."""
        return f"{self.profile.results}/search/{search}.json"

    def searches_of(self, experiment: str) -> list[str]:
        """Returns the searches that must be finished before an experiment's runs are known."""
        experiments = self.experiments[experiment].compares or [experiment]
        found = [self.experiments[name].tuned_by for name in experiments if name in self.experiments]
        return sorted({search for search in found if search})

    def sources(self, experiment: str) -> list[str]:
        """Returns the files that an experiment's table or figure is made of."""
        described = self.experiments[experiment]
        if described.kind in WITHOUT_RUNS:
            return [self.memory_file(experiment)]
        if described.compares:
            return [file for name in described.compares if name in self.grids for file in self.sources(name)]
        names = [records.NAME, *([records.EVALUATION] if described.evaluated else [])]
        return [f"{run.directory}/{name}" for run in self.runs_of(experiment) for name in names]

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
        shown = {key: value for key, value in asdict(described).items() if key not in ORDERING}
        return json.dumps([shown, *words, judged, _published(described)], sort_keys=True)


def plan_of_arguments(arguments: Iterable[str]) -> Plan:
    """Returns the plan that `profile=NAME` and other overrides on a command line ask for; mini by default."""
    arguments = list(arguments)
    profiles = [item.removeprefix("profile=") for item in arguments if item.startswith("profile=")]
    others = [item for item in arguments if not item.startswith("profile=")]
    return make_plan(profiles[-1] if profiles else "mini", others)


def parse_plan(parser: ArgumentParser) -> tuple[Plan, Namespace]:
    """Reads a command line that ends with overrides; returns the plan that they ask for, and the other arguments."""
    parser.add_argument("overrides", nargs="*", help="profile=NAME, and more Hydra overrides for every run")
    arguments = parser.parse_args()
    return plan_of_arguments(arguments.overrides), arguments


def make_plan(profile: str = "mini", overrides: Iterable[str] = ()) -> Plan:
    """Derives a profile's plan from conf/; the same conf/ is composed only once.

    Args:
        profile: A file of conf/profile.
        overrides: More Hydra overrides, for every run; `seeds=N` stands for the profile's seeds 0 to N − 1.

    Raises:
        ConfigError: Something in conf/ or the overrides is not right.
    """
    extra = [_seeds(override) for override in overrides]
    cached = Path(os.environ.get("LORAFA_CACHE", ".cache"), "plans", f"{_conf_hash(profile, extra)}.json")
    if cached.is_file():
        try:
            return _from_json(json.loads(cached.read_text()))
        except (ValueError, KeyError, TypeError):
            cached.unlink()
    plan = _compose(profile, extra)
    records.write_text(cached, json.dumps(asdict(plan)))
    return plan


def _seeds(override: str) -> str:
    key, _, number = override.partition("=")
    if key != "seeds":
        return override
    if not number.isdecimal() or not int(number):
        raise ConfigError(f"seeds={number}: must be a number of seeds, 1 or more, as in seeds=6")
    return f"profile.seeds=[{','.join(map(str, range(int(number))))}]"


def _compose(profile: str, extra: list[str]) -> Plan:
    base = [f"profile={profile}", *extra]
    # Which experiments and seeds there are besides is nothing to a run.
    others = ("profile.experiments=", "profile.seeds=")
    of_runs = [override for override in base if not override.startswith(others)]
    composed = cache(compose_run)  # a tenth of a second each, and experiments share many
    experiments: dict[str, Experiment] = {}
    grids: dict[str, list[PlannedRun]] = {}
    models: dict[str, dict[str, str]] = {}
    methods: dict[str, dict[str, str]] = {}
    tasks: dict[str, dict[str, str]] = {}
    described, settings, statistics = compose_experiments(base)
    for name, experiment in described.items():
        if settings.experiments is not None and name not in settings.experiments:
            continue
        experiments[name], grids[name] = experiment, []
        for planned, run in _grid(experiment, settings, of_runs, composed):
            grids[name].append(planned)
            models[run.model.name] = _about(run.model)
            methods[run.method.name] = _about(run.method)
            tasks[run.task.name] = _about(run.task)
    if not experiments:
        raise ConfigError("conf/experiment is empty: there is nothing to make")
    _check_references(experiments)
    return Plan(settings, statistics, experiments, grids, models, methods, tasks, _mirror(settings))


def _check_references(experiments: dict[str, Experiment]) -> None:
    for name, experiment in experiments.items():
        search = experiment.tuned_by
        if search and (search not in experiments or experiments[search].kind != "search"):
            raise ConfigError(
                f"conf/experiment/{name}.yaml: tuned_by: '{search}' is not a search of this profile"
            )


def _grid(
    experiment: Experiment, profile: Profile, base: list[str], composed: Composer
) -> Iterator[tuple[PlannedRun, RunConfig]]:
    """Yields an experiment's runs.

    An axis' value that is the default anyway is left out of the overrides, so that experiments share the run.
    """
    for model, task in product(experiment.models, experiment.tasks):
        for method, axes in _variants(experiment):
            choices = [*base, f"model={model}", f"method={method}", f"task={task}"]
            _, cfg = composed(tuple(choices))
            special = {
                key: value
                for key, value in axes.items()
                if key != "setting" and spell(OmegaConf.select(cfg, key)) != value
            }
            run = _vary(choices, special, composed)
            for key, problem in problems(run):
                raise ConfigError(f"conf/experiment/{experiment.name}.yaml: {key}: {problem}")
            overrides = [*choices, *(f"{key}={value}" for key, value in special.items())]
            deterministic = run.method.kind == "untuned"
            wanted = _seeds_of(experiment, task, method) or profile.seeds
            for seed in wanted[:1] if deterministic else wanted:
                run.seed = seed
                yield _planned(run, [*overrides, f"seed={seed}"], axes), run


def _seeds_of(experiment: Experiment, task: str, method: str) -> list[int] | None:
    seeds: list[int] | dict[str, list[int]] | None = experiment.seeds
    return seeds.get(task, seeds.get(method)) if isinstance(seeds, dict) else seeds


def _vary(choices: list[str], axes: dict[str, str], composed: Composer) -> RunConfig:
    """Returns a run with other values; composes for those alone that conf/config.yaml does not hold itself."""
    given = {override.split("=")[0] for override in choices}
    simple = {"lr", "rank", "alpha"} - given
    others = [f"{key}={value}" for key, value in axes.items() if key not in simple]
    run = replace(composed((*choices, *others))[0])
    if "rank" in simple & axes.keys():
        run.rank = int(axes["rank"])
        run.alpha = paper_alpha(run.rank) if "alpha" not in given else run.alpha
    if "alpha" in simple & axes.keys():
        run.alpha = float(axes["alpha"])
    if "lr" in simple & axes.keys():
        run.lr = float(axes["lr"])
    return run


def _variants(experiment: Experiment) -> list[tuple[str, dict[str, str]]]:
    """Returns the methods with the overrides that each is run with."""
    if experiment.settings:
        return [
            (
                setting.method,
                {**axes, **{key: spell(value) for key, value in setting.overrides.items()}, "setting": label},
            )
            for label, setting in experiment.settings.items()
            for axes in _combinations(experiment, setting.method)
        ]
    return [(method, axes) for method in experiment.methods for axes in _combinations(experiment, method)]


def _combinations(experiment: Experiment, method: str) -> list[dict[str, str]]:
    try:
        tried = {
            key: values[method] if isinstance(values, dict) else values
            for key, values in experiment.axes.items()
        }
    except KeyError:
        raise ConfigError(
            f"conf/experiment/{experiment.name}.yaml: axes: no values for method {method}"
        ) from None
    return [
        {key: spell(value) for key, value in zip(tried, values, strict=True)}
        for values in product(*tried.values())
    ]


def _planned(run: RunConfig, overrides: list[str], axes: dict[str, str]) -> PlannedRun:
    benchmark = run.task.scoring.benchmark
    return PlannedRun(
        directory="/".join(
            [
                run.profile.results,
                subdir(
                    run.model.name,
                    run.method.name,
                    run.task.name,
                    run.rank,
                    run.lr,
                    unplaced(overrides),
                    run.seed,
                ),
            ]
        ),
        overrides=overrides,
        identity=json.dumps(run.identity(), sort_keys=True),
        evaluation_identity=json.dumps(run.evaluation_identity(), sort_keys=True),
        repositories=[f"models/{run.model.repository}", f"datasets/{run.task.repository}"],
        benchmarks=[f"datasets/{benchmark.repository}"] if benchmark else [],
        model=run.model.name,
        method=run.method.name,
        task=run.task.name,
        seed=run.seed,
        rank=run.rank,
        lr=run.lr,
        axes=axes,
    )


def _mirror(profile: Profile) -> dict[str, str]:
    if profile.build_mirror is None:
        return {}
    config = read_config(profile.build_mirror)
    return {
        name: json.dumps(
            [asdict(repository), *(asdict(config.packages[package]) for package in repository.packages)],
            sort_keys=True,
        )
        for name, repository in config.repositories.items()
    }


def _about(part: Model | Method | Task) -> dict[str, str]:
    keys = ("name", "label", "short", "paper", "kind", "metric")
    return {key: getattr(part, key) for key in keys if hasattr(part, key)}


def _from_json(data: dict[str, Any]) -> Plan:
    return Plan(
        profile=Profile(**data["profile"]),
        statistics=Statistics(**data["statistics"]),
        experiments={name: _experiment(value) for name, value in data["experiments"].items()},
        grids={name: [PlannedRun(**run) for run in runs] for name, runs in data["grids"].items()},
        **{key: data[key] for key in ("models", "methods", "tasks", "mirror")},
    )


def _experiment(data: dict[str, Any]) -> Experiment:
    plot = Plot(**data["plot"]) if data["plot"] else None
    settings = {label: Setting(**setting) for label, setting in data["settings"].items()}
    bar = Bar(**data["bar"]) if data["bar"] else None
    return Experiment(**{**data, "plot": plot, "settings": settings, "bar": bar})


def _published(experiment: Experiment) -> str | None:
    """Returns a hash of the published numbers beside an experiment's own; a figure may have none but its picture."""
    file = ROOT / experiment.reference
    return records.sha256(file) if file.is_file() else None


def _conf_hash(profile: str, overrides: list[str]) -> str:
    """Hashes all that a plan follows from: conf/, the code that reads it, and the machine."""
    digest = hashlib.sha256()
    code = (
        Path(__file__),
        *(Path(__file__).with_name(name) for name in ("config.py", "precision.py", "schema.py", "runs.py")),
    )
    for path in (*sorted(CONF.rglob("*.yaml")), *code):
        digest.update(str(path.name).encode() + b"\0" + path.read_bytes() + b"\0")
    machine = [os.environ.get("LORAFA_CACHE"), precision.cpu_has_bfloat16(), version("hydra-core")]
    digest.update(json.dumps([profile, overrides, *machine]).encode())
    return digest.hexdigest()[:16]
