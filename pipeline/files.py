"""Files written whole or not at all, and hashes of them and of values."""

import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import RecordError, not_written

if TYPE_CHECKING:  # a second to import, which who only reads records need not wait for
    import pandas as pd


def fingerprint(value: Any) -> str:
    """Returns a hash of a JSON-like value, the same for equal values in any order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sha256(file: Path) -> str:
    """Returns the hash of a file's content, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_folder(path: Path) -> None:
    """Makes a folder, and makes sure that files can be written there.

    Raises:
        RecordError: They cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise RecordError(not_written(path, error.strerror)) from error


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file atomically; a number that is not finite becomes null.

    Raises:
        RecordError: The disk is full or the folder cannot be written.
    """
    text = json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Replaces a file's content in one step; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file's content in one step: a reader sees the old content or the new, never a part.

    Raises:
        RecordError: The disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise RecordError(not_written(path, error.strerror)) from error


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Writes a table as Parquet, whole or not at all; see `write_bytes`."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def read_json(path: Path, sections: Sequence[str] = ()) -> dict[str, Any]:
    """Reads what `write_json` wrote of a run or a search; it must have these keys.

    Raises:
        RecordError: The file is missing, cut short or not a record.
    """
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RecordError(f"{path} does not exist: the run has not finished") from error
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} is damaged ({error}): delete it and run again to redo this one run"
        ) from error
    if not isinstance(record, dict) or any(section not in record for section in sections):
        raise RecordError(f"{path} is not a run's record: delete it and run again to redo this one run")
    return record


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
