"""The configuration of a run: its composition from conf/, and its checks.

conf/ is the only place where an experiment is described. Everything read from there passes `validate`, which
names the file and the key of whatever it cannot accept.
"""

import os
import re
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

import pipeline.config.paths  # noqa: F401 - registers the resolvers of conf/config.yaml
from pipeline.config import checks, precision
from pipeline.config.experiment import Experiment, Statistics
from pipeline.config.profile import Profile
from pipeline.config.schema import ADAPTED, KINDS, RunConfig
from pipeline.errors import ConfigError, meant, not_installed, unknown

CONF = Path(__file__).parents[2] / "conf"
LAUNCHERS = ("joblib", "submitit_slurm", "submitit_local")  # of the extra `sweep`
GROUPS = ("profile", "model", "method", "task", "recipe", "trainer", "experiment")


def compose_run(overrides: Iterable[str]) -> tuple[RunConfig, DictConfig]:
    """Composes and checks a run's configuration from conf/ and command-line style overrides.

    Returns:
        The checked configuration, and Hydra's own with the `hydra` node (for paths and choices).

    Raises:
        ConfigError: conf/ or an override has an unknown key, a wrong type or an impossible value.
    """
    cfg = compose_hydra(list(overrides))
    return validate(cfg, dict(cfg.hydra.runtime.choices), list(cfg.hydra.overrides.task)), cfg


