"""Instruction data as rows of text and as tokens, with loss on the response alone.

A row has `instruction`, `input` and `output`. Alpaca's rows are that already; FLAN's are prompts that are used as they
are and have an empty instruction; for Super-NaturalInstructions, the instruction is the task's definition.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch.nn import functional
from transformers import DataCollatorForSeq2Seq
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline.assets import Source
from pipeline.config.schema import Instructions
from pipeline.data import natural_instructions, plain, repository
from pipeline.errors import AssetError, ConfigError

# https://github.com/tatsu-lab/stanford_alpaca#data-release
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
NO_LOSS = -100

# Format -> the source's column for each of a row's; FLAN has no instruction beside its input.
COLUMNS: dict[str, dict[str, str]] = {
    "alpaca": {"instruction": "instruction", "input": "input", "output": "output"},
    "flan": {"input": "inputs", "output": "targets"},
}


@dataclass(frozen=True)
class InstructionData:
    """Rows of text.

    Attributes:
        train: Columns `instruction`, `input`, `output`; natural-instructions also `task` and `references`.
        validation: The same columns, from the same tasks; no row is in both.
        test: natural-instructions alone: instances of the held-out tasks. `output` is the first of the `references`.
        selection: How the rows were drawn: `rows` that there are, `seed`, and `sha256` of the drawn rows' numbers
            (int64, little-endian; training, then validation, each in ascending order); the rows used for `train` and
            `validation`, and the drawn rows that were dropped for want of a response, `empty`.
    """

    train: Dataset
    validation: Dataset
    test: Dataset | None
    selection: dict[str, Any]


def load(source: Source, instructions: Instructions, cache: Path) -> InstructionData:
    """Reads and divides instruction data. Rows without a response are dropped: they would teach to say nothing.

    Args:
        source: The repository.
        instructions: What to read of it.
        cache: Where prepared copies may stay.

    Raises:
        AssetError: The data set is not there, has other columns or too few rows.
        ConfigError: A task is both trained on and held out.
    """
    test = None
    if instructions.format == "natural-instructions":
        raw, test = _natural_instructions(source, instructions)
    else:
        raw = _read(source, COLUMNS[instructions.format], cache)
    train_rows, validation_rows = _draw(len(raw), instructions, source)
    drawn = np.concatenate([train_rows, validation_rows]).astype("<i8")
    parts = [raw.select(rows) for rows in (train_rows, validation_rows)]
    if instructions.format in COLUMNS:
        parts = [_rename(part, COLUMNS[instructions.format]) for part in parts]
    train, validation = (_answered(part) for part in parts)
    selection = {
        "rows": len(raw),
        "seed": instructions.sample_seed,
        "sha256": hashlib.sha256(drawn.tobytes()).hexdigest(),
        "train": len(train),
        "validation": len(validation),
        "empty": len(drawn) - len(train) - len(validation),
    }
    return InstructionData(train, validation, test, selection)


def prompt(row: Mapping[str, Any]) -> str:
    """Returns what the model is given: Alpaca's template, or the input alone where there is no instruction."""
    if not row["instruction"]:
        return row["input"]
    template = WITH_INPUT if row["input"] else WITHOUT_INPUT
    return template.format(instruction=row["instruction"], input=row["input"])


def tokenize(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, max_target_length: int
) -> Dataset:
    """Returns prompt, response and end-of-sequence as `input_ids`, `attention_mask` and `labels`, not padded.

    Labels are -100 on the prompt. A space stands between prompt and response, as lm-eval puts one before an answer:
    words that follow a space are the tokens that the model knows. Prompt and response are tokenized in one piece and
    then cut separately, each at its end (https://github.com/artidoro/qlora): the end-of-sequence of a response that is
    too long is cut off, too, so that the model does not learn to stop in the middle. It is the only one: `</s>` in a
    text is text, and the one that a tokenizer puts behind a text is left out.

    Args:
        rows: As `load` returns them.
        tokenizer: The model's, a fast one; what it puts before a text (LLaMA's <s>) counts as prompt.
        max_length: Tokens of the longest prompt.
        max_target_length: Tokens of the longest response, end-of-sequence included.
    """

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        columns = zip(batch["instruction"], batch["input"], strict=True)
        prompts = [prompt({"instruction": instruction, "input": text}) for instruction, text in columns]
        texts = [f"{given} {response}" for given, response in zip(prompts, batch["output"], strict=True)]
        encoded: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
        for given, (ids, ends) in zip(prompts, plain.encode(tokenizer, texts), strict=True):
            start = next(index for index, end in enumerate(ends) if end > len(given))
            source = ids[:start][:max_length]
            target = [*ids[start:], tokenizer.eos_token_id][:max_target_length]
            encoded["input_ids"].append(source + target)
            encoded["attention_mask"].append([1] * (len(source) + len(target)))
            encoded["labels"].append([NO_LOSS] * len(source) + target)
        return encoded

    # Said here, because finding it out from the function takes `map` a second.
    method = ("plain", WITH_INPUT, WITHOUT_INPUT, max_length, max_target_length, tokenizer.eos_token_id)
    fingerprint = _fingerprint(rows, *method, tokenizer.backend_tokenizer.to_str())
    return rows.map(encode, batched=True, remove_columns=rows.column_names, new_fingerprint=fingerprint)


def collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Returns what makes a padded batch of tokenized rows, in which a decoder computes logits for responses alone.

    The loss is the same as with all logits: the rest has none. Where prompts are long or the vocabulary is large, the
    logits of prompts would be a good part of a step's time and memory.

    Returns:
        A function of rows. Beside `input_ids`, `attention_mask` and `labels`, each (batch, tokens), its batches have
        `logits_to_keep` (positions,), those after which any row has a label, and their next tokens' labels,
        `shift_labels` (batch, positions).
    """
    pad = DataCollatorForSeq2Seq(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(rows)
        following = functional.pad(batch["labels"], (0, 1), value=NO_LOSS)[:, 1:]
        positions = (following != NO_LOSS).any(dim=0).nonzero().squeeze(1)
        return {**batch, "logits_to_keep": positions, "shift_labels": following[:, positions]}

    return collate


def _natural_instructions(source: Source, instructions: Instructions) -> tuple[Dataset, Dataset | None]:
    """Returns the rows to train and validate on, and those of the held-out tasks."""
    tasks, held_out, limit = instructions.train_tasks, instructions.heldout_tasks, None
    if not tasks and not held_out:
        tasks, held_out = natural_instructions.split(source)
        limit = natural_instructions.TRAIN_INSTANCES
    if shared := set(tasks) & set(held_out):
        raise ConfigError(f"trained on and held out: {', '.join(sorted(shared))}")
    raw = natural_instructions.read(source, tasks, limit)
    if not held_out:
        return raw, None
    return raw, _answered(natural_instructions.read(source, held_out, natural_instructions.TEST_INSTANCES))


def _read(source: Source, columns: dict[str, str], cache: Path) -> Dataset:
    """Returns the training split or, where splits are FLAN's submixtures, all of them; not loaded into memory."""
    splits = repository.load(source, cache)
    parts = [splits["train"]] if "train" in splits else list(splits.values())
    for part in parts:
        missing = set(columns.values()) - set(part.column_names)
        if missing:
            found = ", ".join(part.column_names)
            raise AssetError(f"{source.path}: no column {', '.join(sorted(missing))}, only {found}")
    return concatenate_datasets(parts)


def _draw(total: int, instructions: Instructions, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the rows to train on and of those held out."""
    held_out = instructions.held_out
    wanted = total if instructions.sample is None else held_out + instructions.sample
    if total < wanted or total <= held_out:
        raise AssetError(
            f"{source.path} has {total} rows, too few to hold out {held_out} and train on "
            f"{instructions.sample or 'the rest'}"
        )
    drawn = np.random.default_rng(instructions.sample_seed).choice(total, wanted, replace=False)
    return np.sort(drawn[held_out:]), np.sort(drawn[:held_out])


def _rename(data: Dataset, columns: dict[str, str]) -> Dataset:
    def rename(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        rows = len(batch[columns["output"]])
        return {"instruction": [""] * rows} | {name: batch[column] for name, column in columns.items()}

    fingerprint = _fingerprint(data, columns)
    return data.map(rename, batched=True, remove_columns=data.column_names, new_fingerprint=fingerprint)


def _answered(data: Dataset) -> Dataset:
    return data.select([index for index, text in enumerate(data["output"]) if text and text.strip()])


def _fingerprint(data: Dataset, *method: object) -> str:
    return hashlib.sha256(f"{data._fingerprint}{method}".encode()).hexdigest()[:16]
