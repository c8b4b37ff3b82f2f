"""A budget of memory in, a training step out: the cheapest rungs of the ladder and micro-batches that fit."""

from __future__ import annotations

import copy
import tempfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from lorafa.memory.fit import safe
from lorafa.memory.flops import training_flops
from lorafa.memory.models import WithoutInit, attention_of, build, depths, load_config
from lorafa.memory.recipe import DTYPES, Recipe, RecipeError
from lorafa.memory.sizes import GIB, bytes_of
from lorafa.options import FreeRecompute, Recompute
from lorafa.recompute import available

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lorafa.config import LoraFaConfig

Rung = tuple[Recompute, ...]
FREE: Rung = get_args(FreeRecompute)
# From the cheapest to the dearest, exact all of them. One that adds to the one before it may be for some blocks only.
LADDER: tuple[Rung, ...] = ((), FREE, (*FREE, "qkv"), (*FREE, "qkv", "mlp"), (*FREE, "block"))
# The last where the host's memory may be used.
ON_HOST: Rung = (*FREE, "block-on-host")
# What all blocks do, or none.
WHOLE: Rung = (*FREE, "block")


@dataclass(frozen=True)
class Budget:
    """What a step may take.

    Attributes:
        memory: Of the device, such as "24GiB".
        batch_size: Sequences of a step on this device.
        length: Tokens of a sequence, padding included.
        target_length: Tokens of a decoder's sequence in an encoder-decoder; 0: as the length.
        accumulate: Whether the batch may be made in micro-batches, whose gradients are added up.
        offload: Whether blocks may keep their inputs in the host's memory.
    """

    memory: str
    batch_size: int = 1
    length: int = 512
    target_length: int = 0
    accumulate: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        bytes_of(self.memory)


@dataclass(frozen=True)
class Plan:
    """What is recomputed, and what the step then needs.

    Attributes:
        recipe: The step that was asked for, with what all blocks recompute; its `batch_size` is a micro-batch's where
            `accumulation` is more than was asked for.
        first: What only the first blocks of each stack recompute, with their number.
        depth: Blocks in a stack.
        needed: Bytes of the device on which the step runs safely: the estimate with its margin, and the CUDA context.
        budget: Bytes that there are.
        flops: Operations of the whole step that this takes, with recomputation.
    """

    recipe: Recipe
    first: dict[str, int] = field(default_factory=dict)
    depth: int = 0
    needed: int = 0
    budget: int = 0
    flops: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(self.recipe.recompute) or "nothing"
        some = "".join(f", and {kind} in {n} of {self.depth} blocks" for kind, n in self.first.items())
        times = self.recipe.accumulation
        return (
            f"{self.recipe.batch_size} × {self.recipe.source_length} tokens{f', {times} times a step' * (times > 1)}: "
            f"recompute {kinds}{some}; {self.needed / GIB:.1f} of {self.budget / GIB:.1f} GiB with the margin, "
            f"{self.flops / 1e12:.2f} TFLOP a step"
        )


def plan(recipe: Recipe, budget: int, accumulate: bool = False, offload: bool = False) -> Plan:
    """The cheapest way to make a step that fits; a larger budget never gets a dearer one.

    Between two rungs, what a step needs is a maximum of sums to which each block adds the same: it lies on or below
    the line from one to the other, which is taken. FLOPs are on the line.

    Args:
        recipe: The step, of LoRA-FA; what it recomputes is decided here.
        budget: Bytes of the device.
        accumulate: Whether the batch may be made in micro-batches.
        offload: Whether blocks may keep their inputs in the host's memory.

    Raises:
        RecipeError: Nothing fits; the message says what the least is.
    """
    if recipe.method != "lora-fa":
        raise RecipeError(f"a memory budget is for method lora-fa, not {recipe.method}")
    least, before = None, None
    for way in _ways(recipe, budget, accumulate, offload):
        bytes_needed = safe(way)
        if bytes_needed <= budget:
            return _between(before, way, budget) if before else _whole(way, budget)
        least, before = min(least or bytes_needed, bytes_needed), way
    raise RecipeError(
        f"memory budget {budget / GIB:.1f} GiB: a step of {recipe.batch_size} × {recipe.source_length} tokens "
        f"needs at least {(least or 0) / GIB:.1f} GiB: lower the batch size, the length or the rank, or quantize"
    )


