"""Derives a profile's plan from conf/: every experiment's grid, composed and checked."""

import hashlib
import json
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pipeline import files
from pipeline.config import precision
from pipeline.config.compose import CONF, compose_experiments, compose_run, problems
from pipeline.config.experiment import Experiment
from pipeline.config.mirror import read_config
from pipeline.config.paths import paper_alpha, spell, split
from pipeline.config.plan import Plan, PlannedRun
from pipeline.config.profile import Profile
from pipeline.config.schema import Method, Model, RunConfig, Task
from pipeline.errors import ConfigError, unknown

CONFIG_KEYS = ("profile", "overrides", "seeds", "gpu")  # of Snakemake's --config
Composer = Callable[[tuple[str, ...]], tuple[RunConfig, DictConfig]]


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
            return Plan.from_json(json.loads(cached.read_text()))
        except (ValueError, KeyError, TypeError):
            cached.unlink()
    plan = _compose(profile, extra)
    files.write_text(cached, json.dumps(asdict(plan)))
    return plan


def settings_of(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Returns the profile and the overrides that Snakemake's `--config` asks for.

    Raises:
        ConfigError: A key means nothing, or the overrides have an open quotation mark.
    """
    for key in config:
        if key not in CONFIG_KEYS:
            raise ConfigError(f"--config: {unknown('key', key, CONFIG_KEYS)}")
    seeds = [f"seeds={config['seeds']}"] if "seeds" in config else []
    return config.get("profile", "mini"), split(config.get("overrides")) + seeds


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
    wanted, settings, statistics = compose_experiments(base)
    if not wanted:
        raise ConfigError("conf/experiment is empty: there is nothing to make")
    _check_references(wanted)
    _check_pairs(wanted)
    with tqdm(unit=" runs", leave=False, disable=None) as progress:
        for name, experiment in wanted.items():
            progress.set_description(f"Planning {name}, {len(grids) + 1} of {len(wanted)}")
            experiments[name], grids[name] = experiment, []
            for planned, run in _grid(experiment, settings, of_runs, composed):
                progress.update()
                grids[name].append(planned)
                models[run.model.name] = _about(run.model)
                methods[run.method.name] = _about(run.method)
                tasks[run.task.name] = _about(run.task)
    return Plan(settings, statistics, experiments, grids, models, methods, tasks, _mirror(settings))


def _check_references(experiments: dict[str, Experiment]) -> None:
    for name, experiment in experiments.items():
        if experiment.halving and experiment.kind != "search":
            raise ConfigError(
                f"conf/experiment/{name}.yaml: halving: for a search alone, not a {experiment.kind}"
            )
        search = experiment.tuned_by
        if search and (search not in experiments or experiments[search].kind != "search"):
            raise ConfigError(
                f"conf/experiment/{name}.yaml: tuned_by: '{search}' is not a search of this profile"
            )


def _check_pairs(experiments: dict[str, Experiment]) -> None:
    for name, experiment in experiments.items():
        for label in (*experiment.pairs, *chain(*experiment.pairs.values())):
            if label not in experiment.settings:
                problem = unknown("setting", label, experiment.settings)
                raise ConfigError(f"conf/experiment/{name}.yaml: pairs: {problem}")


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
                scoring = asdict(run.task.scoring)
                overridden = [*overrides, f"seed={seed}"]
                yield PlannedRun(run.identity(), scoring, overridden, axes, profile.results), run


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
    common = _spelled(experiment.overrides)
    if experiment.settings:
        return [
            (
                setting.method,
                {**common, **axes, **_spelled(setting.overrides), "setting": label},
            )
            for label, setting in experiment.settings.items()
            for axes in _combinations(experiment, setting.method, label)
        ]
    return [
        (method, {**common, **axes})
        for method in experiment.methods
        for axes in _combinations(experiment, method)
    ]


def _spelled(overrides: Mapping[str, Any]) -> dict[str, str]:
    return {key: spell(value) for key, value in overrides.items()}


def _combinations(experiment: Experiment, method: str, label: str = "") -> list[dict[str, str]]:
    try:
        tried = {
            key: values[label if label in values else method] if isinstance(values, dict) else values
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


def _conf_hash(profile: str, overrides: list[str]) -> str:
    """Hashes all that a plan follows from: conf/, the code that reads it, and the machine."""
    digest = hashlib.sha256()
    code = sorted(Path(__file__).parent.glob("*.py"))
    for path in (*sorted(CONF.rglob("*.yaml")), *code):
        digest.update(str(path.name).encode() + b"\0" + path.read_bytes() + b"\0")
    machine = [os.environ.get("LORAFA_CACHE"), precision.cpu_has_bfloat16(), version("hydra-core")]
    digest.update(json.dumps([profile, overrides, *machine]).encode())
    return digest.hexdigest()[:16]
