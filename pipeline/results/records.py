"""The record of a run, `metrics.json`, and what lies beside it: checked when read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import paths
from pipeline.errors import RecordError
from pipeline.files import read_json, sha256

NAME, EVALUATION = paths.RECORD, paths.EVALUATION
PREDICTIONS = "predictions.parquet"
SAVED_MODEL = "model"
SECTIONS = ("run_info", "train_info", "meta_info")
EVALUATION_SECTIONS = ("run_info", "evaluation", "meta_info")
DONE = "done"
DIVERGED = "diverged"
OUT_OF_MEMORY = "out_of_memory"


def read(path: Path, sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """Reads a record, or another file of a run that has these sections.

    Raises:
        RecordError: The file is missing, cut short or not a record.
    """
    return read_json(path, sections)


def read_evaluation(directory: str | Path) -> dict[str, Any]:
    """Reads the evaluation of the run in a directory.

    Raises:
        RecordError: As for `read`.
    """
    return read(Path(directory, EVALUATION), EVALUATION_SECTIONS)


def fingerprint_of_weights(directory: Path) -> str:
    """Returns a hash of the weights that the training of a run saved, if it saved any."""
    digest = hashlib.sha256()
    for file in sorted((directory / SAVED_MODEL).glob("*.safetensors")):
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


def validated(directory: Path, weights: str) -> Path:
    """Returns where a run's training leaves what it predicted with the weights of this fingerprint, and no others."""
    return directory / SAVED_MODEL / f"validated-{weights}.parquet"


def read_if_current(path: Path, config_hash: str) -> dict[str, Any] | None:
    """Returns the record of a finished run with this configuration, or None when it is to be run (again)."""
    try:
        record = read(path)
    except RecordError:
        return None
    return record if record["run_info"].get("config_hash") == config_hash else None
