"""GPUs for runs that share a machine: each run takes its own by file locks, and sees no other.

Slurm may give every allocation a GPU 0 of its own: only the runs of one allocation share locks.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
ALLOCATION = "SLURM_JOB_ID"
FOLDER = Path(tempfile.gettempdir(), "lorafa-gpus")  # the machine's, so that all who run here agree
PAUSE = 1.0  # seconds between two looks for a free GPU


def visible() -> list[str]:
    """Returns the ids of the GPUs that this process may use."""
    if VISIBLE in os.environ:
        return [item for item in os.environ[VISIBLE].split(",") if item]
    import torch  # takes seconds; profiles/local-gpu asks before there is a job

    return [str(number) for number in range(torch.cuda.device_count())]


def multiply_in(tf32: bool) -> None:
    """Decides how this process multiplies float32 matrices on GPUs: in TF32 where they have it, or in full."""
    import torch

    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"


@contextmanager
def reserved(count: int) -> Iterator[list[str]]:
    """Holds `count` GPUs and hides the others, waiting until there are as many free; 0 holds and hides none.

    To be entered before CUDA is used: a process that sees two GPUs would split its batch between them.

    Raises:
        ConfigError: The machine has fewer.
    """
    if count == 0:
        yield []
        return
    ids = visible()
    if len(ids) < count:
        raise ConfigError(
            f"profile.gpus is {count}, but {len(ids)} GPUs are visible here: choose another profile, or profile.gpus=0"
        )
    before = os.environ.get(VISIBLE)
    with ExitStack() as locks:
        held = _hold(ids, count, locks)
        os.environ[VISIBLE] = ",".join(held)
        try:
            yield held
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def _hold(ids: list[str], count: int, locks: ExitStack) -> list[str]:
    folder = FOLDER / os.environ.get(ALLOCATION, "")
    folder.mkdir(mode=0o777, parents=True, exist_ok=True)
    while True:
        with ExitStack() as attempt:
            held = []
            for name in ids:
                file = attempt.enter_context((folder / name).open("a"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                held.append(name)
                if len(held) == count:
                    locks.push(attempt.pop_all())
                    return held
        time.sleep(PAUSE)
