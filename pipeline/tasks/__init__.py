"""The kinds of task that the paper trains on: what each reads, how it is trained and how a finished run is scored.

A kind is a module with the attributes of `Kind`: `classification` (GLUE), `translation` (WMT16) and `instructions`
(Alpaca, FLAN v2 and Super-NaturalInstructions).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from datasets import Dataset
from peft import PeftModel, TaskType
from transformers import EvalPrediction, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline import assets
from pipeline.assets import Source, needs
from pipeline.config.schema import RunConfig

Model = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class TrainingData:
    """What the Trainer needs of a task.

    Attributes:
        train, validation: Tokenized examples.
        collator: Makes a batch of examples.
        scores: What validation is scored by, with the key `score`; None for the loss alone.
        arguments: More training arguments.
        selection: Which examples were drawn, for the record.
        validated: Returns what was predicted at the best evaluation so far, where validation is what a run is scored
            on: scoring need not predict it again.
    """

    train: Dataset
    validation: Dataset
    collator: Callable[[list[dict[str, Any]]], dict[str, Any]]
    scores: Callable[[EvalPrediction], dict[str, float]] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    selection: dict[str, Any] = field(default_factory=dict)
    validated: Callable[[], pd.DataFrame | None] = lambda: None


@dataclass(frozen=True)
class Evaluation:
    """How a finished run scores.

    Attributes:
        scores: By name; fractions of 1 for classification and MMLU, percent for BLEU and ROUGE-L.
        predictions: One row an example, with the column `split` (or `subject`), in an order that only the data decide,
            so that the rows of two runs can be compared.
        details: What a table's footnote needs, such as the metric's signature.
    """

    scores: dict[str, float]
    predictions: pd.DataFrame
    details: dict[str, Any] = field(default_factory=dict)


class Kind(Protocol):
    """What a kind of task provides."""

    TASK_TYPE: TaskType
    TRAINED_HEAD: str | None

    def load_model(self, run: RunConfig, source: Source, dtype: torch.dtype) -> PreTrainedModel:
        """Loads the base model."""

    def load_tokenizer(self, source: Source) -> PreTrainedTokenizerBase:
        """Loads the model's tokenizer."""

    def training_data(
        self, run: RunConfig, sources: dict[str, Source], tokenizer: PreTrainedTokenizerBase
    ) -> TrainingData:
        """Loads what the run trains and validates on."""

    def evaluate(
        self,
        run: RunConfig,
        sources: dict[str, Source],
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        checkpoint: str,
        /,
    ) -> Evaluation:
        """Scores a finished run; `checkpoint` is a fingerprint of its weights, to recognise what was scored before."""

    def score_validated(self, run: RunConfig, predictions: pd.DataFrame) -> Evaluation:
        """Scores what training has predicted for the checkpoint that it saved, where the kind keeps it."""


def kind_of(run: RunConfig) -> Kind:
    """Returns the module of the run's kind of task."""
    return import_module(f"{__name__}.{run.task.kind}")


def training_sources(run: RunConfig) -> dict[str, Source]:
    """Finds the repositories that a run trains with: its `model` and `data`."""
    return _sources(run, ("model", "data"))


def evaluation_sources(run: RunConfig) -> dict[str, Source]:
    """Finds the repositories that a run is scored with: `model`, `data` and, where it has one, its `benchmark`."""
    return _sources(run, ("model", "data", "benchmark"))


def cache(run: RunConfig) -> Path:
    """Returns the folder for what is made once and used by many runs."""
    return Path(run.profile.cache)


def _sources(run: RunConfig, names: tuple[str, ...]) -> dict[str, Source]:
    found = needs.of_run(run)
    return {
        name: assets.locate(found[name], run.profile.mirror, cache(run)) for name in names if name in found
    }
