"""Which blocks of a model are run, and which of them stands for each block of the full depth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import groupby

import torch
from transformers import PretrainedConfig

from lorafa.memory.models import WithoutInit, build, depths
from lorafa.memory.trace import NotRepeatableError
from lorafa.targets import block_stacks, carriers

# Of equal blocks in a row five are run: the first, a neighbour, the repeated one, a neighbour, the last.
KEPT = 5
REPEATED = 2
# For each stack, which of its blocks carry adapters.
Adapted = tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class Depth:
    """How deep a model is run, and how that is repeated to the full depth; stacks in the order of `depths`.

    Attributes:
        adapted: For each stack, which of the blocks that are run carry adapters.
        plans: For each stack and each block of the full depth, which run block stands for it.
    """

    adapted: Adapted
    plans: tuple[tuple[int, ...], ...]

    def apply(self, config: PretrainedConfig) -> PretrainedConfig:
        """The configuration with the depths that are run."""
        config = copy.deepcopy(config)
        for name, flags in zip(depths(config), self.adapted, strict=True):
            setattr(config, name, len(flags))
        if vars(config).get("layer_types"):
            config.layer_types = config.layer_types[: len(self.adapted[0])]
        return config


def full(config: PretrainedConfig, fraction: float) -> Depth:
    """Run every block."""
    adapted = tuple(carriers(getattr(config, name), fraction) for name in depths(config))
    return Depth(adapted, tuple(tuple(range(len(flags))) for flags in adapted))


def shallow(config: PretrainedConfig, fraction: float) -> Depth:
    """Run a few blocks of each kind; every block if the configuration gives them different shapes."""
    whole = full(config, fraction)
    if not blocks_are_alike(config):
        return whole
    plans = tuple(tuple(kept_blocks(flags)) for flags in whole.adapted)
    adapted = tuple(kept_flags(flags, plan) for flags, plan in zip(whole.adapted, plans, strict=True))
    return Depth(adapted, plans)


def stack_carriers(
    stacks: Mapping[str, Sized], fraction: float, adapted: Adapted | None = None
) -> dict[str, Sequence[bool]]:
    """Which blocks of a model's stacks carry adapters, by the stack's path.

    Args:
        stacks: Blocks by path.
        fraction: The last of each stack that carry adapters, where `adapted` does not say.
        adapted: For each stack, in order, which of its blocks carry adapters.

    Raises:
        NotRepeatableError: The stacks are not those that `adapted` is about.
    """
    if adapted is None:
        return {path: carriers(len(blocks), fraction) for path, blocks in stacks.items()}
    if [len(blocks) for blocks in stacks.values()] != [len(flags) for flags in adapted]:
        raise NotRepeatableError(
            f"the model's stacks {', '.join(stacks)} are not of its configuration's depths"
        )
    return dict(zip(stacks, adapted, strict=True))


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


def kept_flags(flags: Sequence[bool], plan: Sequence[int]) -> tuple[bool, ...]:
    """The flags of the shallow model's blocks."""
    return tuple(flags[plan.index(kept)] for kept in sorted(set(plan)))


def blocks_are_alike(config: PretrainedConfig) -> bool:
    """Whether the configuration gives all blocks of a stack the same shape."""
    if len(set(getattr(config, "layer_types", None) or [])) > 1:
        return False
    key = config.to_json_string(use_diff=False)
    if key not in _alike:
        _alike[key] = _same_shapes(config)
    return _alike[key]


# What `blocks_are_alike` has found, by configuration.
_alike: dict[str, bool] = {}


def _same_shapes(config: PretrainedConfig) -> bool:
    """Whether the blocks of each stack have the same parameters, but for the first, which may have more (T5's)."""
    with WithoutInit():
        stacks = block_stacks(build(config, torch.float32))
    return all(
        len({tuple((name, p.shape) for name, p in block.named_parameters()) for block in blocks[1:]}) <= 1
        for blocks in map(list, stacks.values())
    )


def extrapolated(config: PretrainedConfig, fraction: float, measure: Callable[[Adapted], int]) -> int:
    """What a measure that is affine in the depth comes to at full depth.

    It is taken of one block of each kind, and of one more of a kind at a time. Blocks that carry adapters and blocks
    that do not, of each stack, are kinds of their own.
    """
    whole = full(config, fraction).adapted
    if not blocks_are_alike(config):
        return measure(whole)
    kinds = [[(flag, len(list(blocks))) for flag, blocks in groupby(stack)] for stack in whole]

    def adapted(more: tuple[int, int] | None = None) -> Adapted:
        return tuple(
            tuple(
                flag
                for kind, (flag, _) in enumerate(stack)
                for flag in [flag] * (2 if (number, kind) == more else 1)
            )
            for number, stack in enumerate(kinds)
        )

    base = measure(adapted())
    return base + sum(
        (length - 1) * (measure(adapted(more=(number, kind))) - base)
        for number, stack in enumerate(kinds)
        for kind, (_, length) in enumerate(stack)
        if length > 1
    )
