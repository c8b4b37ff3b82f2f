"""Ctrl-C, and SIGTERM as schedulers send it before they take a machine away: training stops with a checkpoint."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from pipeline.training.distributed import group

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 8.0  # seconds that a step may take to its end, so that all stops within ten


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop; the message says where it will go on.

    It is no `Exception`, or a sweep would go on with its next run.
    """


class Watch(TrainerCallback):
    """Lets the step that a signal comes in end, saves a checkpoint after it and stops.

    An evaluation that is due comes before the checkpoint. A step or an evaluation that lasts longer than `GRACE`, or
    Ctrl-C after another signal, stops training at once; it will go on from the checkpoint before. The processes of a
    run stop after the same step, whichever of them the signal has reached.

    Attributes:
        requested: Whether the signal has come.
        stopping: Whether training ends because of it.
    """

    requested = False
    stopping = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_requested(control)
        if self.stopping and not control.should_evaluate:
            _be_patient()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_if_requested(control)
        if self.stopping:
            _be_patient()

    def _stop_if_requested(self, control: Any) -> None:
        if group.any_process(self.requested):
            self.stopping = control.should_training_stop = control.should_save = True

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Notes a signal; Ctrl-C after it interrupts. Slurm sends SIGTERM twice at once when it preempts a job."""
        if self.requested:
            if (
                signum == signal.SIGINT and group.size() == 1
            ):  # of several, the process that has started them stops
                raise Interrupted
            return
        self.requested = True
        signal.setitimer(signal.ITIMER_REAL, GRACE)


@contextmanager
def watched() -> Iterator[Watch]:
    """Has signals noted by a `Watch`, and no longer end the process, in the block; in the main thread alone."""
    watch = Watch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    before = {number: signal.signal(number, watch.handle) for number in SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _interrupt)
    try:
        yield watch
    finally:
        _be_patient()
        for number, handler in before.items():
            signal.signal(number, handler)


def _be_patient() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted
