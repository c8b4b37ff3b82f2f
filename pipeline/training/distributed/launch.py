"""Starting a run's processes on this machine, by torchrun's launcher, and what becomes of their failures."""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import distributed
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.cli import quieten
from pipeline.errors import PipelineError, ProcessError
from pipeline.training.interruption import GRACE, SIGNALS, Interrupted
from pipeline.worker import end_with_parent


def launch(processes: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in several new processes, one for each GPU, and returns what it returned in the first.

    The processes find each other in their environment, as those of torchrun do. SIGINT and SIGTERM are passed on to
    them once, a second signal ends them. If one fails, the others are ended.

    Args:
        processes: How many.
        function: Of a module, so that the processes can import it.
        arguments: Its arguments, the same in each.

    Raises:
        PipelineError: As the function did in the process that failed first.
        ProcessError: It failed otherwise.
        Interrupted: A signal came, and the processes have ended.
    """
    _quieten_launcher()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle=",".join(number.name for number in SIGNALS),
        shutdown_timeout=round(GRACE) + 1,
    )
    with _handlers_kept():
        try:
            return elastic_launch(config, _process)(function, *arguments)[0]
        except SignalException:
            raise Interrupted from None
        except ChildFailedError as error:
            raise _explained(error, processes) from None


def _process(function: Callable[..., Any], *arguments: Any) -> Any:
    end_with_parent(signal.SIGKILL)  # or it would train on without the lock on the run
    os.setsid()  # a terminal's Ctrl-C reaches the launching process alone, which passes it on
    quieten()
    result = function(*arguments)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return result


def _quieten_launcher() -> None:
    """Keeps the launcher, each of whose loggers has its own level, from telling of failures over many lines."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(
            ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")
        ):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _explained(error: ChildFailedError, processes: int) -> PipelineError:
    """Makes the first failure an exception with one line; the traceback of an unexpected one goes to standard error."""
    failures: list[ProcessFailure] = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
    kinds = {kind.__name__: kind for kind in PipelineError.__subclasses__()}
    told = []
    for failure in failures:
        message: Any = failure.message
        if isinstance(message, dict):
            kind, _, text = str(message["message"]).partition(": ")
            if kind in kinds:
                return kinds[kind](text)
            told.append((failure, f"{kind}: {text}", message["extraInfo"]["py_callstack"]))
        else:
            told.append((failure, str(message), ""))
    failure, what, traceback = told[0]
    print(traceback, file=sys.stderr, end="", flush=True)
    if failure.exitcode == -signal.SIGKILL:
        what = "SIGKILL, as the system sends it where the host's memory is full"
    return ProcessError(
        f"process {failure.local_rank} of {processes} ended with {what.splitlines()[0]}; the same command goes on from "
        "the last checkpoint"
    )


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Puts this process's handlers of signals back, which the launcher replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
