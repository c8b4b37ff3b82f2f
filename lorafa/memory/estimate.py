"""Peak memory of a training step of any Hugging Face model, without weights and without a GPU.

The real model class, the real adapters and the real optimizer run one step on fake tensors. A model with few
blocks is run and its trace repeated to the full depth, which gives the peak that the full depth would give.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from lorafa.memory import allocator
from lorafa.memory.adapt import adapt
from lorafa.memory.batch import batch_of
from lorafa.memory.depth import Adapted, Depth, full, shallow, stack_carriers
from lorafa.memory.loss import set_loss
from lorafa.memory.models import (
    ModelNotFoundError,
    WithoutInit,
    attention_of,
    build,
    head_of,
    load_config,
    with_new_storage,
)
from lorafa.memory.placement import placed
from lorafa.memory.recipe import DTYPES, Recipe, RecipeError
from lorafa.memory.semantics import device_semantics, repeated_heads
from lorafa.memory.step import (
    ParameterCount,
    count_parameters,
    optimizer_of,
    trace_forward,
    trace_step,
)
from lorafa.memory.trace import NotRepeatableError, Trace
from lorafa.targets import block_stacks


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
        by_module: Activations at the peak, by the module that made them; "" for what the model itself makes.
        phase: The phase of the peak.
        saved: Activations that forward saved for backward.
        parameters: Elements of all parameters, shared ones once.
        trainable_parameters: Elements of those that are trained.
        attention: The attention that was run: "eager" where the model has no other.
        head: What the model is trained with, of `lorafa.memory.models.HEADS`; "none" where it has no such head, and
            its loss is the sum of its hidden states.
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
    attention: str
    head: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Recording:
    """A step's trace and the model's parameter count, at some depth."""

    trace: Trace
    parameters: ParameterCount


@lru_cache(maxsize=4096)
def estimate(recipe: Recipe) -> Estimate:
    """Estimate the memory of a training step after the first, when the optimizer's state exists.

    Raises:
        RecipeError: The recipe cannot be run on its model.
        ModelNotFoundError: The recipe's model is unknown.
    """
    config = load_config(recipe.model)
    try:
        recording = at_full_depth(recipe)
    except (RecipeError, ModelNotFoundError):
        raise
    except Exception as error:  # whatever a model's own code raises
        reason = next(iter(str(error).splitlines()), "") or "no reason given"
        raise RecipeError(
            f"{recipe.model}: a step of {recipe.method} cannot be run: {reason} ({type(error).__name__})"
        ) from error
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
        attention=recipe.attention if attention_of(config, recipe.attention) == "sdpa" else "eager",
        head=head_of(config),
    )


def at_full_depth(recipe: Recipe, shortcut: bool = True) -> Recording:
    """The step's recording at the model's full depth.

    Args:
        recipe: What to record.
        shortcut: Run a few blocks and repeat one of them, where the model's blocks are alike.
    """
    config = load_config(recipe.model)
    whole = full(config, recipe.layer_fraction)
    depth = shallow(config, recipe.layer_fraction) if shortcut else whole
    base = replace(recipe, shards=1, sharding="frozen", offload="none")
    try:
        recording = _repeat(_record(replace(base, layer_fraction=1.0), depth.adapted), depth)
    except NotRepeatableError:
        recording = _record(base, None)
    return replace(recording, trace=placed(recording.trace, recipe))


def forward_bytes(recipe: Recipe) -> int:
    """Bytes that a forward pass without gradients reserves, over one batch of the recipe's.

    Affine in the batch size, but for what the allocator rounds up: after two sizes, others are derived.
    """
    known = _forwards.setdefault(replace(recipe, batch_size=1), {})
    if recipe.batch_size not in known:
        if len(known) < 2:
            known[recipe.batch_size] = _record_forward(recipe)
        else:
            (few, at_few), (more, at_more), *_ = known.items()
            return at_few + (at_more - at_few) * (recipe.batch_size - few) // (more - few)
    return known[recipe.batch_size]


def _record_forward(recipe: Recipe) -> int:
    blocks = full(load_config(recipe.model), recipe.layer_fraction).adapted
    with fake_step(replace(recipe, layer_fraction=1.0), blocks) as (model, batch, _):
        return allocator.replay(trace_forward(model, batch)).peak_reserved


# Of passes without gradients: by recipe (batch size apart), then by batch size.
_forwards: dict[Recipe, dict[int, int]] = {}
BATCH, RANK = 0, 1
# What has been recorded: by recipe (batch size and rank apart) and depth, then by batch size and rank. Storages are
# affine in both, so that two recordings along either give every other one.
_recordings: dict[tuple[Recipe, Adapted | None], dict[tuple[int, int], Recording]] = {}


def _record(recipe: Recipe, adapted: Adapted | None) -> Recording:
    """Record a step, or derive it from two that differ in their batch size or rank alone."""
    accumulation = min(recipe.accumulation, 2)  # two keep their gradients as more do
    alike = replace(recipe, batch_size=1, rank=1, accumulation=accumulation)
    known = _recordings.setdefault((alike, adapted), {})
    at = (recipe.batch_size, recipe.rank)
    if at not in known:
        # What goes by chunks has more of them, and so other storages, at a larger batch.
        axes = (RANK,) if {"loss", "mlp"}.intersection(recipe.recompute) else (BATCH, RANK)
        known[at] = _derive(known, at, axes) or _run(recipe, adapted)
    return known[at]


def forget_recordings() -> None:
    """Record anew from here on."""
    _recordings.clear()
    _forwards.clear()
    estimate.cache_clear()


def _derive(
    known: dict[tuple[int, int], Recording], at: tuple[int, int], axes: Iterable[int]
) -> Recording | None:
    """Extrapolate along one axis from two recordings, if there are any; a size of one broadcasts and is left out."""
    for axis in axes:
        near = [point for point in known if point[1 - axis] == at[1 - axis] and point[axis] > 1]
        if at[axis] > 1 and len(near) > 1:
            first, second = (known[point] for point in near[:2])
            here, there, target = near[0][axis], near[1][axis], at[axis]
            return Recording(
                first.trace.extrapolated(second.trace, here, there, target),
                first.parameters.extrapolated(second.parameters, here, there, target),
            )
    return None


@contextmanager
def fake_step(
    recipe: Recipe, adapted: Adapted | None
) -> Iterator[tuple[nn.Module, dict[str, torch.Tensor], Optimizer]]:
    """What makes a step, on fake tensors: the model, a batch, and the optimizer, with the device's semantics on.

    Args:
        recipe: What to build.
        adapted: For each stack of the model, which of its blocks carry adapters; so many blocks are built. None for
            the model as it is, with adapters in the recipe's fraction of each stack.

    Raises:
        NotRepeatableError: The model does not have these stacks.
    """
    config = load_config(recipe.model)
    if adapted is not None:
        config = Depth(adapted, ()).apply(config)
    with WithoutInit():
        model = build(config, DTYPES[recipe.dtype], attention_of(config, recipe.attention))
        set_loss(model, recipe.loss)
        trained = adapt(model, recipe, stack_carriers(block_stacks(model), recipe.layer_fraction, adapted))
    autocast = None if recipe.autocast == "none" else DTYPES[recipe.autocast]
    heads = repeated_heads() if recipe.repeat_heads else nullcontext()
    with FakeTensorMode(), device_semantics(recipe.device, autocast), heads:
        with_new_storage(trained)
        yield trained, batch_of(config, recipe), optimizer_of(trained, recipe)


def _run(recipe: Recipe, adapted: Adapted | None) -> Recording:
    with fake_step(recipe, adapted) as (model, batch, optimizer):
        trace = trace_step(
            model,
            batch,
            optimizer,
            accumulated=recipe.accumulation > 1,
            outputs_until=recipe.outputs_until,
            device=recipe.device,
        )
    return Recording(trace, count_parameters(model))


def _repeat(recording: Recording, depth: Depth) -> Recording:
    plan = dict(zip(recording.parameters.stacks, depth.plans, strict=True))
    if all(len(kept) == len(set(kept)) for kept in depth.plans):
        return recording
    return Recording(recording.trace.repeat(plan), recording.parameters.repeat(plan))


def estimate_all(recipes: Iterable[Recipe], processes: int = 1) -> dict[Recipe, Estimate]:
    """Estimate many recipes; those that differ only in batch size, rank, fraction or shards share recordings.

    Args:
        recipes: What to estimate; repeated ones are estimated once.
        processes: How many share the work.
    """
    groups: defaultdict[Recipe, list[Recipe]] = defaultdict(list)
    for recipe in dict.fromkeys(recipes):
        groups[
            replace(
                recipe, batch_size=1, rank=1, layer_fraction=1.0, shards=1, sharding="frozen", offload="none"
            )
        ].append(recipe)
    if processes == 1:
        return {recipe: estimate(recipe) for group in groups.values() for recipe in group}
    largest_first = sorted(groups.values(), key=len, reverse=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        results = pool.map(_estimate_group, largest_first)
        return {result.recipe: result for group in results for result in group}


def _estimate_group(recipes: list[Recipe]) -> list[Estimate]:
    gc.freeze()  # what the imports made lives as long as the process; collecting it would cost a third of the time
    return [estimate(recipe) for recipe in recipes]
