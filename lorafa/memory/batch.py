"""Batches of the shapes that models take: tokens, pictures, spectra and sound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import PretrainedConfig

from lorafa.memory.models import class_of, head_of
from lorafa.memory.recipe import DTYPES, Recipe

WRITE = ("causal-lm", "image-text-to-text")
IMAGE = 224  # pixels on a side where the configuration does not say


def batch_of(config: PretrainedConfig, recipe: Recipe) -> dict[str, torch.Tensor]:
    """A batch of the recipe's size: the model's inputs, and labels if it has a head.

    The length is that of text, or of sound after the convolutions; pictures and spectra have their model's size. A
    model of pictures and text is given text alone.
    """
    if recipe.packed:
        length = recipe.batch_size * recipe.source_length
        recipe = replace(recipe, packed=False, batch_size=1, source_length=length)
    inputs = _inputs(config, recipe)
    head = head_of(config)
    if head == "none":
        return inputs
    if head in WRITE:
        shape: tuple[int, ...] = (recipe.batch_size, recipe.source_length)
    elif head in ("seq2seq-lm", "speech-seq2seq"):
        longest = getattr(config, "max_target_positions", None) or recipe.source_length
        shape = (recipe.batch_size, recipe.target_length or min(recipe.source_length, longest))
    else:
        shape = (recipe.batch_size,)
    return inputs | {"labels": torch.zeros(shape, dtype=torch.long)}


def takes_length(config: PretrainedConfig) -> bool:
    """Whether the recipe's length is that of the model's input."""
    named = class_of(config).main_input_name in ("input_ids", "input_values") and not _has_spectra(config)
    return named or head_of(config) in WRITE


def _inputs(config: PretrainedConfig, recipe: Recipe) -> dict[str, torch.Tensor]:
    name, dtype = class_of(config).main_input_name, DTYPES[recipe.dtype]
    if name == "input_ids" or head_of(config) in WRITE:
        return _tokens(recipe)
    if name == "pixel_values":
        shape = _image(config)
    elif name == "input_features":
        shape = (config.num_mel_bins, 2 * config.max_source_positions)
    elif _has_spectra(config):
        shape = (config.max_length, config.num_mel_bins)
    else:
        shape = (recipe.source_length * math.prod(getattr(config, "conv_stride", (320,))),)
    return {name: torch.zeros(recipe.batch_size, *shape, dtype=dtype)}


def _tokens(recipe: Recipe) -> dict[str, torch.Tensor]:
    """int64 ids, and the mask of a padded batch (none for flash)."""
    shape = (recipe.batch_size, recipe.source_length)
    batch = {"input_ids": torch.zeros(shape, dtype=torch.long)}
    if recipe.attention != "flash":
        batch["attention_mask"] = torch.ones(shape, dtype=torch.long)
        batch["attention_mask"][:, -1] = 0
    return batch


def _image(config: PretrainedConfig) -> tuple[int, ...]:
    own: Any = getattr(config, "vision_config", config)
    size = getattr(own, "image_size", IMAGE)
    if isinstance(size, Mapping):
        size = (size["height"], size["width"])
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(own, "num_channels", 3), height, width


def _has_spectra(config: PretrainedConfig) -> bool:
    """Whether `input_values` are a spectrum (the audio spectrogram transformer's) and no waveform."""
    return hasattr(config, "num_mel_bins") and hasattr(config, "max_length")
