"""What results of another configuration than the profile's say of themselves: their overrides."""

from collections.abc import Iterable
from dataclasses import replace

from pipeline.config.plan import Plan
from pipeline.tables.table import Table

# Overrides that say which runs there are, and nothing of what one of them is.
CHOOSING = ("profile=", "profile.experiments=", "profile.seeds=", "seeds=")


def overridden(plan: Plan, name: str, overrides: Iterable[str]) -> str:
    """Returns what a table or figure rests on besides conf/, in words; nothing where that is nothing.

    Args:
        plan: The profile's plan.
        name: Of the experiment; what has no runs follows from no override.
        overrides: Of the command line.
    """
    experiment = plan.experiments[name]
    return described(plan, overrides) if plan.grids[name] or experiment.compares else ""


def described(plan: Plan, overrides: Iterable[str]) -> str:
    """Returns what all results of a command line rest on besides conf/, in words; nothing where that is nothing."""
    others = [override for override in overrides if not override.startswith(CHOOSING)]
    return f"Profile {plan.profile.name} with overrides: {' '.join(others)}." if others else ""


def stamped(table: Table, words: str) -> Table:
    """Returns a table that says so before its first number."""
    return replace(table, notice=" ".join(part for part in (words, table.notice) if part))
