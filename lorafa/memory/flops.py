"""Floating-point operations of a training step and of a forward pass, counted without weights and without a GPU.

The real model, adapters and backward pass run on fake tensors under PyTorch's own counter, which counts matrix products
and attention: a multiplication and an addition are two operations. Blocks of one kind cost alike and sequences cost
alike, so that a shallow model and a small batch say what the full depth and batch cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import PreTrainedModel

from lorafa.memory.depth import Adapted, extrapolated
from lorafa.memory.estimate import fake_step
from lorafa.memory.models import load_config
from lorafa.memory.recipe import Recipe
from lorafa.memory.step import backward

BATCH = 2  # sequences that are counted; a size of one broadcasts


def _addmm_flops(_into: torch.Size, left: torch.Size, right: torch.Size, **_: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


# What PyTorch's counter leaves out: in place, which is how LoRA-FA's autograd function adds products up.
IN_PLACE = {torch.ops.aten.addmm_: _addmm_flops}
COUNTED = {*flop_registry, *IN_PLACE}
Pass = Callable[[nn.Module, dict[str, torch.Tensor]], object]


def new_counter() -> FlopCounterMode:
    """A counter of floating-point operations: enter it, and ask it for `get_total_flops()`."""
    return FlopCounterMode(display=False, custom_mapping=IN_PLACE)


def training_flops(recipe: Recipe) -> int:
    """Operations of forward and backward of one training step."""
    return _scaled(recipe, _train)


def forward_flops(recipe: Recipe) -> int:
    """Operations of a forward pass without gradients over one batch."""
    return _scaled(recipe, _forward)


def encoder_flops(recipe: Recipe) -> int:
    """Those of `forward_flops` that are the encoder's, in an encoder-decoder."""
    return _scaled(recipe, _encode)


def _train(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    backward(model(**batch).loss)


@torch.no_grad()
def _forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    model.eval()
    model(**batch)


@torch.no_grad()
def _encode(model: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    model.eval()
    base = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    base.get_encoder()(**{name: tensor for name, tensor in batch.items() if name != "labels"})


# What has been counted: by recipe (rank apart) and pass, then by rank.
_counted: dict[tuple[Recipe, Pass], dict[int, int]] = {}


def _scaled(recipe: Recipe, run: Pass) -> int:
    """Count a small batch and scale it up; operations are affine in the rank, too."""
    # Quantized weights are dequantized for products that are then those of any other weights.
    small = replace(recipe, batch_size=BATCH, quantization="none", prepared=False, shards=1)
    known = _counted.setdefault((replace(small, rank=1), run), {})
    if recipe.rank not in known:
        known[recipe.rank] = _along_rank(known, recipe.rank) or _at_full_depth(small, run)
    return known[recipe.rank] * recipe.batch_size // BATCH


def _along_rank(known: dict[int, int], rank: int) -> int | None:
    """Extrapolate from two ranks, if there are any."""
    if len(known) < 2:
        return None
    (here, at_here), (there, at_there), *_ = known.items()
    return at_here + (at_there - at_here) * (rank - here) // (there - here)


def _at_full_depth(recipe: Recipe, run: Pass) -> int:
    config = load_config(recipe.model)
    return extrapolated(config, recipe.layer_fraction, lambda adapted: _count(recipe, adapted, run))


def _count(recipe: Recipe, adapted: Adapted, run: Pass) -> int:
    counter = new_counter()
    with fake_step(replace(recipe, layer_fraction=1.0), adapted) as (model, batch, _), counter:
        run(model, batch)
    return counter.get_total_flops()
