"""How large a step may be on a card: of every method, and of LoRA-FA on every rung of the ladder."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from lorafa.memory.cards import USUAL
from lorafa.memory.fit import largest_batch, largest_length
from lorafa.memory.methods import side_by_side
from lorafa.memory.recipe import Recipe
from lorafa.memory.sizes import GIB
from pipeline.fullscale.recipes import cells


@dataclass(frozen=True)
class Largest:
    """What fits, with the margin.

    Attributes:
        method: As `side_by_side` calls it.
        card: GiB.
        batch: Sequences of the recipe's length; 0: none.
        length: Tokens of a single sequence; 0: none.
    """

    method: str
    card: int
    batch: int
    length: int


def what_fits(experiment: str) -> list[dict[str, Any]]:
    """The rows of an experiment of kind `fits`, as plain values."""
    (cell,) = cells(experiment, "nominal")
    others = side_by_side(cell.recipe, rungs=True)
    return [asdict(row) for method, recipe in others.items() for row in _rows(method, recipe)]


def _rows(method: str, recipe: Recipe) -> Iterator[Largest]:
    """The cards of a method, which know what is tried for those before them."""
    batches: dict[int, int] = {}
    lengths: dict[int, int] = {}
    single = replace(recipe, batch_size=1)
    for card in USUAL:
        batch = largest_batch(recipe, card * GIB, tried=batches)
        length = largest_length(single, card * GIB, tried=lengths)
        yield Largest(method, card, batch, length)
