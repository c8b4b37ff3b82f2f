"""The interval of a mean difference over seeds and examples, and how many seeds would make it narrow enough.

The error is a t variable, of the seeds, plus a normal one, of the examples: Behrens' and Fisher's distribution.
`pipeline.comparison.paired` has the model that both come from.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import chi2, norm, t

Array = NDArray[np.float64]

MOST_SEEDS = 1000  # beyond which nobody trains


@dataclass(frozen=True)
class Error:
    """A t variable scaled by `seeds` plus an independent normal one scaled by `examples`.

    Given the χ² variable W in the t's denominator, the sum is normal with variance seeds²·df/W + examples². A mean over
    values of W needs no case apart, not even for seeds = 0 or examples = 0.

    Attributes:
        seeds: The standard error from the choice of seeds.
        df: Degrees of freedom of that.
        examples: The standard error from the choice of examples.
    """

    seeds: float
    df: int
    examples: float

    def exceeds(self, x: float) -> float:
        """Returns the probability of an error above x."""
        values, weights = _chi2_nodes(self.df)
        deviation = np.sqrt(self.seeds**2 * self.df / values + self.examples**2)
        return float(weights @ ndtr(-x / deviation))

    def quantile(self, alpha: float) -> float:
        """Returns the error that is exceeded with probability alpha < 1/2."""
        # One of the two parts must exceed its own quantile at alpha / 2: they bound that of the sum.
        bound = self.seeds * t.isf(alpha / 2, self.df) + self.examples * norm.isf(alpha / 2)
        return float(brentq(lambda x: self.exceeds(x) - alpha, 0, 1.01 * bound, xtol=1e-9 * bound))


def power(seeds: int, distance: float, deviation: float, examples: float, alpha: float) -> float:
    """Returns the probability that the interval of a mean over seeds does not contain the margin.

    The examples stay what they are: their error widens every interval by the same, and moves none of them. What varies
    is the mean, normal about its true value, and the deviation that is seen, by χ².

    Args:
        seeds: How many; at least 2.
        distance: Of the true mean difference from the margin, in points; its sign does not matter.
        deviation: Of a single seed's difference, in points.
        examples: The standard error from the choice of examples.
        alpha: The one-sided level.
    """
    error, df = deviation / math.sqrt(seeds), seeds - 1
    quantiles = (np.arange(20) + 0.5) / 20
    seen = error * np.sqrt(chi2.ppf(quantiles, df) / df)
    halves = np.array([Error(value, df, examples).quantile(alpha) for value in seen])
    return float(np.mean(ndtr((distance - halves) / error) + ndtr((-distance - halves) / error)))


def seeds_to_decide(
    distance: float, deviation: float, examples: float, alpha: float, wanted: float, more_than: int
) -> int | None:
    """Returns the smallest number of seeds, above `more_than`, whose `power` is as wanted; None where none will do.

    No number does where the distance is within the examples' own error, and none up to `MOST_SEEDS` is as good as none.
    Arguments are those of `power`.
    """

    def enough(seeds: int) -> bool:
        return power(seeds, distance, deviation, examples, alpha) >= wanted

    if deviation == 0 or abs(distance) <= examples * norm.isf(alpha):
        return None
    low, high = more_than, more_than + 1
    while not enough(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(2 * high, MOST_SEEDS)
    while high - low > 1:  # low is too few, or what there is; high is enough
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@cache
def _chi2_nodes(df: int) -> tuple[Array, Array]:
    """Returns values and weights whose weighted sums are expectations; they are dense at 0, where t's tails are."""
    steps = (np.arange(500) + 0.5) / 500
    return chi2.ppf(steps**4, df), steps**3 / (steps**3).sum()
