"""Errors that a user can act on: each says what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class PipelineError(Exception):
    """A failure whose message is meant for the user; entry points print it as one line, without a traceback."""


class ConfigError(PipelineError):
    """A value in conf/ or on the command line cannot be used."""


class AssetError(PipelineError):
    """A model, a data set or a package is missing or damaged."""


class ProcessError(PipelineError):
    """One of the processes of a run has failed."""


class RecordError(PipelineError):
    """The record of a run cannot be read or written."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Returns what to tell a user who asks for what there is not, with the likeliest of what there is."""
    known = list(known)
    return f"no {what} '{name}'{meant(name, known)}; there is {', '.join(known) or 'none'}"


def meant(name: str, known: Iterable[str]) -> str:
    """Returns a question that names the likeliest of what there is, to put behind what there is not; or nothing."""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def not_installed(what: str, extra: str) -> str:
    """Returns what to tell a user whose environment lacks an extra of the project."""
    return f"{what} is not installed; it comes with: pip install -c requirements.lock -e '.[{extra}]'"


def not_written(what: object, reason: str | None) -> str:
    """Returns what to tell a user whose system does not let a file be written."""
    return (
        f"could not write {what}: {reason}. Make room or correct the permissions, and run the same command again; "
        "what was computed before is kept."
    )