def combinations(overrides: Iterable[str]) -> list[list[str]]:
    """Returns the overrides of each run of a sweep such as `rank=1,2,4 task=mrpc`, in Hydra's order.

    Raises:
        ConfigError: Hydra does not understand an override.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return [list(one) for batch in BasicSweeper.split_arguments(parsed, None) for one in batch]
    except HydraException as error:
        raise ConfigError(f"command line: {' '.join(str(error).split())}") from error


def compose_experiments(overrides: Iterable[str]) -> tuple[dict[str, Experiment], Profile, Statistics]:
    """Composes and checks a profile's experiments, the profile that fills their grids, and how methods are compared.

    Keys under `full_scale` in an experiment's file replace its others in profiles of the paper's own models.

    An experiment's file is put into a configuration that is composed once: composing takes a tenth of a second.

    Raises:
        ConfigError: As for `compose_run`.
    """
    cfg = compose_hydra(list(overrides))
    choices = dict(cfg.hydra.runtime.choices)
    profile: Profile = _typed(Profile, cfg, "profile", _Locator(choices, overrides))
    statistics: Statistics = _typed(Statistics, cfg, "statistics", _Locator(choices, overrides))
    experiments: dict[str, Experiment] = {}
    OmegaConf.set_struct(cfg, False)
    there = {file.stem: file for file in sorted((CONF / "experiment").glob("*.yaml"))}
    for name in profile.experiments or ():
        if name not in there:
            raise ConfigError(f"profile.experiments: {unknown('experiment', name, there)}")
    for file in there.values():
        if profile.experiments is not None and file.stem not in profile.experiments:
            continue
        described = typing.cast(dict[str, Any], OmegaConf.to_container(_load(file)))
        at_full_scale = described.pop("full_scale", {})
        if described.get("only_full_scale") and not profile.full_scale:
            if profile.experiments is not None:
                raise ConfigError(
                    f"profile.experiments: {file.stem}: of the paper's models alone, as in profile=paper"
                )
            continue
        cfg.experiment = described | (at_full_scale if profile.full_scale else {})
        where = _Locator({**choices, "experiment": file.stem}, overrides)
        experiments[file.stem] = _typed(Experiment, cfg, "experiment", where)
    return experiments, profile, statistics


def _load(file: Path) -> DictConfig:
    """Reads a file upon those of its folder that its `defaults` name, as Hydra would compose them."""
    own = typing.cast(DictConfig, OmegaConf.load(file))
    below = [file.with_name(f"{name}.yaml") for name in own.pop("defaults", []) if name != "_self_"]
    return typing.cast(DictConfig, OmegaConf.merge(*map(_load, below), own))


def run_directory(run: RunConfig) -> Path:
    """Returns the directory of the run that Hydra has composed for the present job.

    Raises:
        ConfigError: It is outside of the profile's results.
    """
    directory = HydraConfig.get().runtime.output_dir
    results = os.path.abspath(run.profile.results)
    if os.path.commonpath([results, os.path.abspath(directory)]) != results:
        raise ConfigError(
            f"command line: hydra.run.dir: {directory} is outside of {run.profile.results}: choose the folder of "
            "results by profile.results=DIR"
        )
    return Path(directory)


def _typed(schema: type, cfg: DictConfig, key: str, where: "_Locator") -> Any:
    try:
        node = OmegaConf.to_container(cfg[key], resolve=True)
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        wrong = f"{key}.{_key_of(error).removeprefix(f'{key}.')}"
        misspelt = isinstance(error, ConfigKeyError | ConfigAttributeError)
        problem = _unknown_key(wrong, schema, f"{key}.") if misspelt else _first_line(error)
        raise ConfigError(where(wrong, problem)) from error
    for field_key, problem in _field_problems(typed, f"{key}."):
        raise ConfigError(where(field_key, problem))
    return typed


def compose_hydra(overrides: list[str]) -> DictConfig:
    """Composes conf/ by Hydra's Compose API, with Hydra's messages made into one line."""
    try:
        if not GlobalHydra.instance().is_initialized():
            initialize_config_dir(str(CONF), version_base="1.3").__enter__()
        return compose("config", overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error


def validate(cfg: DictConfig, choices: dict[str, str], overrides: Iterable[str] = ()) -> RunConfig:
    """Checks a composed configuration against the schema and returns it, typed.

    Args:
        cfg: What Hydra composed; keys outside of the schema that Hydra or an experiment adds are left out.
        choices: Config group to chosen file, to name the file of a bad value.
        overrides: The command line, to name it when the bad value came from there.

    Raises:
        ConfigError: The first problem found, with its file and key.
    """
    where = _Locator(choices, overrides)
    try:
        keys = [str(key) for key in cfg if key not in ("hydra", "experiment", "statistics")]
        resolved = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    except InterpolationKeyError as error:
        raise ConfigError(where.missing(error)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(where(_key_of(error), _first_line(error))) from error
    try:
        run: RunConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), resolved))  # type: ignore[assignment]
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(where(_key_of(error), _unknown_key(_key_of(error)))) from error
    except OmegaConfBaseException as error:
        raise ConfigError(where(_key_of(error), _first_line(error))) from error
    run.model.frozen_dtype = precision.resolve(run.model.frozen_dtype, run.profile.gpus)
    for key, problem in problems(run):
        raise ConfigError(where(key, problem))
    return run


def problems(run: RunConfig) -> Iterable[tuple[str, str]]:
    """Yields what is wrong with a run, as key and problem."""
    yield from _field_problems(run)
    method, model, budget = run.method, run.model, run.budget
    if model.kind != KINDS[run.task.kind]:
        yield (
            "model.kind",
            f"task {run.task.name} needs a model of kind {KINDS[run.task.kind]}, not {model.kind}",
        )
    if getattr(run.task, run.task.kind) is None:
        yield f"task.{run.task.kind}", f"task {run.task.name} is of this kind and needs its settings"
    if run.task.held_out and run.task.kind != "classification":
        yield "task.held_out", f"for a classification alone, which task {run.task.name} is not"
    if run.lr is None and method.kind != "untuned":
        yield "method.lr", f"no learning rate for model {model.name}: add one, or give lr=..."
    if run.task.kind != "classification" and budget.max_target_length is None:
        yield "budget.max_target_length", f"task {run.task.name} needs a value"
    if method.kind in ADAPTED:
        for key in ("rank", "alpha"):
            if getattr(run, key) is None:
                yield key, f"{method.name} needs a value"
        if method.targets is None:
            yield "method.targets", f"{method.name} needs {checks.TARGETS}"
    elif run.rank is not None:
        yield "rank", f"method {method.name} has no rank"
    for key in ("init_A", "gradient", "resample", "memory_budget"):
        if getattr(method, key) is not None and method.kind != "lora-fa":
            yield f"method.{key}", f"for LoRA-FA alone, which method {method.name} is not"
    if method.init_A == "eva" and model.kind == "encoder-decoder":
        yield (
            "method.init_A",
            "eva is for models with one stack: a decoder's inputs are not those of its encoder",
        )
    if method.resample is not None and run.world_size > 1:
        yield (
            "method.resample",
            "for one process alone: with trainer=fsdp no process has the weights to merge into",
        )
    if method.kind == "prompt-tuning" and method.virtual_tokens is None:
        yield "method.virtual_tokens", f"{method.name} needs a value"
    yield from _world_problems(run)
    if budget.batch_size % (budget.micro_batch or 1):
        yield (
            "budget.micro_batch",
            f"must divide budget.batch_size ({budget.batch_size}), got {budget.micro_batch}",
        )
    elif budget.micro_batch and run.world_size > 1:
        yield "budget.micro_batch", "for one process alone: with trainer=fsdp each has its part of a batch"
    if (budget.epochs is None) == (budget.max_steps is None):
        yield "budget.max_steps", "give either epochs or max_steps"
    if budget.evaluations and budget.max_steps and budget.evaluations > budget.max_steps:
        yield "budget.evaluations", f"more than max_steps ({budget.max_steps})"


def _world_problems(run: RunConfig) -> Iterable[tuple[str, str]]:
    profile = run.profile
    if run.trainer.sharding is None:
        for key in ("gpus", "processes"):
            if getattr(profile, key) > 1:
                yield (
                    f"profile.{key}",
                    f"more than one for a run takes trainer=fsdp, got {getattr(profile, key)}",
                )
    elif profile.gpus and profile.processes > 1:
        yield "profile.processes", "for the CPU only: on GPUs, a run has profile.gpus processes"
    elif run.budget.batch_size % run.world_size:
        yield (
            "budget.batch_size",
            f"each of the {run.world_size} processes takes its part: {run.budget.batch_size} cannot be divided by that",
        )


def _field_problems(node: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    for item in fields(node):
        value, key = getattr(node, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from _field_problems(value, f"{key}.")
        elif value is not None and "check" in item.metadata:
            accepts, requirement = item.metadata["check"]
            if not accepts(value):
                yield key, f"{requirement}, got {value!r}"


class _Locator:
    """Turns a key into a message that starts with the file, or the command line, that the key came from."""

    def __init__(self, choices: dict[str, str], overrides: Iterable[str]):
        self.choices = choices
        self.typed = {item.lstrip("+~").split("=")[0] for item in overrides}

    def __call__(self, key: str, problem: str) -> str:
        group, _, rest = key.partition(".")
        if key in self.typed:
            return f"command line: {key}: {problem}"
        if group == "budget":
            return f"conf/profile/{self.choices.get('profile')}.yaml: {key}: {problem}"
        if group == "trainer" and rest not in ("sharding", "checkpointing", "tf32"):
            group = "recipe"
        if group in GROUPS and rest:
            return f"conf/{group}/{self.choices.get(group)}.yaml: {rest}: {problem}"
        return f"conf/config.yaml: {key}: {problem}"

    def missing(self, error: InterpolationKeyError) -> str:
        wanted = re.search(r"Interpolation key '([^']+)' not found", str(error))
        key = wanted.group(1) if wanted else str(_key_of(error))
        if key.startswith("profile.budgets."):
            model = key.removeprefix("profile.budgets.").split(".")[0]
            return self("profile.budgets", f"nothing for model {model} in this profile")
        return self(key, "missing")


def _key_of(error: Exception) -> str:
    return str(getattr(error, "full_key", "") or "")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _unknown_key(key: str, schema: type = RunConfig, prefix: str = "") -> str:
    return f"unknown key{meant(key, _keys(schema, prefix))}"


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Yields the keys of a schema and of the parts of it."""
    for name, hint in get_type_hints(schema).items():
        yield f"{prefix}{name}"
        for part in (hint, *get_args(hint)):
            if is_dataclass(part) and isinstance(part, type):
                yield from _keys(part, f"{prefix}{name}.")


def explain(error: Exception) -> str:
    """Returns Hydra's complaint about the command line or conf/ as one line with the possible choices."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and name in LAUNCHERS:
            return not_installed(f"Hydra's launcher {name}", "sweep")
        there = ", ".join(error.options)
        return (
            f"conf/{group}/{name}.yaml does not exist{meant(name, error.options)}; {group} is one of {there}"
        )
    if wrong := re.match(r"Could not override '([^']+)'", lines[0]):
        key = wrong[1]
        added = f"the chosen file does not have it; to add it, write +{key}=..."
        return f"command line: {key}: {added if key in _keys(RunConfig) else _unknown_key(key)}"
    return " ".join(lines[:2])
