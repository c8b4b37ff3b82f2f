"""The configuration of a run: its schema, its checks and its composition from conf/.

conf/ is the only place where an experiment is described. Everything read from there passes `validate`, which
names the file and the key of whatever it cannot accept.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    OmegaConfBaseException,
)

from pipeline.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("profile", "model", "method", "task", "trainer", "experiment")

Check = tuple[Callable[[Any], bool], str]


def _at_least(low: float) -> dict[str, Check]:
    return {"check": (lambda value: value >= low, f"must be at least {low:g}")}


def _above(low: float) -> dict[str, Check]:
    return {"check": (lambda value: value > low, f"must be greater than {low:g}")}


def _fraction() -> dict[str, Check]:
    return {"check": (lambda value: 0 <= value < 1, "must be at least 0 and below 1")}


def _one_of(*choices: str) -> dict[str, Check]:
    return {"check": (lambda value: value in choices, f"must be one of {', '.join(choices)}")}


def _not_empty() -> dict[str, Check]:
    return {"check": (lambda value: len(value) > 0, "must not be empty")}


@dataclass
class Profile:
    """Which models, seeds and sources a set of results has; nothing in it changes the result of a run."""

    name: str
    results: str
    experiments: list[str] | None
    seeds: list[int] = field(metadata=_not_empty())
    encoders: list[str] = field(metadata=_not_empty())
    glue_tasks: list[str] = field(metadata=_not_empty())
    cache: str
    mirror: str | None
    build_mirror: str | None
    threads: int = field(metadata=_at_least(1))
    gpus: int = field(metadata=_at_least(0))
    keep_weights: bool


@dataclass
class Budget:
    """How long a run trains: `epochs`, or `max_steps` where that is given."""

    epochs: int | None = field(metadata=_at_least(1))
    max_steps: int | None = field(metadata=_at_least(1))
    evaluations: int | None = field(metadata=_at_least(1))
    batch_size: int = field(metadata=_at_least(1))
    max_length: int = field(metadata=_at_least(4))


@dataclass
class Model:
    """A pretrained model; `targets` names the linear layers that adapters may take."""

    name: str
    label: str
    short: str
    paper: str
    repository: str
    revision: str
    batch_size: int = field(metadata=_at_least(1))
    max_length: int = field(metadata=_at_least(4))
    frozen_dtype: str = field(metadata=_one_of("float32", "bfloat16", "float16"))
    targets: dict[str, list[str]]


@dataclass
class Method:
    """A way to fine-tune; fields that a kind does not use are null."""

    name: str
    label: str
    short: str
    kind: str = field(metadata=_one_of("full-ft", "prompt-tuning", "lora", "lora-fa"))
    rank: int | None = field(metadata=_at_least(1))
    alpha: float | None = field(metadata=_above(0))
    lr: dict[str, float]
    targets: str | None = None
    dropout: float | None = field(default=None, metadata=_fraction())
    virtual_tokens: int | None = field(default=None, metadata=_at_least(1))
    init_A: str | None = field(  # noqa: N815 - the paper's name
        default=None, metadata=_one_of("kaiming_uniform", "normal", "ones", "orthogonal")
    )


@dataclass
class Task:
    """A data set of the hub, what is read from it and how it is scored."""

    name: str
    label: str
    repository: str
    revision: str
    subset: str
    text_columns: list[str] = field(metadata=_not_empty())
    num_labels: int = field(metadata=_at_least(1))
    train_split: str
    validation_splits: list[str] = field(metadata=_not_empty())
    metric: str = field(metadata=_one_of("accuracy", "matthews_correlation", "pearson"))
    epochs: dict[str, int]


@dataclass
class Trainer:
    """Optimizer and schedule."""

    optimizer: str = field(metadata=_one_of("adamw_torch", "adamw_torch_fused", "sgd"))
    weight_decay: float = field(metadata=_at_least(0))
    warmup_ratio: float = field(metadata=_fraction())
    schedule: str = field(metadata=_one_of("linear", "constant", "cosine"))
    max_grad_norm: float = field(metadata=_above(0))


@dataclass
class RunConfig:
    """Everything about one run."""

    profile: Profile
    budget: Budget
    model: Model
    method: Method
    task: Task
    trainer: Trainer
    seed: int = field(metadata=_at_least(0))
    rank: int | None = field(metadata=_at_least(1))
    alpha: float | None = field(metadata=_above(0))
    lr: float = field(metadata=_above(0))

    def identity(self) -> dict[str, Any]:
        """Returns what determines the run's result; two runs with the same identity are the same run."""
        run: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(self))  # type: ignore[assignment]
        del run["profile"], run["method"]["lr"], run["task"]["epochs"]
        for part in ("model", "method", "task"):
            for presentation in ("label", "short", "paper"):
                run[part].pop(presentation, None)
        for replaced in ("batch_size", "max_length"):  # the budget has the value that counts
            del run["model"][replaced]
        for replaced in ("rank", "alpha"):
            del run["method"][replaced]
        run["model"]["targets"] = run["model"]["targets"].get(self.method.targets)
        return run

    @property
    def target_modules(self) -> list[str]:
        """The names of the linear layers that the method adapts."""
        return self.model.targets[self.method.targets] if self.method.targets else []


