"""The life of every storage in one training step, and what can be read off it.

A trace is a list of births and deaths. It is recorded on a model with few blocks (`lorafa.memory.tracker`),
repeated to the full depth (`Trace.repeat`), read for its peak (`Trace.timeline`) and replayed through a model
of the CUDA caching allocator (`lorafa.memory.allocator`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

SETUP_PHASES = ("weights", "state")
STEP_PHASES = ("forward", "backward", "optimizer")
CATEGORIES = ("weights", "adapters", "gradients", "optimizer", "inputs", "activations", "temporaries")


class Block(NamedTuple):
    """One transformer block: the path of its `ModuleList` and its number there."""

    stack: str
    number: int


class Segment(NamedTuple):
    """Where in the step the program is: a phase and, inside a block, the block."""

    phase: str
    block: Block | None = None


class Storage(NamedTuple):
    """A storage at its birth.

    Attributes:
        nbytes: Its size in bytes, unrounded.
        segment: Where it was born.
        module: Path of the module that made it, block indices replaced by `*`.
        op: The operator that made it.
        category: One of `CATEGORIES`, or "" for what the lifetime decides (activations, temporaries).
    """

    nbytes: int
    segment: Segment
    module: str = ""
    op: str = ""
    category: str = ""


class Event(NamedTuple):
    """A storage is born or dies in a segment."""

    segment: Segment
    storage: int
    birth: bool


class NotRepeatableError(ValueError):
    """Neighbouring blocks differ, so that one of them cannot stand for the others."""


def rounded(nbytes: int, granularity: int) -> int:
    """Round up to a multiple of the granularity, in bytes (the CUDA allocator's is 512)."""
    return -(-nbytes // granularity) * granularity


@dataclass(frozen=True)
class Timeline:
    """What a trace says about memory.

    Attributes:
        peak: Most bytes alive at once during the step (forward, backward, optimizer).
        breakdown: Bytes alive at the peak, by category.
        by_phase: Most bytes alive at once in each phase of the step.
        by_module: Bytes of activations alive at the peak, by the module that made them; "" outside all of them.
        phase: The phase of the peak.
        saved: Bytes of activations when backward begins: what forward saved.
    """

    peak: int
    breakdown: dict[str, int]
    by_phase: dict[str, int]
    by_module: dict[str, int]
    phase: str
    saved: int


@dataclass
class Trace:
    """Births and deaths of storages in program order; `storages[event.storage]` is what lives."""

    storages: list[Storage] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def categories(self) -> list[str]:
        """The category of each storage; what forward made and backward still finds is an activation."""
        survivors: set[int] = set()
        for event in self.events:
            if event.segment.phase == "backward":
                break
            (survivors.add if event.birth else survivors.discard)(event.storage)
        return [
            s.category
            or ("activations" if i in survivors and s.segment.phase == "forward" else "temporaries")
            for i, s in enumerate(self.storages)
        ]

    def timeline(self, granularity: int = 512) -> Timeline:
        """Peak and breakdown, every storage rounded up to `granularity` bytes."""
        categories = self.categories()
        alive: set[int] = set()
        at_peak: set[int] = set()
        current = peak = saved = 0
        phase = ""
        by_phase: dict[str, int] = {}
        # The set at the peak is copied only when the climb ends: a peak is a birth followed by a death.
        climbing = False
        for event in self.events:
            nbytes = rounded(self.storages[event.storage].nbytes, granularity)
            if not event.birth and climbing:
                at_peak, climbing = set(alive), False
            if event.segment.phase == "backward" and "backward" not in by_phase:
                saved = sum(
                    rounded(self.storages[i].nbytes, granularity)
                    for i in alive
                    if categories[i] == "activations"
                )
            if event.birth:
                alive.add(event.storage)
                current += nbytes
            else:
                alive.discard(event.storage)
                current -= nbytes
            if event.segment.phase in STEP_PHASES:
                by_phase[event.segment.phase] = max(by_phase.get(event.segment.phase, 0), current)
                if event.birth and current > peak:
                    peak, phase, climbing = current, event.segment.phase, True
        if climbing:
            at_peak = alive
        breakdown: Counter[str] = Counter(dict.fromkeys(CATEGORIES, 0))
        by_module: Counter[str] = Counter()
        for i in at_peak:
            nbytes = rounded(self.storages[i].nbytes, granularity)
            breakdown[categories[i]] += nbytes
            if categories[i] == "activations":
                by_module[self.storages[i].module] += nbytes
        return Timeline(peak, dict(breakdown), by_phase, dict(by_module.most_common()), phase, saved)

    def preceded_by(self, storage: Storage) -> Trace:
        """The trace with one more storage that is alive from the beginning on."""
        first = Event(storage.segment, len(self.storages), birth=True)
        return Trace([*self.storages, storage], [first, *self.events])

    def extrapolated(self, other: Trace, at: int, other_at: int, target: int) -> Trace:
        """The trace at another batch size (or rank): every storage is affine in it.

        Args:
            other: The same step's trace at another batch size.
            at: Batch size of this trace.
            other_at: Batch size of the other one.
            target: Batch size wanted.

        Raises:
            ValueError: The two are not traces of the same step, or a storage is not affine in whole bytes.
        """
        storages = []
        for mine, theirs in zip(self.storages, other.storages, strict=True):
            slope, rest = divmod(theirs.nbytes - mine.nbytes, other_at - at)
            if rest or mine[1:] != theirs[1:]:
                raise ValueError(f"{mine} and {theirs} are not the same storage at two batch sizes")
            storages.append(mine._replace(nbytes=mine.nbytes + slope * (target - at)))
        if self.events != other.events:
            raise ValueError("the two traces are not of the same step")
        return Trace(storages, self.events)

    def repeat(self, plan: Mapping[str, Sequence[int]]) -> Trace:
        """Repeat blocks of a shallow model until it has the depth of the plan.

        Args:
            plan: For each stack, which recorded block stands at each position of the full depth, for example
                `{"model.layers": [0, 1, 1, 1, 2]}`. Consecutive equal entries repeat a block.

        Returns:
            The trace that recording the full depth would have given.

        Raises:
            NotRepeatableError: A repeated block and its neighbour do not make and free the same storages.
        """
        return _Repeater(self, plan).run()


class _Repeater:
    """One expansion of a trace; storages are named (segment, ordinal), by which copies find each other's."""

    def __init__(self, trace: Trace, plan: Mapping[str, Sequence[int]]) -> None:
        self.trace = trace
        self.positions = {
            Block(stack, index): [p for p, kept in enumerate(kept_blocks) if kept == index]
            for stack, kept_blocks in plan.items()
            for index in kept_blocks
        }
        self.ordinal: list[int] = []
        counts: Counter[Segment] = Counter()
        for storage in trace.storages:
            self.ordinal.append(counts[storage.segment])
            counts[storage.segment] += 1
        self.result = Trace()
        self.ids: dict[tuple[Segment, int], int] = {}
        self.dead: set[int] = set()

    def run(self) -> Trace:
        for segment, group in groupby(self.trace.events, key=lambda event: event.segment):
            events = list(group)
            for position in self._order(segment):
                for event in events:
                    self._emit(event, segment, position)
        self._check_survivors()
        return self.result

    def _order(self, segment: Segment) -> Sequence[int | None]:
        if segment.block is None:
            return [None]
        positions = self.positions[segment.block]
        return positions[::-1] if segment.phase == "backward" else positions

    def _emit(self, event: Event, segment: Segment, position: int | None) -> None:
        storage = self.trace.storages[event.storage]
        ordinal = self.ordinal[event.storage]
        if event.birth:
            born = self._moved(storage.segment, position)
            self.ids[born, ordinal] = len(self.result.storages)
            self.result.storages.append(storage._replace(segment=born))
            self._append(segment, position, len(self.result.storages) - 1, birth=True)
            return
        for born in self._births(storage.segment, segment, position):
            target = self.ids.get((born, ordinal))
            if target is None or target in self.dead or self.result.storages[target].nbytes != storage.nbytes:
                raise NotRepeatableError(
                    f"{segment} frees a storage of {storage.segment} that its copies lack"
                )
            self.dead.add(target)
            self._append(segment, position, target, birth=False)

    def _births(self, born: Segment, segment: Segment, position: int | None) -> Iterator[Segment]:
        """Where the copies of a storage were born that dies now."""
        if born.block is None:
            yield born
        elif segment.block is None or position is None or segment.block.stack != born.block.stack:
            for p in self.positions[born.block]:
                yield self._moved(born, p)
        else:
            yield self._moved(born, position + born.block.number - segment.block.number)

    @staticmethod
    def _moved(segment: Segment, position: int | None) -> Segment:
        if segment.block is None or position is None:
            return segment
        return Segment(segment.phase, Block(segment.block.stack, position))

    def _append(self, segment: Segment, position: int | None, storage: int, birth: bool) -> None:
        self.result.events.append(Event(self._moved(segment, position), storage, birth))

    def _check_survivors(self) -> None:
        """What is never freed in the recording must be exactly what is never freed in the copies."""
        dying = {event.storage for event in self.trace.events if not event.birth}
        expected: defaultdict[Segment, int] = defaultdict(int)
        for i, storage in enumerate(self.trace.storages):
            if i not in dying:
                copies = 1 if storage.segment.block is None else len(self.positions[storage.segment.block])
                expected[Segment(storage.segment.phase)] += copies
        found: defaultdict[Segment, int] = defaultdict(int)
        for i, storage in enumerate(self.result.storages):
            if i not in self.dead:
                found[Segment(storage.segment.phase)] += 1
        if expected != found:
            raise NotRepeatableError("copies of a block leave storages behind that the recording frees")
