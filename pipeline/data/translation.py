"""Parallel text in the schema of WMT16, as sentences and as T5's token ids."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from pipeline.assets import Source
from pipeline.data import repository
from pipeline.data.plain import PLAIN
from pipeline.errors import AssetError

COLUMN = "translation"


def load(
    source: Source,
    subset: str | None,
    splits: Sequence[str],
    source_language: str,
    target_language: str,
    cache: Path,
) -> dict[str, Dataset]:
    """Loads sentence pairs, letter for letter: ș and ț keep their comma below.

    Args:
        source: The repository; its column `translation` holds a sentence by language, as wmt/wmt16's does.
        subset: The configuration, such as ro-en.
        splits: Which splits to load.
        source_language: Code of the language to translate from.
        target_language: Code of the language to translate into.
        cache: Where prepared copies may stay.

    Returns:
        Each split with the columns `source` and `target`.

    Raises:
        AssetError: The data set has not the subset, a split, the column or a language.
    """
    names = {f"{COLUMN}.{source_language}": "source", f"{COLUMN}.{target_language}": "target"}
    pairs = {}
    for split, data in repository.read(source, subset, splits, [COLUMN], cache).items():
        flat = data.flatten()
        missing = names.keys() - set(flat.column_names)
        if missing:
            raise AssetError(
                f"{source.path}, {subset}, {split}: no {', '.join(sorted(missing))}, "
                f"only {', '.join(flat.column_names)}"
            )
        pairs[split] = flat.select_columns(list(names)).rename_columns(names)
    return pairs


def tokenize(
    pairs: Dataset,
    prefix: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_target_length: int,
) -> Dataset:
    """Turns sentence pairs into an encoder's input and its decoder's labels, padded later, batch by batch.

    Args:
        pairs: Columns `source` and `target`.
        prefix: What stands before every source, T5's name of the task (Raffel et al., 2020, §2.4).
        tokenizer: The model's; it ends both sides with the end-of-sequence token, also where they are cut.
        max_length: Tokens of the longest input, prefix and end included.
        max_target_length: Tokens of the longest target, end included.

    Returns:
        Columns `input_ids`, `attention_mask` and `labels`, in the order of `pairs`.
    """

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        sources = [prefix + text for text in batch["source"]]
        encoded = tokenizer(sources, truncation=True, max_length=max_length, **PLAIN)
        labels = tokenizer(
            text_target=batch["target"], truncation=True, max_length=max_target_length, **PLAIN
        )
        return {
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "labels": labels["input_ids"],
        }

    # Said here, because finding it out from the function takes `map` a second. A tokenizer remembers how it cut the
    # last text; that is no part of it.
    words = {**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None}
    method = f"{pairs._fingerprint}{prefix}{max_length}/{max_target_length}{json.dumps(words)}"
    fingerprint = hashlib.sha256(method.encode()).hexdigest()[:16]
    return pairs.map(encode, batched=True, remove_columns=pairs.column_names, new_fingerprint=fingerprint)
