"""Where a run lives: the path is the configuration.

A run's directory is `<results>/runs/model=<m>/method=<f>/task=<t>/<axis>=<value>/.../seed=<s>`, keys in one order and
values in one spelling, so that Snakemake, Hydra's multirun and a person at the prompt meet in the same place, and
tools that read hive partitions read the tree as one table.
"""

from decimal import Decimal
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Overrides that the path has a place for, or that do not change what a run computes.
PLACED = {"profile", "model", "method", "task", "rank", "lr", "seed", "experiment", "tuned_by", "trainer"}
WITHOUT_EFFECT = ("profile.", "task.scoring.", "trainer.sharding", "hydra.", "hydra/")


def spell(value: Any) -> str:
    """Returns the one spelling of a value in paths and commands: 4e-4 for 0.0004, 8 for 8.0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).replace("/", "_").replace(" ", "")
    number = Decimal(repr(float(value))).normalize()  # NumPy's numbers, too
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if -2 < exponent + len(digits) <= 6:
        return f"{number:f}"
    mantissa = "".join(map(str, digits))
    point = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{'-' * sign}{mantissa[0]}{point}e{exponent + len(mantissa) - 1}"


def subdir(
    model: str,
    method: str,
    task: str,
    rank: int | None,
    lr: float | None,
    others: dict[str, str],
    seed: int,
) -> str:
    """Returns a run's path below the profile's results, `runs/model=.../seed=...`.

    Overrides without a place of their own, such as `method.dropout=0.1`, become a part of the path, too: a run
    started by hand with an unusual setting never takes the place of a run of the tables.
    """
    parts = {"model": model, "method": method, "task": task, "rank": rank, "lr": lr}
    parts.update(sorted(others.items()))
    parts["seed"] = seed
    return "/".join(["runs", *(f"{key}={spell(value)}" for key, value in parts.items() if value is not None)])


def run_subdir(cfg: DictConfig) -> str:
    """Returns the path of a composed run below the profile's results; see `subdir`."""
    names = (cfg.model.name, cfg.method.name, cfg.task.name)
    return subdir(*names, cfg.rank, cfg.lr, unplaced(list(cfg.hydra.overrides.task)), cfg.seed)


def run_dir(cfg: DictConfig) -> str:
    """Returns the directory of a composed run, relative to the working directory."""
    return f"{cfg.profile.results}/{run_subdir(cfg)}"


def unplaced(overrides: list[str]) -> dict[str, str]:
    """Returns the overrides that have no place of their own in the path."""
    pairs = (item.lstrip("+~").partition("=")[::2] for item in overrides)
    return {key: value for key, value in pairs if key not in PLACED and not key.startswith(WITHOUT_EFFECT)}


def paper_alpha(rank: int | None) -> float | None:
    """Returns α for a rank: the paper fixes the scaling α/r at 4, and at 2 for large ranks "such as 64" (B.4.2)."""
    if rank is None:
        return None
    return (4 if rank < 64 else 2) * rank


OmegaConf.register_new_resolver("twice", lambda number: 2 * number, replace=True)
OmegaConf.register_new_resolver("paper_alpha", paper_alpha, replace=True)
OmegaConf.register_new_resolver("run_dir", lambda *, _root_: run_dir(_root_), replace=True)
OmegaConf.register_new_resolver("run_subdir", lambda *, _root_: run_subdir(_root_), replace=True)
