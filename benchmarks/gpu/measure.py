"""Real training steps on a device: peak memory, time, and whether they fit."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from lorafa.memory.adapt import adapt, linear_layers
from lorafa.memory.batch import batch_of
from lorafa.memory.depth import full
from lorafa.memory.margin import CONTEXT
from lorafa.memory.models import HEADS, attention_of, head_of, load_config
from lorafa.memory.recipe import DTYPES, Recipe
from lorafa.memory.step import loss_of, trace_step
from lorafa.targets import block_stacks

WARM_UP = 2  # the first step makes the optimizer's state, the second is the first to have it


@dataclass
class Trainer:
    """A model on a device under one method, with its optimizer."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self, batch: dict[str, torch.Tensor]) -> None:
        """Forward, backward, optimizer."""
        loss_of(self.model(**batch)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass(frozen=True)
class Measurement:
    """What one step took.

    Attributes:
        status: "done", "out_of_memory", or "refused: " and why the recipe cannot be run.
        allocated_bytes: Peak of PyTorch's allocated memory, on a CPU of all tensors, rounded
            as CUDA's allocator does; None if it was not made.
        reserved_bytes: Peak of reserved memory; None on a CPU.
        seconds: Of each timed step.
    """

    status: str
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    seconds: tuple[float, ...] = ()


def build(recipe: Recipe) -> Trainer:
    """A recipe's model with random weights, made on the device, and AdamW in its default form.

    Raises:
        ValueError: The model has nothing for one of the recipe's kinds of recomputation.
    """
    release(recipe.device)
    config = load_config(recipe.model)
    config.use_cache = False
    with torch.device(recipe.device):
        model = HEADS[head_of(config)].from_config(
            config,
            dtype=DTYPES[recipe.dtype],
            attn_implementation=attention_of(config, recipe.attention),
        )
        if recipe.quantization != "none":
            quantize(model, double=recipe.quantization == "nf4")
            recipe = replace(recipe, quantization="none")  # which is done
        flags = full(config, recipe.layer_fraction).adapted
        adapted = adapt(model, recipe, dict(zip(block_stacks(model), flags, strict=True))).train()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    return Trainer(adapted, torch.optim.AdamW(trained, lr=1e-5))


def quantize(model: nn.Module, double: bool) -> None:
    """Put bitsandbytes' NF4 layers, with scales in 8 bits or not, in the place of the blocks' linear layers (QLoRA)."""
    from bitsandbytes.nn import Linear4bit

    layers = linear_layers(model)
    for path in [path for blocks in layers.values() for block in blocks for path in block]:
        plain = model.get_submodule(path)
        assert isinstance(plain, nn.Linear)
        layer = Linear4bit(
            plain.in_features,
            plain.out_features,
            bias=plain.bias is not None,
            compute_dtype=plain.weight.dtype,
            compress_statistics=double,
            quant_type="nf4",
        )
        layer.load_state_dict(plain.state_dict())
        model.set_submodule(path, layer.to(plain.weight.device))  # which quantizes
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # what PEFT looks at


def measure(recipes: list[Recipe], steps: int) -> Iterator[tuple[Recipe, Measurement]]:
    """Measure steps that differ in their batch alone on one build of the model, smallest batch first.

    Args:
        recipes: One a step.
        steps: Timed steps of each, after the warm-up.
    """
    with caught() as broken:
        trainer = build(recipes[0])
    for recipe in sorted(recipes, key=lambda recipe: recipe.batch_size):
        with caught() as failure:
            found = Measurement(broken[0]) if broken else _measure(trainer, recipe, steps)
        yield recipe, Measurement(failure[0]) if failure else found


@contextmanager
def caught() -> Iterator[list[str]]:
    """Turn out of memory and a refusal into a word in the list that is given."""
    failure: list[str] = []
    try:
        yield failure
    except torch.OutOfMemoryError:
        failure.append("out_of_memory")
    except ValueError as error:
        failure.append(f"refused: {str(error).splitlines()[0]}")


def release(device: str) -> None:
    """Give back what earlier steps no longer use."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _measure(trainer: Trainer, recipe: Recipe, steps: int) -> Measurement:
    trainer.optimizer.zero_grad()  # an earlier step may have ended in backward
    release(recipe.device)
    batch = batch_on(recipe)
    if recipe.device == "cpu":
        trace = trace_step(trainer.model, batch, trainer.optimizer, first_step=True)
        return Measurement("done", trace.timeline().peak, None, _timed(trainer, batch, steps))
    for _ in range(WARM_UP):
        torch.cuda.reset_peak_memory_stats()
        trainer.step(batch)
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return Measurement("done", *peaks, _timed_on_cuda(trainer, batch, steps))


def batch_on(recipe: Recipe) -> dict[str, torch.Tensor]:
    """A batch of the recipe's shape on its device."""
    with torch.device(recipe.device):
        return batch_of(load_config(recipe.model), recipe)


def _timed(trainer: Trainer, batch: dict[str, torch.Tensor], steps: int) -> tuple[float, ...]:
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        trainer.step(batch)
        seconds.append(time.perf_counter() - start)
    return tuple(seconds)


def _timed_on_cuda(trainer: Trainer, batch: dict[str, torch.Tensor], steps: int) -> tuple[float, ...]:
    """Times by CUDA events, which the device itself records, so that nothing waits between the steps."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    events[0].record()
    for event in events[1:]:
        trainer.step(batch)
        event.record()
    torch.cuda.synchronize()
    return tuple(a.elapsed_time(b) / 1000 for a, b in pairwise(events))


def largest_batch(recipe: Recipe, card: int, guess: int, check: Callable[[], None]) -> int:
    """The largest batch whose steps fit on a card of `card` bytes, found around a guess by making the steps.

    On a larger card than that, PyTorch's memory is limited to what the smaller one would leave it.

    Args:
        recipe: The step.
        card: Bytes.
        guess: Where to begin.
        check: Called before each step; may raise to end the search.
    """
    with limited(recipe.device, card):
        trainer = build(recipe)

        def fits(size: int) -> bool:
            check()
            return _fits(trainer, replace(recipe, batch_size=size), card)

        return search(fits, guess)


def _fits(trainer: Trainer, recipe: Recipe, card: int) -> bool:
    with caught() as failure:
        found = _measure(trainer, recipe, steps=0)
    return not failure and (recipe.device == "cuda" or (found.allocated_bytes or 0) <= card)


@contextmanager
def limited(device: str, card: int) -> Iterator[None]:
    """Limit PyTorch to what a card of `card` bytes would leave it."""
    if device != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (card - CONTEXT) / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def search(fits: Callable[[int], bool], guess: int) -> int:
    """The largest size that fits, 0 if none does: in steps that double away from a guess, then by halves."""
    guess = max(guess, 1)
    stride = 1
    if fits(guess):
        low, high = guess, guess + 1
        while fits(high):
            stride *= 2
            low, high = high, high + stride
    else:
        low, high = guess - 1, guess
        while low > 0 and not fits(low):
            stride *= 2
            low, high = max(0, low - stride), low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def device_of(name: str) -> dict[str, Any]:
    """The card that is measured: its name, memory, and compute capability."""
    if name == "cpu":
        return {"name": "cpu", "memory_bytes": None, "capability": None}
    found = torch.cuda.get_device_properties()
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}",
    }
