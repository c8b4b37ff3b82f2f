"""WMT16 En-Ro: an encoder-decoder that is scored by BLEU and ROUGE-L of what it generates."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import TaskType
from tqdm import tqdm
from transformers import DataCollatorForSeq2Seq, EvalPrediction, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline.assets import Source
from pipeline.config.schema import RunConfig, Translation
from pipeline.data import translation as data
from pipeline.metrics.translation import bleu_signature, score
from pipeline.models import encoder_decoder
from pipeline.tasks import Evaluation, Model, TrainingData, cache

TASK_TYPE = TaskType.SEQ_2_SEQ_LM
TRAINED_HEAD = None


def load_model(run: RunConfig, source: Source, dtype: torch.dtype) -> PreTrainedModel:
    """Loads the encoder-decoder, with the task's way of generating as its own."""
    model = encoder_decoder.load(source, dtype)
    settings = _settings(run)
    model.generation_config.update(
        do_sample=False,
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty,
        max_new_tokens=run.budget.max_target_length,
    )
    return model


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Loads its tokenizer."""
    return encoder_decoder.load_tokenizer(source)


def training_data(
    run: RunConfig, sources: dict[str, Source], tokenizer: PreTrainedTokenizerBase
) -> TrainingData:
    """Loads the pairs; validation generates, and `score` is its BLEU."""
    (validation,) = run.task.validation_splits
    pairs = _load(run, sources, [run.task.train_split, validation])
    train, held_out = (
        _tokenize(run, pairs[split], tokenizer) for split in (run.task.train_split, validation)
    )
    references = pairs[validation]["target"]

    def scores(prediction: EvalPrediction) -> dict[str, float]:
        found = score(_decode(tokenizer, np.asarray(prediction.predictions)), references)
        return {"score": found["bleu"], **found}

    arguments = {"predict_with_generate": True}
    return TrainingData(train, held_out, DataCollatorForSeq2Seq(tokenizer), scores, arguments)


def evaluate(
    run: RunConfig,
    sources: dict[str, Source],
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    _checkpoint: str,
) -> Evaluation:
    """Translates the test splits; the first one's scores are the run's, the others' carry their name."""
    splits = run.task.scoring.splits
    pairs = _load(run, sources, splits)
    scores: dict[str, float] = {}
    parts = []
    for split in splits:
        chosen = pairs[split]
        if run.task.scoring.examples is not None:
            chosen = chosen.select(range(min(run.task.scoring.examples, len(chosen))))
        found = _translate(run, model, tokenizer, chosen)
        prefix = "" if split == splits[0] else f"{split}_"
        scores |= {f"{prefix}{key}": value for key, value in score(found, chosen["target"]).items()}
        parts.append(
            pd.DataFrame(
                {
                    "split": split,
                    "source": chosen["source"],
                    "reference": chosen["target"],
                    "prediction": found,
                }
            )
        )
    return Evaluation(scores, pd.concat(parts, ignore_index=True), {"bleu_signature": bleu_signature()})


def _settings(run: RunConfig) -> Translation:
    assert run.task.translation is not None
    return run.task.translation


def _load(run: RunConfig, sources: dict[str, Source], splits: list[str]) -> dict[str, Dataset]:
    settings = _settings(run)
    assert run.task.subset is not None
    return data.load(
        sources["data"],
        run.task.subset,
        splits,
        settings.source_language,
        settings.target_language,
        cache(run),
    )


def _tokenize(run: RunConfig, pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    assert run.budget.max_target_length is not None
    return data.tokenize(
        pairs, _settings(run).prefix, tokenizer, run.budget.max_length, run.budget.max_target_length
    )


def _translate(run: RunConfig, model: Model, tokenizer: PreTrainedTokenizerBase, pairs: Dataset) -> list[str]:
    """Generates in batches of similar length, and returns in the order of the pairs."""
    examples = _tokenize(run, pairs, tokenizer).remove_columns("labels")
    order = np.argsort([-len(tokens) for tokens in examples["input_ids"]], kind="stable")
    found: dict[int, str] = {}
    device = next(model.parameters()).device
    for start in tqdm(range(0, len(order), run.budget.batch_size), desc="translating", unit="batch"):
        rows = order[start : start + run.budget.batch_size]
        batch = tokenizer.pad([examples[int(row)] for row in rows], return_tensors="pt").to(device)
        tokens = model.generate(**batch)  # type: ignore[operator]
        found |= dict(zip(rows.tolist(), _decode(tokenizer, tokens.cpu().numpy()), strict=True))
    return [found[row] for row in range(len(order))]


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Any) -> list[str]:
    padded = np.where(tokens < 0, tokenizer.pad_token_id, tokens)  # the Trainer pads with -100
    return [text.strip() for text in tokenizer.batch_decode(padded, skip_special_tokens=True)]
