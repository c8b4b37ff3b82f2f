"""What tests do to a run in the middle of its training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipeline.training.trainer import WatchfulTrainer


@contextmanager
def in_step(number: int, act: Callable[[], object]) -> Iterator[None]:
    """Has something happen at the start of a step of the runs that the block trains; the first step is 0."""
    original = WatchfulTrainer.training_step

    def step(self, *arguments, **others):
        if self.state.global_step == number:
            act()
        return original(self, *arguments, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WatchfulTrainer, "training_step", step)
        yield


def kill() -> None:
    """Ends a run as a signal would that nobody has noted."""
    raise KeyboardInterrupt
