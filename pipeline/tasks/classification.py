"""GLUE's tasks: an encoder with a head, scored on the validation splits, as the paper does."""

import statistics
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import TaskType
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline.assets import Source
from pipeline.config.schema import RunConfig
from pipeline.data import glue
from pipeline.metrics.glue import score
from pipeline.models import encoder
from pipeline.tasks import Evaluation, Model, TrainingData, cache

TASK_TYPE = TaskType.SEQ_CLS
TRAINED_HEAD = encoder.HEAD


def load_model(run: RunConfig, source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """Loads the encoder with a newly drawn head."""
    assert run.task.classification is not None
    return encoder.load(source, run.task.classification.num_labels, dtype)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Loads the encoder's tokenizer."""
    return encoder.load_tokenizer(source)


def training_data(
    run: RunConfig, sources: dict[str, Source], tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """Loads the task; validation splits follow one another and are scored by themselves."""
    data = glue.load(sources["data"], run.task, tokenizer, run.budget.max_length, cache(run))

    best: list[Evaluation] = []

    def scores(prediction: EvalPrediction) -> dict[str, float]:
        outputs = _outputs(run, data, np.asarray(prediction.predictions))
        found = score_validated(run, _predictions(data, outputs, prediction.label_ids))
        if not best or found.scores["score"] > best[0].scores["score"]:
            best[:] = [found]
        return found.scores

    return TrainingData(
        data.train,
        data.validation,
        DataCollatorWithPadding(tokenizer),
        scores,
        validated=lambda: best[0].predictions if best else None,
    )


def evaluate(
    run: RunConfig,
    sources: dict[str, Source],
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    _checkpoint: str,
) -> Evaluation:
    """Predicts every validation example."""
    data = glue.load(sources["data"], run.task, tokenizer, run.budget.max_length, cache(run))
    examples = data.validation
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(examples), 4 * run.budget.batch_size):
        stop = min(start + 4 * run.budget.batch_size, len(examples))
        rows = [examples[index] for index in range(start, stop)]
        columns = [key for key in rows[0] if key in tokenizer.model_input_names]
        batch = tokenizer.pad([{key: row[key] for key in columns} for row in rows], return_tensors="pt")
        parts.append(model(**batch.to(device)).logits.float().cpu().numpy())
    outputs = _outputs(run, data, np.concatenate(parts))
    return score_validated(run, _predictions(data, outputs, examples["labels"]))


def score_validated(run: RunConfig, predictions: pd.DataFrame) -> Evaluation:
    """Scores each validation split by itself; `score` is their mean (MNLI: matched and mismatched)."""
    by_split = {
        str(split): score(run.task.metric, rows.prediction.to_numpy(), rows.label.to_numpy())
        for split, rows in predictions.groupby("split", sort=False)
    }
    return Evaluation({"score": statistics.fmean(by_split.values()), **by_split}, predictions)


def _predictions(data: glue.GlueData, outputs: np.ndarray, labels: Any) -> pd.DataFrame:
    splits = np.repeat(list(data.validation_sizes), list(data.validation_sizes.values()))
    return pd.DataFrame({"split": splits, "prediction": outputs, "label": _labels(data, labels)})


def _outputs(run: RunConfig, data: glue.GlueData, logits: np.ndarray) -> np.ndarray:
    """Turns logits, examples × classes, into classes, or into numbers on the labels' own scale for regression."""
    assert run.task.classification is not None
    if run.task.classification.num_labels > 1:
        return logits.argmax(-1)
    return _labels(data, logits.squeeze(-1))


def _labels(data: glue.GlueData, values: Any) -> np.ndarray:
    """Returns labels, or what was predicted of them, on the data set's own scale."""
    return data.scale.restore(np.asarray(values)) if data.scale else np.asarray(values)
