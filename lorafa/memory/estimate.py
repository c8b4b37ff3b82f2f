"""Peak memory of a training step of any Hugging Face model, without weights and without a GPU.

The real model class, the real adapters and the real optimizer run one step on fake tensors. A model with few
blocks is run and its trace repeated to the full depth, which gives the peak that the full depth would give.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from lorafa.memory import allocator
from lorafa.memory.adapt import adapt
from lorafa.memory.models import build, depths, load_config, with_new_storage
from lorafa.memory.recipe import DTYPES, Recipe
from lorafa.memory.semantics import device_semantics
from lorafa.memory.step import ParameterCount, batch_of, count_parameters, new_optimizer, trace_step
from lorafa.memory.trace import Block, NotRepeatableError, Segment, Storage, Trace
from lorafa.memory.tracker import block_stacks

# Of equal blocks in a row five are run: the first, a neighbour, the repeated one, a neighbour, the last.
KEPT = 5
REPEATED = 2


@dataclass(frozen=True)
class Estimate:
    """The memory of one training step; all sizes in bytes.

    Attributes:
        recipe: What was estimated.
        peak: Most bytes allocated at once: what `torch.cuda.max_memory_allocated` would say.
        reserved: What `torch.cuda.max_memory_reserved` would say: the peak and the allocator's cache.
        breakdown: Bytes at the peak by category (weights, adapters, gradients, optimizer, inputs, activations
            saved for backward, temporaries), and `cache`: reserved − peak.
        by_phase: Peak of forward (with the loss), backward, and optimizer.
        by_module: Activations and temporaries at the peak, by module.
        phase: The phase of the peak.
        saved: Activations that forward saved for backward.
        parameters: Elements of all parameters, shared ones once.
        trainable_parameters: Elements of those that are trained.
    """

    recipe: Recipe
    peak: int
    reserved: int
    breakdown: dict[str, int]
    by_phase: dict[str, int]
    by_module: dict[str, int]
    phase: str
    saved: int
    parameters: int
    trainable_parameters: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Recording:
    """A step's trace and the model's parameter count, at some depth."""

    trace: Trace
    parameters: ParameterCount


def estimate(recipe: Recipe) -> Estimate:
    """Estimate the memory of a training step after the first, when the optimizer's state exists.

    Raises:
        RecipeError: The recipe cannot be run on its model.
        ModelNotFoundError: The recipe's model is unknown.
    """
    recording = at_full_depth(recipe)
    timeline = recording.trace.timeline()
    reserved = allocator.replay(recording.trace).peak_reserved
    return Estimate(
        recipe=recipe,
        peak=timeline.peak,
        reserved=reserved,
        breakdown=timeline.breakdown | {"cache": reserved - timeline.peak},
        by_phase=timeline.by_phase,
        by_module=timeline.by_module,
        phase=timeline.phase,
        saved=timeline.saved,
        parameters=recording.parameters.total,
        trainable_parameters=recording.parameters.trainable,
    )


def at_full_depth(recipe: Recipe, shortcut: bool = True) -> Recording:
    """The step's recording at the model's full depth.

    Args:
        recipe: What to record.
        shortcut: Run a few blocks and repeat one of them, where the model's blocks are alike.
    """
    config = load_config(recipe.model)
    adapted = tuple(carriers(getattr(config, name), recipe.layer_fraction) for name in depths(config))
    base = replace(recipe, layer_fraction=1.0, shards=1)
    recording = None
    if shortcut and blocks_are_alike(config):
        kept = tuple(tuple(kept_blocks(flags)) for flags in adapted)
        shallow = _record(base, tuple(_flags(flags, k) for flags, k in zip(adapted, kept, strict=True)))
        try:
            recording = _repeat(shallow, kept)
        except NotRepeatableError:
            recording = None
    if recording is None:
        recording = _record(base, adapted)
    return (
        replace(recording, trace=sharded(recording.trace, recipe.shards)) if recipe.shards > 1 else recording
    )


def carriers(depth: int, fraction: float) -> tuple[bool, ...]:
    """Which blocks of a stack carry adapters: the last `fraction` of them, at least one."""
    carrying = max(1, round(depth * fraction))
    return (False,) * (depth - carrying) + (True,) * carrying


def kept_blocks(flags: Sequence[bool]) -> list[int]:
    """For each block of the full depth, the block of a shallow model that stands for it.

    Of each run of equal flags `KEPT` blocks are kept; the others are copies of the middle one.
    """
    plan: list[int] = []
    start = 0
    for _, run in groupby(flags):
        length = len(list(run))
        copies = max(1, length - KEPT + 1)
        kept = min(length, KEPT)
        plan += [start + i for i in range(kept) for _ in range(copies if i == REPEATED else 1)]
        start += kept
    return plan


def _flags(flags: Sequence[bool], plan: Sequence[int]) -> tuple[bool, ...]:
    """The flags of the shallow model's blocks."""
    return tuple(flags[plan.index(kept)] for kept in sorted(set(plan)))


def blocks_are_alike(config: PretrainedConfig) -> bool:
    """Whether the configuration gives all blocks of a stack the same shape."""
    return len(set(getattr(config, "layer_types", None) or [])) <= 1


def shallow_config(config: PretrainedConfig, stack_depths: Sequence[int]) -> PretrainedConfig:
    """The configuration with other depths, in the order of `depths(config)`."""
    config = copy.deepcopy(config)
    for name, depth in zip(depths(config), stack_depths, strict=True):
        setattr(config, name, depth)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: stack_depths[0]]
    return config


@lru_cache(maxsize=512)
def _record(recipe: Recipe, adapted: tuple[tuple[bool, ...], ...]) -> Recording:
    config = shallow_config(load_config(recipe.model), [len(flags) for flags in adapted])
    model = build(config, DTYPES[recipe.dtype], "eager" if recipe.attention == "eager" else "sdpa")
    stacks = list(block_stacks(model))
    trained = adapt(model, recipe, dict(zip(stacks, adapted, strict=True)))
    autocast = None if recipe.autocast == "none" else DTYPES[recipe.autocast]
    with FakeTensorMode(), device_semantics(recipe.device, autocast):
        with_new_storage(trained)
        optimizer = new_optimizer(trained, recipe)
        trace = trace_step(trained, batch_of(config, recipe), optimizer)
    return Recording(trace, count_parameters(trained))


def _repeat(shallow: Recording, plans: Sequence[Sequence[int]]) -> Recording:
    plan = dict(zip(shallow.parameters.stacks, plans, strict=True))
    return Recording(shallow.trace.repeat(plan), shallow.parameters.repeat(plan))


def sharded(trace: Trace, shards: int) -> Trace:
    """The trace with frozen weights divided over ranks (ZeRO stage 3, paper §3.2).

    Each rank keeps 1/shards of every frozen weight, and two gathered blocks: the one in use and the one
    prefetched. Adapters, their gradients and states are not sharded.
    """
    per_block: dict[Block, int] = {}
    storages: list[Storage] = []
    for storage in trace.storages:
        if storage.category == "weights":
            block = storage.segment.block
            if block is not None:
                per_block[block] = per_block.get(block, 0) + storage.nbytes
            storage = storage._replace(nbytes=-(-storage.nbytes // shards))
        storages.append(storage)
    return Trace(storages, list(trace.events)).preceded_by(
        Storage(2 * max(per_block.values()), Segment("weights"), category="weights", op="all_gather")
    )
