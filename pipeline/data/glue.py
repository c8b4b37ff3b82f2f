"""GLUE tasks as token ids and labels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline.assets import Source
from pipeline.config.schema import Task
from pipeline.data import labels, plain

HELD_OUT = "held_out"  # the split that `task.held_out` makes of a part of the training split


@dataclass(frozen=True)
class Scale:
    """What labels have been standardised by: (label - mean) / deviation."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, labels: Sequence[float]) -> "Scale":
        """Returns the mean and deviation of some labels; a deviation of 1 where they are all the same."""
        return cls(float(np.mean(labels)), float(np.std(labels)) or 1.0)

    def standardize(self, data: Dataset) -> Dataset:
        """Returns examples with standardised labels."""
        scaled = (np.asarray(data["labels"]) - self.mean) / self.deviation
        return data.remove_columns("labels").add_column("labels", scaled.astype(np.float32))

    def restore(self, outputs: np.ndarray) -> np.ndarray:
        """Returns standardised numbers as what they were."""
        return outputs * self.deviation + self.mean


@dataclass(frozen=True)
class GlueData:
    """A task's training examples, and its validation splits, or what is held out, one after the other.

    Attributes:
        train: Columns `input_ids`, `attention_mask` (and `token_type_ids`), `labels`.
        validation: The same columns; the splits in the task's order, each from short to long.
        validation_sizes: The number of examples of each validation split.
        scale: What the labels have been standardised by, where they have.
    """

    train: Dataset
    validation: Dataset
    validation_sizes: dict[str, int]
    scale: Scale | None = None


def load(
    source: Source, task: Task, tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path
) -> GlueData:
    """Loads and tokenizes a task; texts are cut at `max_length` tokens and padded later, batch by batch.

    Args:
        source: The repository.
        task: Which subset, splits and columns.
        tokenizer: The model's.
        max_length: Tokens of the longest example, special tokens included.
        cache: Where prepared copies may stay.

    Raises:
        AssetError: The data set has not the task's splits or columns, or a row has a text or label that it cannot have.
    """
    assert task.classification is not None
    columns, num_labels = task.classification.text_columns, task.classification.num_labels
    validated = [] if task.held_out else task.validation_splits
    wanted = [task.train_split, *validated]
    splits = labels.read(source, task.subset, wanted, columns, num_labels, cache)
    if task.held_out:
        validated = [HELD_OUT]
        parted = splits[task.train_split].train_test_split(task.held_out, seed=0)
        splits = {task.train_split: parted["train"], HELD_OUT: parted["test"]}

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [batch[column] for column in columns]
        return tokenizer(*texts, truncation=True, max_length=max_length, **plain.PLAIN)

    # Said here, because finding it out from the function takes `map` a second.
    method = hashlib.sha256(f"{task}{max_length}{tokenizer.backend_tokenizer.to_str()}".encode()).hexdigest()

    def prepare(split: str) -> Dataset:
        raw = splits[split]
        extra = [column for column in raw.column_names if column != "label"]
        fingerprint = hashlib.sha256(f"{raw._fingerprint}{method}".encode()).hexdigest()[:16]
        tokens = raw.map(tokenize, batched=True, remove_columns=extra, new_fingerprint=fingerprint)
        return tokens.rename_column("label", "labels")

    train = prepare(task.train_split)
    parts = [_by_length(prepare(split)) for split in validated]
    sizes = {split: len(part) for split, part in zip(validated, parts, strict=True)}
    validation = concatenate_datasets(parts)
    if not task.classification.standardize:
        return GlueData(train, validation, sizes)
    scale = Scale.of(train["labels"])
    return GlueData(scale.standardize(train), scale.standardize(validation), sizes, scale)


def _by_length(data: Dataset) -> Dataset:
    """Sorts examples by their number of tokens: batches of one length need no padding."""
    return data.select(np.argsort([len(tokens) for tokens in data["input_ids"]], kind="stable"))
