"""Logging to Weights & Biases while a job computes; a failure in it is one line of warning, and the job goes on."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config.schema import RunConfig
from pipeline.results import records
from pipeline.tracking import runs


class Tracker:
    """A job's run of W&B; it does nothing where the profile's `tracking` is not `live`, or after a failure."""

    def __init__(self, config: RunConfig, job: runs.Job) -> None:
        self._config = config
        self._job = job
        self._run: Any = None

    @property
    def active(self) -> bool:
        """Whether there is a run of W&B to log to."""
        return self._run is not None

    def start(self) -> None:
        """Starts the run: online where there is an API key and W&B answers, else offline."""
        with self._forgiving():
            results = Path(self._config.profile.results)
            chosen = mode(results)
            if chosen != "disabled":
                self._run = runs.start(self._job, asdict(self._config), results, chosen, live=True)

    def log(self, history: records.History, steps_per_epoch: float | None, peaks: dict[str, int]) -> None:
        """Logs what is new in a training run's history.

        Args:
            history: What was measured so far.
            steps_per_epoch: None where it is not known.
            peaks: Peak memory so far in bytes, by kind.
        """
        with self._forgiving():
            if self._run is not None:
                runs.log_history(self._run, history, self._config.budget.batch_size, steps_per_epoch)
                self._run.log(runs.peak_memory(peaks), step=self._run.step)

    def conclude(self, record: runs.AnyRecord) -> None:
        """Adds what the job's record says, when it has been written, and finishes the run."""
        with self._forgiving():
            if self._run is not None:
                runs.conclude(self._run, self._job, record)
                folder = Path(self._run.settings.sync_dir)
                self._run.finish()
                self._run = None
                self._job.mark_written(folder)

    def finish(self, exit_code: int = 0) -> None:
        """Finishes the run, if it has not been."""
        with self._forgiving():
            run, self._run = self._run, None
            if run is not None:
                run.finish(exit_code=exit_code)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            run, self._run = self._run, None
            with suppress(Exception):  # or a later run of this process could not have its name
                run.finish(exit_code=1)
            _warn(error, "this job is not logged; `python -m pipeline.dashboard` does it from its record")


@contextmanager
def tracked(
    config: RunConfig, directory: Path, job_type: records.JobType, config_hash: str
) -> Iterator[Tracker]:
    """Logs the job of a block, if its profile says `tracking: live`; failed, where it ends with an exception.

    Args:
        config: The run's configuration.
        directory: The run's directory.
        job_type: What the job does.
        config_hash: As in the record that the job is going to write.
    """
    tracker = Tracker(config, runs.Job(directory, job_type, config_hash))
    if config.profile.tracking == "live":
        tracker.start()
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish()


def mode(results: Path) -> str:
    """Returns `online` where there is an API key that W&B accepts, else `offline`; WANDB_MODE says otherwise.

    Args:
        results: The profile's folder of results.
    """
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return chosen
    try:
        return "online" if runs.library(results).login(prompt=False) else "offline"
    except Exception as error:  # a key that is not accepted, or nobody there to accept it
        _warn(error, "logging offline")
        return "offline"


def _warn(error: Exception, consequence: str) -> None:
    reason = (str(error).splitlines() or [""])[0]
    print(f"warning: W&B: {type(error).__name__}: {reason}; {consequence}", file=sys.stderr, flush=True)
