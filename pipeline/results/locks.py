"""A lock on a run's directory: whoever holds it trains the run, others can see that and wait."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "running"


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a run's directory, waiting until nobody else does.

    The system lets go of the lock of a process that dies; the file it leaves behind means nothing without the lock.
    """
    path = directory / NAME
    directory.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(
                    f"{directory}: another process trains this run; waiting for it",
                    file=sys.stderr,
                    flush=True,
                )
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file.fileno()):
                continue  # the one before has deleted the file that we waited for
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def is_held(directory: Path) -> bool:
    """Says whether a process trains the run of a directory at this moment."""
    try:
        with (directory / NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
