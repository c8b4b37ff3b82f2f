"""How far a run is, read from its directory without disturbing it."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.config.metrics import METRICS
from pipeline.results import locks, records

CHECKPOINTS = "checkpoints"  # pipeline.training.fit.CHECKPOINTS, without importing torch


class State(StrEnum):
    """How far a run is: a record says the first, third and fourth; FAILED is one that broke off without a record."""

    DONE = records.DONE
    TO_SCORE = "to_score"
    RUNNING = "running"
    DIVERGED = records.DIVERGED
    OUT_OF_MEMORY = records.OUT_OF_MEMORY
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LEFT = "left"

    @property
    def words(self) -> str:
        """How people say it."""
        return self.replace("_", " ")

    @property
    def ended(self) -> bool:
        """Whether there is a record; divergence and lack of memory are results, too."""
        return self in (State.DONE, State.DIVERGED, State.OUT_OF_MEMORY)


@dataclass
class Progress:
    """What there is of a run.

    Attributes:
        state: How far it is, as far as its directory says: FAILED and TO_SCORE take more than that.
        scores: Step to score of each evaluation so far.
        steps: How many there will be; None where that is not known.
        problem: Why it diverged or ran out of memory.
        seconds: How long it took, where there is a record.
        step: The step that it can go on from; all of them where there is a record.
    """

    state: State
    scores: dict[int, float]
    steps: int | None = None
    problem: str | None = None
    seconds: float | None = None
    step: int = 0

    def best(self, metric: str) -> float | None:
        """Returns the best score so far; None before the first evaluation."""
        chosen: float | None = METRICS[metric].best(self.scores.values(), default=None)
        return chosen


def progress(directory: Path, config_hash: str) -> Progress:
    """Looks at a run.

    Args:
        directory: The run's directory, which need not exist.
        config_hash: Of its configuration; what is there of another one does not count.
    """
    record = records.read_if_current(directory, config_hash)
    if record is not None:
        info = record.train_info
        scores = {entry.step: entry.score for entry in info.evaluations if entry.score is not None}
        state = State(info.status)
        return Progress(state, scores, info.steps, info.problem, info.wall_time_seconds, info.steps)
    checkpoints = directory / CHECKPOINTS / config_hash
    state = State.INTERRUPTED if checkpoints.is_dir() else State.LEFT
    state = State.RUNNING if locks.is_held(directory) else state
    trainer = _trainer_state(checkpoints)
    scores = {
        entry["step"]: entry.get("eval_score", entry["eval_loss"])
        for entry in trainer.get("log_history", [])
        if "eval_loss" in entry
    }
    return Progress(state, scores, trainer.get("max_steps"), step=trainer.get("global_step", 0))


def _trainer_state(checkpoints: Path) -> dict[str, Any]:
    files = checkpoints.glob("checkpoint-*/trainer_state.json")
    try:
        newest = max(files, key=lambda file: int(file.parent.name.removeprefix("checkpoint-")))
        return json.loads(newest.read_text())
    except (OSError, ValueError):  # there is none, or it is being written or deleted right now
        return {}
