"""What of a step's memory other devices hold: ranks that share it, and the host."""

from __future__ import annotations

from collections import Counter

from lorafa.memory.recipe import Offload, Recipe, Sharding
from lorafa.memory.trace import Block, Segment, Storage, Trace

# What each way of sharding divides by the ranks. Source: Rajbhandari et al. 2020 (ZeRO), §5; PyTorch's `fully_shard`
# divides what stage 3 does.
DIVIDED: dict[Sharding, tuple[str, ...]] = {
    "frozen": ("weights",),
    "zero-2": ("gradients", "optimizer"),
    "zero-3": ("weights", "adapters", "gradients", "optimizer"),
}
ON_HOST: dict[Offload, tuple[str, ...]] = {
    "none": (),
    "optimizer": ("optimizer",),
    "all": ("weights", "optimizer"),
}
GATHERED = 2  # blocks whose weights are whole at a time: the one in use and the one prefetched


def placed(trace: Trace, recipe: Recipe) -> Trace:
    """The trace of one rank's device.

    Each rank keeps 1/shards of what its sharding divides, and nothing of what the host keeps. Where weights are
    divided or on the host, `GATHERED` blocks of them are whole; where gradients are, those of one block. The
    optimizer's temporaries are divided as its states are.
    """
    if recipe.shards == 1 and recipe.offload == "none":
        return trace
    divided = DIVIDED[recipe.sharding] if recipe.shards > 1 else ()
    on_host = ON_HOST[recipe.offload]

    def kept(storage: Storage) -> int:
        category = storage.category
        if not category and storage.segment.phase in ("state", "optimizer"):
            category = "optimizer"
        if category in on_host:
            return 0
        return -(-storage.nbytes // recipe.shards) if category in divided else storage.nbytes

    result = Trace([s._replace(nbytes=kept(s)) for s in trace.storages], list(trace.events))
    if "weights" in (*divided, *on_host):
        result = result.preceded_by(_whole("weights", GATHERED * _largest_block(trace, "weights")))
    if "gradients" in divided:
        result = result.preceded_by(_whole("gradients", _largest_block(trace, "gradients")))
    return result


def _whole(category: str, nbytes: int) -> Storage:
    return Storage(nbytes, Segment("weights"), category=category, op="all_gather")


def _largest_block(trace: Trace, category: str) -> int:
    sizes: Counter[Block | None] = Counter()
    for storage in trace.storages:
        if storage.category == category:
            sizes[storage.segment.block] += storage.nbytes
    return max((nbytes for block, nbytes in sizes.items() if block is not None), default=0)
