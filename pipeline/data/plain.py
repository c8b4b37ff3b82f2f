"""Texts as tokens, in which only the tokenizer's template has control tokens: a text's own are words like others."""

from collections.abc import Sequence
from typing import cast

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

PLAIN = {"split_special_tokens": True}  # a tokenizer's argument: `</s>` in a text is no end of it


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """Tokenizes texts that others go on from: what the template puts before a text stays, what it puts behind does not.

    A tokenizer with `add_eos_token` would end a prompt, or a response a second time.

    Args:
        tokenizer: A fast one.
        texts: What is written in them is text, `</s>` and `<|im_end|>` included.

    Returns:
        For each text its tokens, and where in the text each of them ends (0 for those of the template).
    """
    tokens = tokenizer(
        list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False, **PLAIN
    )
    spelled = _spelled(tokenizer)
    found = []
    columns = (tokens["input_ids"], tokens["offset_mapping"], tokens["special_tokens_mask"])
    for ids, offsets, template in zip(*columns, strict=True):
        length = max((place + 1 for place, added in enumerate(template) if not added), default=len(ids))
        encoded: list[int] = []
        ends: list[int] = []
        for token, (_, end), added in list(zip(ids, offsets, template, strict=True))[:length]:
            pieces = [token] if added else spelled.get(token, [token])
            encoded += pieces
            ends += [end] * len(pieces)
        found.append((encoded, ends))
    return found


def _spelled(tokenizer: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """Returns each control token's letters as tokens: some vocabularies have the token as a word of the text, too."""
    controls = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    controls.pop(str(tokenizer.unk_token), None)
    return {
        token: cast(list[int], tokenizer.convert_tokens_to_ids(list(text)))
        for text, token in controls.items()
    }
