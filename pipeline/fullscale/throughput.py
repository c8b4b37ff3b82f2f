"""How fast a step would be on a GPU, from its arithmetic and its memory traffic: a model, not a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lorafa.memory.estimate import fake_step
from lorafa.memory.fit import largest_batch
from lorafa.memory.flops import COUNTED, new_counter
from lorafa.memory.models import depths, load_config
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.memory.step import backward
from pipeline.costs import cards

SHALLOW = (2, 3)  # blocks of the two models that the full depth is extrapolated from
SMALL = (2, 4)  # and batch sizes, that larger ones are


@dataclass(frozen=True)
class Accelerator:
    """What a GPU can do, and how much of it steps are assumed to get.

    Attributes:
        flops: Dense half-precision multiplications and additions per second.
        bandwidth: Bytes per second of device memory.
        flops_efficiency: Share of `flops` that matrix products and attention reach.
        bandwidth_efficiency: Share of `bandwidth` that all other operators reach.
    """

    flops: float
    bandwidth: float
    flops_efficiency: float = 0.6
    bandwidth_efficiency: float = 0.8


A100_80GB = Accelerator(flops=312e12, bandwidth=2.039e12)  # NVIDIA's data sheet, SXM, bf16 without sparsity


@dataclass(frozen=True)
class Work:
    """The work of forward and backward.

    Attributes:
        flops: Of matrix products and attention.
        traffic: Bytes that the other operators read and write.
    """

    flops: float
    traffic: float

    def extrapolate(self, further: Work, steps: float) -> Work:
        """The work `steps` times as far from this one as `further` is."""
        return Work(
            self.flops + steps * (further.flops - self.flops),
            self.traffic + steps * (further.traffic - self.traffic),
        )


class _Traffic(TorchDispatchMode):
    """Adds up what operators without matrix products read and write; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket not in COUNTED:
            tensors = [t for t in tree_iter((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.nbytes += sum(t.nbytes for t in tensors)
        return out


def step_work(recipe: Recipe) -> Work:
    """The work of one step; affine in depth and in the batch size, and extrapolated from small ones.

    Raises:
        RecipeError: Only a part of the layers carries adapters, or the weights are quantized.
    """
    if recipe.layer_fraction < 1 or recipe.quantization != "none":
        raise RecipeError("throughput is modelled for layer_fraction 1 and quantization none")
    if recipe.batch_size <= max(SMALL):
        return _at_full_depth(recipe)
    few, more = (_at_full_depth(replace(recipe, batch_size=size)) for size in SMALL)
    return few.extrapolate(more, (recipe.batch_size - SMALL[0]) / (SMALL[1] - SMALL[0]))


@lru_cache(maxsize=1024)
def _at_full_depth(recipe: Recipe) -> Work:
    config = load_config(recipe.model)
    depth = [getattr(config, name) for name in depths(config)]
    few, more = (_count(recipe, tuple((True,) * n for _ in depth)) for n in SHALLOW)
    return few.extrapolate(more, max(depth) - SHALLOW[0])


def _count(recipe: Recipe, adapted: tuple[tuple[bool, ...], ...]) -> Work:
    counters = new_counter(), _Traffic()
    with fake_step(recipe, adapted) as (model, batch, _), counters[0] as flops, counters[1] as traffic:
        backward(model(**batch).loss)
    return Work(flops.get_total_flops(), traffic.nbytes)


def tokens_per_second(recipe: Recipe, device: Accelerator = A100_80GB) -> float:
    """Modelled throughput: products at a share of the arithmetic peak, then the rest at a share of the bandwidth.

    Args:
        recipe: One step; its padded tokens are counted.
        device: The GPU.
    """
    work = step_work(recipe)
    seconds = work.flops / (device.flops * device.flops_efficiency)
    seconds += work.traffic / (device.bandwidth * device.bandwidth_efficiency)
    return recipe.batch_size * recipe.source_length / seconds


def at_equal_memory(recipe: Recipe, card: str) -> dict[str, float]:
    """The largest batch that fits a card, `batch_size`, and the `tokens_per_second` with it; 0 of both where none does.

    Args:
        recipe: One step, of any batch size.
        card: A name in `pipeline.costs.cards`.
    """
    gpu = cards.gpu(card)
    size = largest_batch(recipe, gpu.memory)
    largest, device = replace(recipe, batch_size=max(size, 1)), Accelerator(gpu.half, gpu.bandwidth)
    return {"batch_size": size, "tokens_per_second": tokens_per_second(largest, device) if size else 0.0}