def ladder(recipe: Recipe, offload: bool = False) -> list[Rung]:
    """The rungs that a recipe's model has, with or without the one that needs the host's memory."""
    config = load_config(recipe.model)
    with WithoutInit():
        model = build(config, DTYPES[recipe.dtype], attention_of(config, recipe.attention))
    have = available(model)
    rungs = (*LADDER, ON_HOST) if offload else LADDER
    return list(dict.fromkeys(tuple(kind for kind in rung if kind in have) for rung in rungs))


def _ways(recipe: Recipe, budget: int, accumulate: bool, offload: bool) -> Iterator[Recipe]:
    """Ways to make a step, from the cheapest on: rungs without products, smaller micro-batches, the other rungs.

    A micro-batch takes no operations more, only smaller ones: so it comes before what computes products again.
    """
    rungs = ladder(recipe, offload)
    free = [rung for rung in rungs if set(rung) <= set(FREE)]
    yield from (replace(recipe, recompute=rung) for rung in free)
    if accumulate and recipe.batch_size > 1:
        recipe = _divided(replace(recipe, recompute=free[-1]), budget)
        yield recipe
    yield from (replace(recipe, recompute=rung) for rung in rungs[len(free) :])


def _divided(recipe: Recipe, budget: int) -> Recipe:
    """The step in equal micro-batches: the largest that fit, or else of one sequence."""

    def of(size: int) -> Recipe:
        accumulation = recipe.accumulation * recipe.batch_size // size
        return replace(recipe, batch_size=size, accumulation=accumulation)

    sizes = [size for size in range(1, recipe.batch_size) if recipe.batch_size % size == 0]
    return of(sizes[max(0, bisect_right(sizes, budget, key=lambda size: safe(of(size))) - 1)])


def _whole(way: Recipe, budget: int) -> Plan:
    return Plan(way, {}, _depth(way), safe(way), budget, _flops(way))


def _between(before: Recipe, way: Recipe, budget: int) -> Plan:
    """As few blocks of a rung as are needed, and all others of the one before it; all of them if it is a whole one."""
    depth = _depth(way)
    added = set(way.recompute) - set(before.recompute)
    high, low = safe(before), safe(way)
    blocks = -(-(high - budget) * depth // (high - low))
    if added <= set(WHOLE) or blocks >= depth:
        return _whole(way, budget)
    expected = high - (high - low) * blocks // depth
    dear, cheap = _flops(way), _flops(before)
    flops = cheap + (dear - cheap) * blocks // depth
    return Plan(before, dict.fromkeys(sorted(added), blocks), depth, expected, budget, flops)


def _flops(way: Recipe) -> int:
    """Operations of a step of the optimizer, all micro-batches together."""
    return way.accumulation * training_flops(replace(way, accumulation=1))


def _depth(recipe: Recipe) -> int:
    """Blocks in a stack, 0 if the stacks of a model differ: their blocks are then taken as a whole."""
    config = load_config(recipe.model)
    found = {getattr(config, name) for name in depths(config)}
    return found.pop() if len(found) == 1 else 0


def within(model: PreTrainedModel, config: LoraFaConfig, budget: Budget, fp32_adapters: bool = True) -> Plan:
    """The plan for a model that is there, with AdamW in its default form.

    Args:
        model: The base model, of transformers.
        config: Of the adapters, with names of layers as targets.
        budget: What a step may take.
        fp32_adapters: Whether adapters over a half-precision model are in fp32.

    Raises:
        RecipeError: Nothing fits, or the step is none that the estimator can describe.
    """
    if not isinstance(config.target_modules, list | set):
        raise RecipeError("a memory budget needs names of layers, or a shorthand for them, as target_modules")
    dtypes = {dtype: name for name, dtype in DTYPES.items()}
    if model.dtype not in dtypes:
        raise RecipeError(f"a memory budget needs a model in {', '.join(DTYPES)}, not in {model.dtype}")
    attention: Any = {"sdpa": "sdpa", "eager": "eager"}.get(model.config._attn_implementation, "flash")
    described = copy.deepcopy(model.config)
    described.architectures = [type(model).__name__]
    with tempfile.TemporaryDirectory() as folder:
        described.save_pretrained(folder)
        recipe = Recipe(
            model=folder,
            rank=config.r,
            target_modules=tuple(sorted({name.rpartition(".")[2] for name in config.target_modules})),
            layer_fraction=config.layer_fraction,
            batch_size=budget.batch_size,
            source_length=budget.length,
            target_length=budget.target_length,
            dtype=dtypes[model.dtype],  # type: ignore[arg-type]
            adapter_dtype="fp32" if fp32_adapters else "same",
            attention=attention,
            adapter_dropout=config.lora_dropout,
        )
        return plan(recipe, bytes_of(budget.memory), budget.accumulate, budget.offload)