@dataclass
class Plot:
    """How a table's numbers are drawn: a column along x, one line for each value of `series`."""

    x: str
    label: str
    scale: str = field(metadata=_one_of("linear", "log2"))
    series: list[str] = field(metadata=_not_empty())


@dataclass
class Experiment:
    """A table or figure: its words, the published numbers beside it, and the grid of its runs if it has any."""

    name: str
    title: str
    kind: str = field(
        metadata=_one_of("glue", "memory", "breakdown", "complexity", "parameters", "throughput")
    )
    reference: str
    caption: str
    models: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    plot: Plot | None = None

    @property
    def drawn(self) -> bool:
        """Whether there is a figure of it."""
        return self.plot is not None or self.kind == "breakdown"


def compose_run(overrides: Iterable[str]) -> tuple[RunConfig, DictConfig]:
    """Composes and checks a run's configuration from conf/ and command-line style overrides.

    Returns:
        The checked configuration, and Hydra's own with the `hydra` node (for paths and choices).

    Raises:
        ConfigError: conf/ or an override has an unknown key, a wrong type or an impossible value.
    """
    cfg = compose_hydra(list(overrides))
    return validate(cfg, dict(cfg.hydra.runtime.choices), list(cfg.hydra.overrides.task)), cfg


def compose_experiment(name: str, overrides: Iterable[str]) -> tuple[Experiment, Profile]:
    """Composes and checks conf/experiment/<name>.yaml, and the profile that fills its grid.

    Raises:
        ConfigError: As for `compose_run`.
    """
    cfg = compose_hydra([*overrides, f"experiment={name}"])
    where = _Locator(dict(cfg.hydra.runtime.choices), overrides)
    experiment: Experiment = _typed(Experiment, cfg, "experiment", where)
    profile: Profile = _typed(Profile, cfg, "profile", where)
    return experiment, profile


def _typed(schema: type, cfg: DictConfig, key: str, where: "_Locator") -> Any:
    try:
        node = OmegaConf.to_container(cfg[key], resolve=True)
        typed = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        unknown = isinstance(error, ConfigKeyError | ConfigAttributeError)
        problem = "unknown key" if unknown else _first_line(error)
        raise ConfigError(where(f"{key}.{_key_of(error).removeprefix(f'{key}.')}", problem)) from error
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
        keys = [str(key) for key in cfg if key not in ("hydra", "experiment")]
        resolved = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    except InterpolationKeyError as error:
        raise ConfigError(where.missing(error)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(where(_key_of(error), _first_line(error))) from error
    try:
        run: RunConfig = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), resolved))  # type: ignore[assignment]
    except (ConfigKeyError, ConfigAttributeError) as error:
        raise ConfigError(where(_key_of(error), "unknown key")) from error
    except OmegaConfBaseException as error:
        raise ConfigError(where(_key_of(error), _first_line(error))) from error
    for key, problem in _problems(run):
        raise ConfigError(where(key, problem))
    return run


def _problems(run: RunConfig) -> Iterable[tuple[str, str]]:
    yield from _field_problems(run)
    method, model, budget = run.method, run.model, run.budget
    if method.kind in ("lora", "lora-fa"):
        for key in ("rank", "alpha"):
            if getattr(run, key) is None:
                yield f"method.{key}", f"{method.name} needs a value"
        if method.targets is None:
            yield "method.targets", f"{method.name} needs target modules: one of {', '.join(model.targets)}"
        elif not model.targets.get(method.targets):
            known = ", ".join(model.targets)
            yield (
                "method.targets",
                f"model {model.name} has no target modules '{method.targets}', only {known}",
            )
    elif run.rank is not None:
        yield "rank", f"method {method.name} has no rank"
    if method.kind == "prompt-tuning" and method.virtual_tokens is None:
        yield "method.virtual_tokens", f"{method.name} needs a value"
    if (budget.epochs is None) == (budget.max_steps is None):
        yield "budget.max_steps", "give either epochs or max_steps"
    if budget.evaluations and budget.max_steps and budget.evaluations > budget.max_steps:
        yield "budget.evaluations", f"more than max_steps ({budget.max_steps})"


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
        if group in GROUPS and rest:
            return f"conf/{group}/{self.choices.get(group)}.yaml: {rest}: {problem}"
        return f"conf/config.yaml: {key}: {problem}"

    def missing(self, error: InterpolationKeyError) -> str:
        wanted = re.search(r"Interpolation key '([^']+)' not found", str(error))
        key = wanted.group(1) if wanted else str(_key_of(error))
        if key.startswith("method.lr."):
            model = key.removeprefix("method.lr.")
            return self("method.lr", f"no learning rate for model {model}: add one, or give lr=...")
        return self(key, "missing")


def _key_of(error: Exception) -> str:
    return str(getattr(error, "full_key", "") or "")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def explain(error: Exception) -> str:
    """Returns Hydra's complaint about the command line or conf/ as one line with the possible choices."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.options:
        group = str(error.missing_cfg_file).split("/")[0]
        return (
            f"conf/{error.missing_cfg_file}.yaml does not exist; {group} is one of {', '.join(error.options)}"
        )
    return " ".join(lines[:2])
