"""Where a run lives: the path is the configuration.

A run's directory is `<results>/runs/model=<m>/method=<f>/task=<t>/<axis>=<value>/.../seed=<s>`, keys in one order and
values in one spelling, so that Snakemake, Hydra's multirun and a person at the prompt meet in the same place, and
tools that read hive partitions read the tree as one table.
"""

import hashlib
import re
import shlex
from decimal import Decimal
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.errors import ConfigError

RECORD = "metrics.json"  # of a run, in its directory
EVALUATION = "evaluation.json"

# Overrides that the path has a place for, or that do not change what a run computes.
PLACED = {"profile", "model", "method", "task", "rank", "lr", "seed", "experiment", "tuned_by", "trainer"}
LONGEST = 100  # bytes of a part of a path; file systems take 255, and jobs add endings of their own
ODD = re.compile(r"[^\w.,:+=@%~()\[\]-]")
WITHOUT_EFFECT = ("profile.", "statistics.", "task.scoring.", "trainer.sharding", "hydra.", "hydra/")


def spell(value: Any) -> str:
    """Returns the one spelling of a value in paths and commands: 4e-4 for 0.0004, 8 for 8.0, [a,8] for a list."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{spell(item)}' for key, item in value.items())}}}"
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
    return "/".join(
        ["runs", *(_part(key, spell(value)) for key, value in parts.items() if value is not None)]
    )


def _part(key: str, value: str) -> str:
    """Returns a part of a path; what is too long for one, or has odd characters, ends in its hash instead."""
    part = f"{key}={value}"
    if len(part.encode()) <= LONGEST and not ODD.search(value):
        return part
    digest = hashlib.sha256(value.encode()).hexdigest()[:12]
    kept = ODD.sub("_", part).encode()[: LONGEST - len(digest) - 1].decode(errors="ignore")
    return f"{kept}~{digest}"


def run_subdir(cfg: DictConfig) -> str:
    """Returns the path of a composed run below the profile's results; see `subdir`."""
    names = (cfg.model.name, cfg.method.name, cfg.task.name)
    return subdir(*names, cfg.rank, cfg.lr, unplaced(list(cfg.hydra.overrides.task)), cfg.seed)


def run_dir(cfg: DictConfig) -> str:
    """Returns the directory of a composed run, relative to the working directory."""
    return f"{cfg.profile.results}/{run_subdir(cfg)}"


def unplaced(overrides: list[str]) -> dict[str, str]:
    """Returns the overrides that have no place of their own in the path, each value in its one spelling."""
    items = {item.lstrip("+~").partition("=")[0]: item for item in overrides}
    return {
        key: _spelled(item)
        for key, item in items.items()
        if key not in PLACED and not key.startswith(WITHOUT_EFFECT)
    }


@cache
def _spelled(override: str) -> str:
    """Returns the spelling of what an override says, not of how it says it: 16.0 and 16 are the same number."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return spell(OverridesParser.create().parse_override(override).value())
    except HydraException:  # it will say what is wrong with it when it composes
        return spell(override.partition("=")[2])


def split(overrides: str | None) -> list[str]:
    """Splits Snakemake's `--config overrides="..."` as a shell would.

    Snakemake takes a quotation mark at the end for one around the whole, and drops it; it is put back.

    Raises:
        ConfigError: A quotation mark is not closed.
    """
    text = str(overrides or "")
    for end in ("", "'", '"'):
        try:
            return shlex.split(text + end)
        except ValueError:
            continue
    raise ConfigError(f"--config overrides: a quotation mark is not closed in: {text}")


def paper_alpha(rank: int | None) -> float | None:
    """Returns α for a rank: the paper fixes the scaling α/r at 4, and at 2 for large ranks "such as 64" (B.4.2)."""
    if not isinstance(rank, int):  # the schema names a rank that is no number
        return None
    return (4.0 if rank < 64 else 2.0) * rank


OmegaConf.register_new_resolver("twice", lambda number: 2 * number, replace=True)
OmegaConf.register_new_resolver("paper_alpha", paper_alpha, replace=True)
OmegaConf.register_new_resolver("run_dir", lambda *, _root_: run_dir(_root_), replace=True)
OmegaConf.register_new_resolver("run_subdir", lambda *, _root_: run_subdir(_root_), replace=True)
