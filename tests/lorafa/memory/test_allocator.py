"""The model of the caching allocator against the rules of PyTorch's allocator, worked out by hand."""

import pytest

from lorafa.memory.allocator import CachingAllocator, OutOfMemoryError, replay
from lorafa.memory.trace import Event, Segment, Storage, Trace

KIB, MIB = 2**10, 2**20


def test_small_allocations_share_a_segment_of_two_mib() -> None:
    device = CachingAllocator()
    device.allocate(1)
    assert (device.allocated, device.reserved) == (512, 2 * MIB)
    for _ in range(4095):
        device.allocate(500)
    assert (device.allocated, device.reserved) == (2 * MIB, 2 * MIB)
    device.allocate(1)
    assert device.reserved == 4 * MIB


def test_middling_allocations_share_a_segment_of_twenty_mib() -> None:
    device = CachingAllocator()
    device.allocate(MIB + 1)
    device.allocate(9 * MIB)
    assert device.reserved == 20 * MIB


def test_large_allocations_get_a_segment_of_their_own() -> None:
    device = CachingAllocator()
    device.allocate(11 * MIB)
    assert device.reserved == 12 * MIB
    # One MiB remains in the segment: too little to split off a large block.
    assert device.allocated == 12 * MIB


def test_best_fit_takes_the_smallest_block_that_suffices() -> None:
    device = CachingAllocator()
    large, small = device.allocate(40 * MIB), device.allocate(30 * MIB)
    device.free(large)
    device.free(small)
    assert device.allocate(29 * MIB) == small
    assert device.reserved == 70 * MIB


def test_free_neighbours_join() -> None:
    device = CachingAllocator()
    device.free(device.allocate(40 * MIB))
    pieces = [device.allocate(10 * MIB) for _ in range(4)]
    assert device.reserved == 40 * MIB
    for piece in (pieces[1], pieces[0], pieces[3], pieces[2]):
        device.free(piece)
    assert device.allocate(40 * MIB) == pieces[0]
    assert (device.reserved, device.allocated) == (40 * MIB, 40 * MIB)


def test_fragments_do_not_serve_a_larger_request() -> None:
    device = CachingAllocator()
    device.free(device.allocate(40 * MIB))
    pieces = [device.allocate(10 * MIB) for _ in range(4)]
    device.free(pieces[0])
    device.free(pieces[2])
    device.allocate(20 * MIB)
    assert device.reserved == 60 * MIB
    assert device.peak_allocated == 40 * MIB


def test_a_full_device_empties_its_cache_before_it_gives_up() -> None:
    device = CachingAllocator(capacity=100 * MIB)
    device.free(device.allocate(60 * MIB))
    kept = device.allocate(80 * MIB)
    assert device.reserved == 80 * MIB
    with pytest.raises(OutOfMemoryError):
        device.allocate(30 * MIB)
    device.free(kept)


def test_replay_of_a_step() -> None:
    weights, forward = Segment("weights"), Segment("forward")
    storages = [Storage(30 * MIB, weights), Storage(50 * MIB, forward)]
    events = [Event(weights, 0, True), Event(forward, 1, True), Event(forward, 1, False)]
    device = replay(Trace(storages, events))
    assert device.peak_reserved == device.peak_allocated == 80 * MIB
    with pytest.raises(OutOfMemoryError):
        replay(Trace(storages, events), capacity=79 * MIB)
