"""How much more than estimated to expect, without an assumption on how errors are distributed."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom

ONE_IN = 20


@dataclass(frozen=True)
class Bound:
    """How much more than estimated to expect: a one-sided, distribution-free bound, an order statistic of the errors.

    Attributes:
        margin: Of the rows, at most one in `ONE_IN` has measured > estimated · (1 + margin).
        rows: How many rows that rests on.
        above: How many of them are above.
        confidence: That the margin holds for `1 − 1/ONE_IN` of all measurements, if the rows were drawn from them at
            random and independently; whatever their distribution.
        largest: The margin that no row exceeds.
        largest_confidence: The same of that.
    """

    margin: float
    rows: int
    above: int
    confidence: float
    largest: float
    largest_confidence: float


def bound(measured: Sequence[float], estimated: Sequence[float], one_in: int = ONE_IN) -> Bound:
    """Returns the smallest margin that at most one in `one_in` rows exceeds.

    With n rows it is the k-th smallest of measured / estimated − 1, for k = n − ⌊n / one_in⌋. It is at least the
    distribution's (1 − 1/one_in)-quantile with probability P(Binomial(n, 1 − 1/one_in) < k) (Wilks 1941); the largest
    of them with probability 1 − (1 − 1/one_in)ⁿ.

    Raises:
        ValueError: There are no rows.
    """
    errors = sorted(m / e - 1 for m, e in zip(measured, estimated, strict=True))
    if not errors:
        raise ValueError("a bound needs at least one row")
    count, share = len(errors), 1 - 1 / one_in
    above = count // one_in
    return Bound(
        margin=errors[count - above - 1],
        rows=count,
        above=above,
        confidence=float(binom.cdf(count - above - 1, count, share)),
        largest=errors[-1],
        largest_confidence=float(binom.cdf(count - 1, count, share)),
    )
