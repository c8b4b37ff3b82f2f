"""What a classification data set must hold before it is tokenized: texts, and labels that the task can have."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from datasets import Dataset, Value
from pandas.api import types

from pipeline.assets import Source
from pipeline.data import repository
from pipeline.errors import AssetError

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".txt")


def read(
    source: Source,
    subset: str | None,
    splits: Sequence[str],
    columns: Sequence[str],
    num_labels: int,
    cache: Path,
) -> dict[str, Dataset]:
    """Reads splits whose texts are texts and whose labels are classes from 0, or floats for a regression.

    Args:
        source: The repository.
        subset: The configuration.
        splits: Which splits to read.
        columns: Their columns of text; the labels are in `label`.
        num_labels: How many classes there are; 1 for a regression.
        cache: Where prepared copies may stay.

    Raises:
        AssetError: A split or a column is missing, or a row cannot be used: the first one, with its file and number.
    """
    try:
        found = repository.read(source, subset, splits, [*columns, "label"], cache)
    except AssetError:
        for split in splits:  # a word among numbers may fail before there are rows
            file = _file(source, split)
            if (
                file is not None
                and file.suffix == ".csv"
                and {*columns, "label"} <= set(pd.read_csv(file, nrows=0))
            ):
                _check(source, split, pd.read_csv(file), columns, num_labels)
        raise
    for split in splits:
        frame = found[split].select_columns([*columns, "label"]).to_pandas()
        _check(source, split, pd.DataFrame(frame), columns, num_labels)
    return {split: _of_floats(data) if num_labels == 1 else data for split, data in found.items()}


def _of_floats(data: Dataset) -> Dataset:
    """Losses of a regression are of floats; a file of whole numbers has none."""
    floats = data.features["label"].dtype.startswith("float")
    return data if floats else data.cast_column("label", Value("float32"))


def _check(source: Source, split: str, frame: pd.DataFrame, columns: Sequence[str], num_labels: int) -> None:
    problem = _score_problem if num_labels == 1 else _class_problem
    found = next(filter(None, (_text_problem(frame[column]) for column in columns)), None)
    found = found or problem(frame["label"], num_labels)
    if found:
        row, words = found
        where = _file(source, split) or f"{source.path}, {split}"
        raise AssetError(f"{where}, row {row + 1}: {words} (rows count from 1, without a header)")


def _text_problem(texts: pd.Series) -> tuple[int, str] | None:
    row = _first(~texts.map(lambda text: isinstance(text, str)))
    return None if row is None else (row, _not_a_text(str(texts.name), texts.iloc[row]))


def _not_a_text(column: str, value: object) -> str:
    if pd.isna(value):
        return (
            f"no text in column {column}: fill the field, or leave the row out; in a CSV file, a text such as NA or "
            "null counts as empty, too"
        )
    return f"{_shown(value)} in column {column} is no text: the whole column must be texts"


def _class_problem(labels: pd.Series, num_labels: int) -> tuple[int, str] | None:
    wanted = f"labels must be whole numbers from 0 to {num_labels - 1}, as many as the task's num_labels"
    if (row := _first(labels.isna())) is not None:
        return row, f"no label; {wanted}"
    if not types.is_integer_dtype(labels):
        row = _first(~labels.astype(str).str.fullmatch(r"-?\d+")) or 0
        return row, f"label {_shown(labels.iloc[row])} is {_kind(labels)}; {wanted}"
    if (row := _first((labels < 0) | (labels >= num_labels))) is None:
        return None
    from_one = labels.min() == 1 and labels.max() == num_labels
    hint = "; they seem to count from 1: subtract 1" if from_one else ""
    return row, f"label {labels.iloc[row]} is none of the classes; {wanted}{hint}"


def _score_problem(labels: pd.Series, _: int) -> tuple[int, str] | None:
    wanted = "labels of a regression must be numbers"
    if (row := _first(labels.isna())) is not None:
        return row, f"no label; {wanted}"
    if types.is_bool_dtype(labels) or not types.is_numeric_dtype(labels):
        row = _first(pd.to_numeric(labels, errors="coerce").isna()) or 0
        return row, f"label {_shown(labels.iloc[row])} is {_kind(labels)}; {wanted}"
    row = _first(labels.abs() == float("inf"))
    return None if row is None else (row, f"label {labels.iloc[row]} is not finite; {wanted}")


def _first(wrong: pd.Series) -> int | None:
    return int(wrong.to_numpy().argmax()) if wrong.any() else None


def _kind(labels: pd.Series) -> str:
    if types.is_bool_dtype(labels):
        return "no number"
    return "no whole number" if types.is_float_dtype(labels) else "a word"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _file(source: Source, split: str) -> Path | None:
    """Returns the split's file where it can be told by its name."""
    files = [path for path in Path(source.path).rglob("*") if path.suffix in ENDINGS and split in path.name]
    return files[0] if len(files) == 1 else None
