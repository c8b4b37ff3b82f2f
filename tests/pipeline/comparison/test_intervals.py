"""How many seeds decide a comparison: closed formulas, and simulated runs with fixed seeds."""

import math
from functools import partial

import numpy as np
import pytest
from scipy.stats import nct, t

from pipeline.comparison.intervals import Error, power, seeds_to_decide
from pipeline.comparison.outcomes import mean
from pipeline.comparison.paired import TaskRuns, compare
from pipeline.comparison.verdict import Comparison, Verdict

ALPHA = 0.025
between = partial(compare, candidate="LoRA-FA", reference="LoRA", margin=1.0, fraction=0.1, confidence=0.95)


@pytest.mark.parametrize(("seeds", "distance", "deviation"), [(4, 1.0, 1.0), (9, -1.5, 2.0), (25, 0.5, 1.0)])
def test_where_examples_do_not_matter_power_is_that_of_a_t_test(seeds, distance, deviation):
    shift, critical = distance / deviation * math.sqrt(seeds), t.isf(ALPHA, seeds - 1)
    expected = nct.sf(critical, seeds - 1, shift) + nct.cdf(-critical, seeds - 1, shift)
    assert power(seeds, distance, deviation, 0.0, ALPHA) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("examples", "distance"), [(0.0, 1.0), (0.3, 1.2), (0.3, -1.2)])
def test_so_many_seeds_decide_as_often_as_wanted_and_one_less_does_not(examples, distance):
    needed = seeds_to_decide(distance, 1.5, examples, ALPHA, 0.8, more_than=3)
    rng = np.random.default_rng(0)

    def share(seeds):
        draws = distance + 1.5 * rng.standard_normal((1000, seeds))
        errors = draws.std(axis=1, ddof=1) / math.sqrt(seeds)
        pairs = zip(errors, draws.mean(axis=1), strict=True)
        return np.mean(
            [Error(error, seeds - 1, examples).exceeds(abs(value)) < ALPHA for error, value in pairs]
        )

    assert 0.77 < share(needed) < 0.87  # with the whole next seed
    assert share(needed - 1) < 0.82


def runs(rng, at_examples, difference, deviation, seeds):
    """Runs whose seeds' differences are `difference` with a deviation, in points, on examples that differ, too."""
    chance = np.full(len(at_examples), 0.5)
    shifts = difference + deviation * rng.standard_normal(seeds)
    candidate = {seed: mean(chance + at_examples + shift / 100) for seed, shift in enumerate(shifts)}
    return TaskRuns("task", candidate, dict.fromkeys(range(seeds), mean(chance)))


def test_whole_comparisons_are_decided_by_as_many_seeds_as_the_first_one_asks_for():
    rng = np.random.default_rng(1)
    at_examples = rng.standard_normal(100)
    at_examples *= 0.03 / at_examples.std()  # the examples' error is 0.3 points
    at_examples -= at_examples.mean()
    seen = between([runs(rng, at_examples, 0.5, 1.2, seeds=3)]).average
    assert seen.verdict is Verdict.INCONCLUSIVE and seen.example_error == pytest.approx(0.3, abs=0.05)
    needed = seen.seeds_to_decide(0.8)
    again = (seen.difference, seen.seed_error * math.sqrt(3), needed)
    verdicts = [between([runs(rng, at_examples, *again)]).average.verdict for _ in range(80)]
    assert 0.68 < np.mean([verdict is not Verdict.INCONCLUSIVE for verdict in verdicts]) < 0.95


def comparison(difference, low, high, seeds=(0, 1, 2), **errors):
    found = Comparison("LoRA-FA", "LoRA", "RTE", 1.0, 0.95, seeds, (), difference, low, high, **errors)
    return found.seeds_to_decide(0.8)


def test_where_no_number_of_seeds_decides_none_is_named():
    assert comparison(-0.9, -2.0, 0.2, seed_error=0.3, example_error=0.5) is None  # the examples make it ±1
    assert comparison(-0.9, -2.0, 0.2, seed_error=0.3, example_error=0.0) > 100
    assert comparison(-0.9, -2.0, 0.2, seed_error=3.0, example_error=0.0) is None  # thousands
    assert comparison(-0.9, -2.0, 0.2, seed_error=0.0, example_error=0.2, seeds=(0, 1)) is None
    assert comparison(0.0, -0.6, 0.8, seed_error=0.3, example_error=0.0) is None  # decided
    assert comparison(-1.0, -2.0, 0.0, seed_error=0.3, example_error=0.0) is None  # at the margin itself


def test_there_are_never_fewer_than_one_more():
    assert seeds_to_decide(10.0, 0.1, 0.0, ALPHA, 0.8, more_than=3) == 4
