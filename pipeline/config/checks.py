"""What the values of a key in conf/ may be: metadata of the dataclasses' fields, which `compose` looks at."""

import re
from collections.abc import Callable
from typing import Any

from lorafa.memory.sizes import bytes_of

Check = tuple[Callable[[Any], object], str]

_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_REPOSITORY = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}", re.ASCII)
TARGETS = "all-linear, attention, or letters of qkvo as in qv"
_OF_LETTERS = "must be of letters, digits, _, . and -, the last two not at its start"


def at_least(low: float) -> dict[str, Check]:
    """Accepts numbers from `low` on."""
    return {"check": (lambda value: value >= low, f"must be at least {low:g}")}


def above(low: float) -> dict[str, Check]:
    """Accepts numbers above `low`."""
    return {"check": (lambda value: value > low, f"must be greater than {low:g}")}


def between(low: float, high: float) -> dict[str, Check]:
    """Accepts numbers above `low` and below `high`."""
    return {"check": (lambda value: low < value < high, f"must be above {low:g} and below {high:g}")}


def fraction() -> dict[str, Check]:
    """Accepts 0 and what is below 1."""
    return {"check": (lambda value: 0 <= value < 1, "must be at least 0 and below 1")}


def one_of(*choices: str) -> dict[str, Check]:
    """Accepts these values alone."""
    return {"check": (lambda value: value in choices, f"must be one of {', '.join(choices)}")}


def each_of(*choices: str) -> dict[str, Check]:
    """Accepts lists of these values."""
    return {
        "check": (lambda values: set(values) <= set(choices), f"each must be one of {', '.join(choices)}")
    }


def not_empty() -> dict[str, Check]:
    """Accepts what has a length."""
    return {"check": (lambda value: len(value) > 0, "must not be empty")}


def names() -> dict[str, Check]:
    """Accepts lists of what `name` accepts."""
    return {"check": (lambda values: all(map(_NAME.fullmatch, values)), f"each {_OF_LETTERS}")}


def name() -> dict[str, Check]:
    """Accepts what may be part of a path, and does not lead out of the folder that it is looked for in."""
    return {"check": (_NAME.fullmatch, _OF_LETTERS)}


def repository() -> dict[str, Check]:
    """Accepts a repository of the hub, which becomes part of a path, too."""
    return {"check": (_REPOSITORY.fullmatch, "must be <organisation>/<name>, as on the hub")}


def targets() -> dict[str, Check]:
    """Accepts what `lorafa.targets.select_targets` takes, without importing torch."""
    return {"check": (_is_target, f"must be {TARGETS}")}


def size() -> dict[str, Check]:
    """Accepts sizes of memory."""
    return {"check": (_is_size, "must be a size like 24GiB or 80GB")}


def _is_size(value: str) -> bool:
    try:
        return bytes_of(value) > 0
    except ValueError:
        return False


def _is_target(value: str) -> bool:
    return value in ("all-linear", "attention") or 0 < len(value) == len(set(value) & set("qkvo"))
