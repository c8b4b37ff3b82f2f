"""What fits on a device: whether a step does, how large it may be, and what is cheapest to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

from lorafa.memory import margin
from lorafa.memory.batch import takes_length
from lorafa.memory.estimate import Estimate, estimate
from lorafa.memory.models import load_config
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.options import FreeRecompute

LARGEST = 1 << 16  # batch sizes and lengths are not searched beyond
LENGTH_STEP = 64  # lengths are searched in multiples of this
FAR = 8  # times what fits: no larger step is tried next
PATIENCE = 4  # of so many guesses one is half-way, where the line may mislead


@dataclass(frozen=True)
class Fit:
    """Whether a recipe fits on a device, and how far it can go.

    Attributes:
        estimate: Of the recipe.
        needed: Bytes of the device, by the estimate: reserved memory and CUDA's context.
        safe: The same with the margin of `lorafa.memory.margin`.
        fits: Whether that is at most the device's.
        largest_batch: Largest batch size that fits at the recipe's length; 0: not even one sequence.
        largest_length: Largest length that fits at the recipe's batch size; a multiple of `LENGTH_STEP`.
    """

    estimate: Estimate
    needed: int
    safe: int
    fits: bool
    largest_batch: int
    largest_length: int


@dataclass(frozen=True)
class Change:
    """A change of a recipe that makes it fit.

    Attributes:
        text: What to do.
        recipe: The recipe with the change.
        needed: Bytes of the device that it then needs, by the estimate.
        safe: The same with the margin.
    """

    text: str
    recipe: Recipe
    needed: int
    safe: int


def needed(recipe: Recipe) -> int:
    """Bytes of the device that a step needs, by the estimate."""
    return margin.needed(estimate(recipe).reserved)


def safe(recipe: Recipe) -> int:
    """Bytes of the device on which a step runs safely, the margin included."""
    return margin.safe(estimate(recipe).reserved)


def longest(model: str) -> int:
    """Tokens of a sequence that a model has positions for."""
    return getattr(load_config(model), "max_position_embeddings", None) or LARGEST


def fit(recipe: Recipe, device_memory: int) -> Fit:
    """Estimate a recipe against a device of `device_memory` bytes; what fits, fits with the margin."""
    found = estimate(recipe)
    safely = margin.safe(found.reserved)
    return Fit(
        estimate=found,
        needed=margin.needed(found.reserved),
        safe=safely,
        fits=safely <= device_memory,
        largest_batch=largest_batch(recipe, device_memory),
        largest_length=largest_length(recipe, device_memory),
    )


def largest_batch(
    recipe: Recipe, device_memory: int, limit: int = LARGEST, tried: dict[int, int] | None = None
) -> int:
    """The largest batch size, up to a limit, that fits on `device_memory` bytes; 0: none.

    Args:
        recipe: Of any batch size, from which the search begins.
        device_memory: Bytes of the device.
        limit: The largest batch size that is tried.
        tried: What a step needs, by batch size, as far as it is known; gets what is tried. For another device.
    """
    return _largest(
        lambda size: safe(replace(recipe, batch_size=size)),
        device_memory,
        limit,
        recipe.batch_size,
        {} if tried is None else tried,
    )


def largest_length(recipe: Recipe, device_memory: int, tried: dict[int, int] | None = None) -> int:
    """The largest length, in multiples of `LENGTH_STEP`, that fits on `device_memory` bytes; 0: none.

    The recipe's own where the model's input has a fixed size, as pictures have.

    Args:
        recipe: Of any length, near which the search begins.
        device_memory: Bytes of the device.
        tried: As that of `largest_batch`, by multiples of `LENGTH_STEP`.
    """
    if not takes_length(load_config(recipe.model)):
        return recipe.source_length

    def need(step: int) -> int:
        return safe(replace(recipe, source_length=LENGTH_STEP * step))

    limit = longest(recipe.model) // LENGTH_STEP
    start = recipe.source_length // LENGTH_STEP
    return LENGTH_STEP * _largest(need, device_memory, limit, start, {} if tried is None else tried)


def _largest(need: Callable[[int], int], memory: int, limit: int, start: int, tried: dict[int, int]) -> int:
    """The largest n of 1..limit up to which `need` is at most `memory`; 0 if it is more for 1.

    What a step needs is nearly affine in n, so that a line through two points leads to the answer; the answer and what
    is next to it are always tried.
    """
    while True:
        low = max((n for n, size in tried.items() if size <= memory), default=0)
        high = min((n for n in tried if n > low), default=limit + 1)
        if high - low <= 1:
            return low
        guess = _guess(tried, memory, low, high) if tried else start
        if high not in tried:  # nothing is too large yet: a step far beyond what fits takes long to estimate
            guess = min(guess, FAR * max(low, start))
        guess = min(max(guess, low + 1), high - 1)
        tried[guess] = need(guess)


def _guess(tried: dict[int, int], memory: int, low: int, high: int) -> int:
    """Where the line through the points on both sides of the answer says it is, or through the outermost known ones."""
    bounded = high in tried
    first, second = (low, high) if bounded and low else (min(tried), max(tried))
    rise = tried[second] - tried[first]
    if rise > 0 and not (bounded and len(tried) % PATIENCE == 0):
        return first + (memory - tried[first]) * (second - first) // rise
    return (low + high) // 2 if bounded else 4 * low  # the line misleads, or there is none yet


def changes(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """What can be changed to save memory, cheapest in time and quality first, and each by itself."""
    flash = replace(recipe, attention="flash")
    checkpointed = replace(recipe, checkpointing=True)
    options = [
        ("use FlashAttention, without a padding mask", flash),
        ("checkpoint whole blocks", checkpointed),
    ]
    if recipe.method != "full-ft":
        lean = replace(recipe, method="lora-fa", recompute=get_args(FreeRecompute))
        method = "" if recipe.method == "lora-fa" else "train with lora-fa and "
        options.insert(0, (f"{method}recompute norms, activations, dropout and loss", lean))
        options.insert(2, ("both FlashAttention and recomputation", replace(lean, attention="flash")))
        options.append(("quantize the base weights to NF4", replace(recipe, quantization="nf4")))
        everything = replace(lean, attention="flash", quantization="nf4")
        options.append(("NF4, FlashAttention and lora-fa with recomputation", everything))
    return [(text, changed) for text, changed in options if changed != recipe]


def cheapest_change(recipe: Recipe, device_memory: int) -> Change | None:
    """The first of `changes` that makes a recipe fit, or a smaller batch if none does; None if nothing helps."""
    for text, changed in changes(recipe):
        try:
            if safe(changed) <= device_memory:
                return Change(text, changed, needed(changed), safe(changed))
        except RecipeError:  # not every model can do everything
            continue
    largest = largest_batch(recipe, device_memory, limit=recipe.batch_size - 1)
    if largest == 0:
        return None
    smaller = replace(recipe, batch_size=largest)
    return Change(
        f"lower the batch size to {largest} and accumulate gradients", smaller, needed(smaller), safe(smaller)
    )
