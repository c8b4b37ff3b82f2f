"""A budget of memory in, what backward recomputes out: the cheapest rungs of the ladder with which a step fits."""

from __future__ import annotations

import copy
import tempfile
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
# What all blocks do, or none.
WHOLE: Rung = (*FREE, "block")


@dataclass(frozen=True)
class Budget:
    """What a step may take.

    Attributes:
        memory: Of the device, such as "24GiB".
        batch_size: Sequences of a step on this device.
        length: Tokens of a sequence, padding included.
    """

    memory: str
    batch_size: int = 1
    length: int = 512

    def __post_init__(self) -> None:
        bytes_of(self.memory)


@dataclass(frozen=True)
class Plan:
    """What is recomputed, and what the step then needs.

    Attributes:
        recipe: The step that was asked for, with what all blocks recompute.
        first: What only the first blocks of each stack recompute, with their number.
        depth: Blocks in a stack.
        needed: Bytes of the device on which the step runs safely: the estimate with its margin, and the CUDA context.
        budget: Bytes that there are.
        flops: Operations of a training step that this takes, with recomputation.
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
        return (
            f"recompute {kinds}{some}: {self.needed / GIB:.1f} of {self.budget / GIB:.1f} GiB with the margin, "
            f"{self.flops / 1e12:.2f} TFLOP a step"
        )


def plan(recipe: Recipe, budget: int) -> Plan:
    """The cheapest recomputation with which a step fits; a larger budget never gets a dearer one.

    Between two rungs, what a step needs is a maximum of sums to which each block adds the same: it lies on or below
    the line from one to the other, which is taken. FLOPs are on the line.

    Args:
        recipe: The step, of LoRA-FA; what it recomputes is decided here.
        budget: Bytes of the device.

    Raises:
        RecipeError: No rung fits; the message says what the least is.
    """
    if recipe.method != "lora-fa":
        raise RecipeError(f"a memory budget is for method lora-fa, not {recipe.method}")
    rungs = [replace(recipe, recompute=rung) for rung in ladder(recipe)]
    least, before = None, None
    for rung in rungs:
        bytes_needed = safe(rung)
        if bytes_needed <= budget:
            return _between(before, rung, budget) if before else _whole(rung, budget)
        least, before = min(least or bytes_needed, bytes_needed), rung
    raise RecipeError(
        f"memory budget {budget / GIB:.1f} GiB: a step of {recipe.batch_size} × {recipe.source_length} tokens "
        f"needs at least {(least or 0) / GIB:.1f} GiB: lower the batch size, the length or the rank, or quantize"
    )


def ladder(recipe: Recipe) -> list[Rung]:
    """The rungs that a recipe's model has."""
    config = load_config(recipe.model)
    with WithoutInit():
        model = build(config, DTYPES[recipe.dtype], attention_of(config, recipe.attention))
    have = available(model)
    return list(dict.fromkeys(tuple(kind for kind in rung if kind in have) for rung in LADDER))


def _whole(rung: Recipe, budget: int) -> Plan:
    return Plan(rung, {}, _depth(rung), safe(rung), budget, training_flops(rung))


def _between(before: Recipe, rung: Recipe, budget: int) -> Plan:
    """As few blocks of a rung as are needed, and all others of the one before it; all of them if it is a whole one."""
    depth = _depth(rung)
    added = set(rung.recompute) - set(before.recompute)
    high, low = safe(before), safe(rung)
    blocks = -(-(high - budget) * depth // (high - low))
    if added.intersection(WHOLE) or blocks >= depth:
        return _whole(rung, budget)
    expected = high - (high - low) * blocks // depth
    dear, cheap = training_flops(rung), training_flops(before)
    flops = cheap + (dear - cheap) * blocks // depth
    return Plan(before, dict.fromkeys(sorted(added), blocks), depth, expected, budget, flops)


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
            dtype=dtypes[model.dtype],  # type: ignore[arg-type]
            adapter_dtype="fp32" if fp32_adapters else "same",
            attention=attention,
            adapter_dropout=config.lora_dropout,
        )
        return plan(recipe, bytes_of(budget.memory))
