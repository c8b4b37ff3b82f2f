"""What tables and figures say of their runs before the first number; those of two configurations are not mixed."""

import html
import re
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.config.paths import split, unplaced
from pipeline.config.plan import Plan
from pipeline.config.targets import files_of
from pipeline.errors import ConfigError
from pipeline.files import read_json
from pipeline.tables.table import Table

# Overrides that say which runs there are, and nothing of what one of them is.
CHOOSING = ("profile=", "profile.experiments=", "profile.seeds=", "seeds=")
MEANINGLESS = "The numbers of this profile mean nothing: it shows that everything works."
STAMP = re.compile(r"Profile \S+ with overrides: (.+?)\.(?= |<|$)", re.MULTILINE)


def changing(overrides: Iterable[str]) -> list[str]:
    """Returns those of a command line's overrides that say more than which runs there are."""
    return [override for override in overrides if not override.startswith(CHOOSING)]


def warning(plan: Plan, name: str, overrides: Iterable[str]) -> str:
    """Returns what a reader of a table or figure must know of its runs, in words; nothing where that is nothing.

    Args:
        plan: The profile's plan.
        name: Of the experiment; what has no runs follows from no override.
        overrides: Of the command line.
    """
    if not has_runs(plan, name):
        return ""
    return " ".join([*([] if plan.profile.judged else [MEANINGLESS]), described(plan, overrides)]).strip()


def described(plan: Plan, overrides: Iterable[str]) -> str:
    """Returns what all results of a command line rest on besides conf/, in words; nothing where that is nothing."""
    others = changing(overrides)
    return f"Profile {plan.profile.name} with overrides: {shlex.join(others)}." if others else ""


def stamped(table: Table, words: str) -> Table:
    """Returns a table that says so before its first number."""
    return replace(table, notice=" ".join(part for part in (words, table.notice) if part))


def has_runs(plan: Plan, name: str) -> bool:
    """Says whether an experiment's table or figure is made of runs."""
    return bool(plan.grids[name] or plan.experiments[name].compares)


def refuse_mix(plan: Plan, overrides: Iterable[str]) -> None:
    """Makes sure that the finished tables and figures of a profile were made with the same overrides.

    Args:
        plan: The profile's plan.
        overrides: Of the command line.

    Raises:
        ConfigError: One of them was made with others.
    """
    overrides = list(overrides)
    for file in map(Path, files_of(plan, "all")):
        if file.is_file() and has_runs(plan, file.stem):
            refuse_other(file, overrides)


def refuse_other(file: Path, overrides: Iterable[str]) -> None:
    """Makes sure that a finished table or figure was made with the same overrides.

    Raises:
        ConfigError: It was made with others.
    """
    stamp = STAMP.search(html.unescape(file.read_text()))
    _compare(file, split(stamp[1]) if stamp else [], changing(overrides))


def refuse_selections(plan: Plan, name: str, overrides: Iterable[str]) -> None:
    """Makes sure that the searches that tune an experiment were made with the same overrides.

    Raises:
        ConfigError: One of them was made with others.
        RecordError: One of them is not finished.
    """
    wanted = changing(overrides)
    for search in plan.searches_of(name):
        file = Path(plan.selection(search))
        _compare(file, read_json(file).get("overrides", wanted), wanted)


def _compare(file: Path, made: list[str], wanted: list[str]) -> None:
    if unplaced(made) != unplaced(wanted):
        raise ConfigError(
            f"{file} was made {_spelled(made)}, and this would be {_spelled(wanted)}: results of two configurations "
            "are not mixed. Give the same overrides, or make the tables and figures anew first"
        )


def _spelled(overrides: list[str]) -> str:
    return f"with overrides {shlex.join(overrides)}" if overrides else "without overrides"
