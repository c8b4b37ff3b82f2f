"""A model of PyTorch's CUDA caching allocator: from what is allocated to what is reserved on the device.

Source: c10/cuda/CUDACachingAllocator.cpp, native backend with default settings.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from lorafa.memory.trace import STEP_PHASES, Event, Trace, rounded

MIN_BLOCK = 512  # every allocation is rounded up to a multiple of this
SMALL = 1 << 20  # up to here an allocation comes from the pool of small blocks
SMALL_SEGMENT = 2 << 20
LARGE_SEGMENT = 20 << 20
OWN_SEGMENT = 10 << 20  # from here on an allocation gets a segment of its own size
SEGMENT_GRANULARITY = 2 << 20


@dataclass
class _Block:
    """A piece of a segment; `before` and `after` are its neighbours' addresses in the same segment."""

    size: int
    small: bool
    before: int | None = None
    after: int | None = None
    free: bool = False


class OutOfMemoryError(RuntimeError):
    """The device has no room for a segment, even after the cache is emptied."""


class CachingAllocator:
    """Best fit in two pools of cached blocks, split on allocation, joined with free neighbours on release.

    Attributes:
        allocated: Bytes in use, rounded to blocks.
        reserved: Bytes taken from the device.
        peak_allocated: Most bytes in use at once.
        peak_reserved: Most bytes taken at once.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.allocated = self.reserved = self.peak_allocated = self.peak_reserved = 0
        self._blocks: dict[int, _Block] = {}
        self._pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._next_segment = 0

    def allocate(self, nbytes: int) -> int:
        """Reserve `nbytes` and return their address.

        Raises:
            OutOfMemoryError: There is a capacity, and it does not suffice.
        """
        size = rounded(max(nbytes, 1), MIN_BLOCK)
        small = size <= SMALL
        pool = self._pools[small]
        index = bisect_left(pool, (size, 0))
        address = pool.pop(index)[1] if index < len(pool) else self._new_segment(size, small)
        block = self._blocks[address]
        block.free = False
        remainder = block.size - size
        if remainder >= (MIN_BLOCK if small else SMALL + 1):
            self._split(address, block, size)
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return address

    def free(self, address: int) -> None:
        """Return a block to its pool."""
        block = self._blocks[address]
        self.allocated -= block.size
        if block.after is not None and self._blocks[block.after].free:
            self._join(address, block.after, cached=block.after)
        if block.before is not None and self._blocks[block.before].free:
            previous = block.before
            self._join(previous, address, cached=previous)
            address, block = previous, self._blocks[previous]
        block.free = True
        insort(self._pools[block.small], (block.size, address))

    def empty_cache(self) -> None:
        """Give segments that are wholly free back to the device."""
        for pool in self._pools.values():
            for size, address in list(pool):
                block = self._blocks[address]
                if block.before is None and block.after is None:
                    pool.remove((size, address))
                    del self._blocks[address]
                    self.reserved -= size

    def _new_segment(self, size: int, small: bool) -> int:
        if small:
            segment = SMALL_SEGMENT
        elif size < OWN_SEGMENT:
            segment = LARGE_SEGMENT
        else:
            segment = rounded(size, SEGMENT_GRANULARITY)
        if self.capacity is not None and self.reserved + segment > self.capacity:
            self.empty_cache()
            if self.reserved + segment > self.capacity:
                raise OutOfMemoryError(f"{self.reserved} bytes reserved, {segment} more do not fit")
        address = self._next_segment
        self._next_segment += segment
        self._blocks[address] = _Block(segment, small)
        self.reserved += segment
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return address

    def _split(self, address: int, block: _Block, size: int) -> None:
        rest = address + size
        self._blocks[rest] = _Block(
            block.size - size, block.small, before=address, after=block.after, free=True
        )
        if block.after is not None:
            self._blocks[block.after].before = rest
        insort(self._pools[block.small], (block.size - size, rest))
        block.size, block.after = size, rest

    def _join(self, left: int, right: int, cached: int) -> None:
        first, second = self._blocks[left], self._blocks.pop(right)
        removed = first.size if cached == left else second.size
        pool = self._pools[first.small]
        del pool[bisect_left(pool, (removed, cached))]
        first.size += second.size
        first.after = second.after
        if second.after is not None:
            self._blocks[second.after].before = left


def replay(trace: Trace, capacity: int | None = None, steps: int = 2) -> CachingAllocator:
    """Run a trace through the allocator: weights and optimizer state once, then the step several times.

    Args:
        trace: Of one step.
        capacity: Bytes of the device, or None for no limit.
        steps: How often the step runs: fragmentation shows from the second on.

    Raises:
        OutOfMemoryError: The capacity does not suffice.
    """
    device = CachingAllocator(capacity)
    addresses: dict[int, int] = {}
    before = [event for event in trace.events if event.segment.phase not in STEP_PHASES]
    step = [event for event in trace.events if event.segment.phase in STEP_PHASES]
    for events in [before] + [step] * steps:
        _run(device, addresses, trace, events)
    return device


def _run(device: CachingAllocator, addresses: dict[int, int], trace: Trace, events: list[Event]) -> None:
    replaced: list[int] = []  # what the step before has left: it goes when forward has made all of its like
    for event in events:
        if event.segment.phase == "backward":
            while replaced:
                device.free(replaced.pop())
        if event.birth:
            if event.storage in addresses:
                replaced.append(addresses[event.storage])
            addresses[event.storage] = device.allocate(trace.storages[event.storage].nbytes)
        else:
            device.free(addresses.pop(event.storage))
