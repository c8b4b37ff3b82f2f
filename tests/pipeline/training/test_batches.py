"""Batches of similar length: every example once, little padding, in random order, the same for the same seed."""

import numpy as np
import pytest

from pipeline.training.batches import SimilarLengths

LENGTHS = np.random.default_rng(0).integers(4, 40, size=203).tolist()


def batches(sampler: SimilarLengths, size: int = 8) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + size] for start in range(0, len(order), size)]


def padding(drawn: list[list[int]]) -> int:
    lengths = np.array(LENGTHS)
    return sum(len(rows) * lengths[rows].max() - lengths[rows].sum() for rows in drawn)


@pytest.mark.parametrize("count", [1, 7, 8, 64, 203])
def test_every_example_is_drawn_once(count):
    sampler = SimilarLengths(LENGTHS[:count], 8, 4, seed=0)
    assert sorted(sampler) == list(range(count)) and len(sampler) == count


def test_batches_need_a_fraction_of_the_padding_of_random_ones():
    random = np.random.default_rng(1).permutation(len(LENGTHS)).tolist()
    at_random = [random[start : start + 8] for start in range(0, len(random), 8)]
    assert padding(batches(SimilarLengths(LENGTHS, 8, 8, seed=0))) < padding(at_random) / 3


def test_batches_do_not_go_from_long_to_short():
    longest = [max(LENGTHS[row] for row in rows) for rows in batches(SimilarLengths(LENGTHS, 8, 8, seed=0))]
    assert abs(np.corrcoef(range(len(longest)), longest)[0, 1]) < 0.4


def test_only_the_last_batch_is_incomplete():
    assert [len(rows) for rows in batches(SimilarLengths(LENGTHS, 8, 4, seed=3))] == [8] * 25 + [3]


def test_seed_and_epoch_decide_the_order():
    first, again, other = (SimilarLengths(LENGTHS, 8, 4, seed=seed) for seed in (0, 0, 1))
    assert list(first) == list(again) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)
    again.set_epoch(0)
    assert list(first) == list(again)
