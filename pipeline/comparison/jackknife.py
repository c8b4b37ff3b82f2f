"""What two methods' scores owe to each cluster of examples: the jackknife's answer to other examples.

A cluster is what one draw of data brings: examples of the same sentence, whichever tasks they are of. Each score is
computed once more without each cluster in turn. Summed over clusters, the products of these changes are the scores'
covariance, be they of one task or of several (Efron & Tibshirani, 1993, ch. 11; clusters that are left out as a whole:
Cameron & Miller, 2015, https://doi.org/10.3368/jhr.50.2.317).
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.comparison.outcomes import Array, Outcomes, OutcomesError


@dataclass(frozen=True)
class Scores:
    """Scores, and what they owe to each cluster.

    Attributes:
        values: (k,), in points.
        shares: (clusters, k), labelled by cluster: how a score changes without it, scaled so that the sums of
            products over clusters are the scores' covariance.
    """

    values: Array
    shares: pd.DataFrame

    def combined(self, weights: Array) -> "Scores":
        """Returns linear combinations of the scores; weights are (k, m)."""
        return Scores(self.values @ weights, self.shares @ weights)

    @property
    def covariance(self) -> Array:
        """Of the scores over other examples (k, k)."""
        shares = self.shares.to_numpy()
        return shares.T @ shares

    @property
    def df(self) -> float:
        """Degrees of freedom of the variance of the scores' mean.

        A variance of n values with kurtosis κ is as uncertain as one of 2n / (κ − 1) normal values: few, where few
        clusters tell two methods apart. There are never more than n − 1.
        """
        squares = self.shares.to_numpy().mean(axis=1) ** 2
        kurtosis = len(squares) * (squares**2).sum() / max(squares.sum() ** 2, np.finfo(float).tiny)
        most = max(len(squares) - 1, 1)
        return float(most if kurtosis <= 1 else np.clip(2 * len(squares) / (kurtosis - 1), 1, most))


def of_runs(
    name: str,
    runs: Sequence[Outcomes],
    groups: Sequence[Hashable] | None = None,
    clusters: Sequence[str] | None = None,
) -> Scores:
    """Returns the scores of runs on the same examples.

    Args:
        name: Of the task, for errors; without clusters, examples of different names have nothing to do with each other.
        runs: At least one.
        groups: A label for each example, where a score is the mean of the groups' scores.
        clusters: A label for each example; each is its own where there are none.

    Raises:
        OutcomesError: The runs differ in their metric or number of examples, or a group has a single cluster.
    """
    examples = _examples(name, runs, groups, clusters)
    labels = pd.Series([f"{name} {n}" for n in range(examples)] if clusters is None else list(clusters))
    rows = np.stack([one.summands for one in runs], axis=1)  # (examples, runs, summands)
    members = pd.Series(0, labels.index).groupby(list(groups) if groups is not None else [0] * examples)
    found = [
        _of_group(f"{name}: group {group}", rows[those], labels.iloc[those], runs[0].score)
        for group, those in members.indices.items()
    ]
    return mean(found)


def mean(scores: Sequence[Scores]) -> Scores:
    """Returns the mean of scores, such as those of several tasks, some of whose clusters may be the same."""
    shares = pd.concat([one.shares for one in scores])
    return Scores(
        np.mean([one.values for one in scores], axis=0),
        shares.groupby(level=0, sort=False).sum() / len(scores),
    )


def _examples(
    name: str,
    runs: Sequence[Outcomes],
    groups: Sequence[Hashable] | None,
    clusters: Sequence[str] | None,
) -> int:
    sizes = {len(one.summands) for one in runs}
    sizes |= {len(labels) for labels in (groups, clusters) if labels is not None}
    if len(sizes) > 1:
        raise OutcomesError(
            f"{name}: runs of {' and '.join(map(str, sorted(sizes)))} examples; evaluate them on the same ones"
        )
    if len({one.score for one in runs}) > 1:
        raise OutcomesError(f"{name}: runs are scored by different metrics; evaluate them by the same one")
    return sizes.pop()


def _of_group(name: str, rows: Array, labels: pd.Series, score: Callable[[Array], Array]) -> Scores:
    places, clusters = pd.factorize(labels)
    if len(clusters) < 2:
        raise OutcomesError(f"{name} has one cluster of examples; at least two are needed")
    parts = np.zeros((len(clusters), *rows.shape[1:]))
    np.add.at(parts, places, rows)
    total = rows.sum(axis=0)
    without = score(total - parts)
    scale = np.sqrt(1 - 1 / len(clusters))
    return Scores(score(total), pd.DataFrame(scale * (without.mean(axis=0) - without), index=clusters))
