"""The rungs of LoRA-FA's ladder: what a step keeps, and what it computes again."""

from typing import get_args

from lorafa.options import Recompute

KINDS: tuple[str, ...] = get_args(Recompute)
APPROXIMATE = {"activation-8bit"}
# Kinds that belong together. A kind that is named and that a model does not have is refused, so that dropout, which no
# decoder of today has, is in the first alone. A combination counts where the library has all of its kinds.
_COMBINATIONS: dict[str, tuple[str, ...]] = {
    "free": ("norm", "activation", "dropout", "loss"),
    "free + qkv": ("norm", "activation", "loss", "qkv"),
    "free + 8-bit": ("norm", "activation-8bit", "loss"),
    "free + 8-bit + qkv": ("norm", "activation-8bit", "loss", "qkv"),
    "checkpoint": ("norm", "activation", "loss", "qkv", "mlp"),
    "block + loss": ("block", "loss"),
}
COMBINATIONS = {name: kinds for name, kinds in _COMBINATIONS.items() if set(kinds) <= set(KINDS)}
RUNGS: dict[str, tuple[str, ...]] = {"none": (), **{kind: (kind,) for kind in KINDS}, **COMBINATIONS}


def is_exact(kinds: tuple[str, ...]) -> bool:
    """Whether gradients with these kinds are those without, up to rounding."""
    return not APPROXIMATE.intersection(kinds)
