"""Paired comparisons of two methods over seeds and examples: intervals and non-inferiority verdicts.

Every score of the tables is a function of sums over examples: of hits for accuracy, of moments for the correlations, of
n-gram counts for BLEU. An example's summands are computed once, and a bootstrap resample is a matrix product.

Differences are candidate − reference, in points: hundredths, as the tables print scores. Two things make a mean
difference uncertain:

- examples: the covariance of the seeds' differences when examples are resampled, the same for both methods and all
  seeds (paired bootstrap: Koehn, 2004, https://aclanthology.org/W04-3250/; Efron & Tibshirani, 1993, ch. 6 and 8);
- seeds: the variance of the seeds' differences, with one degree of freedom less than there are seeds.

This is the model of Obuchowski and Rockette for many readers of the same cases, with seeds as readers (Hillis et al.,
2005, https://doi.org/10.1002/sim.2024). The interval is Behrens' and Fisher's, of a t plus a normal variable: it
keeps its promise at three seeds, where a percentile bootstrap over seeds and examples does not. docs/statistics.md has
the measured error rates and says how to read a verdict.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.intervals import Error
from pipeline.comparison.outcomes import Array, Outcomes, OutcomesError
from pipeline.comparison.verdict import AVERAGE, Comparison, Report


@dataclass(frozen=True)
class TaskRuns:
    """The runs of one task to compare, by seed; runs that diverged or ran out of memory are left out.

    Attributes:
        task: How the task is called in texts.
        candidate: Seed to outcomes; all runs have the same examples in the same order.
        reference: The same of the method it is compared with.
        groups: A label for each example where the score is the mean of the groups' scores (MMLU's subjects, MNLI's two
            splits); examples are then resampled within their group. None for one score over all examples.
    """

    task: str
    candidate: Mapping[int, Outcomes]
    reference: Mapping[int, Outcomes]
    groups: Sequence[Hashable] | None = None


def compare(
    tasks: Sequence[TaskRuns],
    candidate: str,
    reference: str,
    *,
    margin: float,
    confidence: float,
    resamples: int,
    seed: int,
) -> Report:
    """Compares two methods on every task and on the average over the tasks.

    With at least `RANDOM_SEEDS` seeds in common, a verdict is about any seed; with fewer, about those seeds alone. The
    average treats a seed as one draw for all tasks, since runs of the same seed share their initial adapter.

    Args:
        tasks: At least one; their order is that of the report.
        candidate: Label of the method in question.
        reference: Label of the method it is compared with.
        margin: Points by which the candidate may be worse.
        confidence: Of the two-sided intervals; the one-sided tests are at level (1 − confidence) / 2.
        resamples: Of the bootstrap.
        seed: Of the bootstrap; a task's numbers do not depend on the other tasks.

    Raises:
        OutcomesError: The runs of a task differ in their metric or number of examples.
    """

    def judged(task: str, effect: _Effect) -> Comparison:
        blank = Comparison(candidate, reference, task, margin, confidence, effect.seeds, effect.left_out)
        return _judged(blank, effect)

    effects = [_effect(runs, resamples, seed) for runs in tasks]
    by_task = [judged(runs.task, effect) for runs, effect in zip(tasks, effects, strict=True)]
    adjusted = holm([comparison.p_value for comparison in by_task])
    average = judged(AVERAGE, _average(effects))
    return Report(
        tuple(replace(one, p_holm=p) for one, p in zip(by_task, adjusted, strict=True)),
        replace(average, p_holm=average.p_value),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns Holm's (1979) step-down adjusted p-values, https://www.jstor.org/stable/4615733, in the order given.

    Rejecting where they are below alpha is wrong for one hypothesis or more with probability at most alpha, however the
    tests depend on each other.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


@dataclass(frozen=True)
class _Effect:
    """Each common seed's difference (S,), and their covariance (S, S) over resampled examples, in points."""

    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    differences: Array
    covariance: Array


def _effect(runs: TaskRuns, resamples: int, seed: int) -> _Effect:
    seeds = tuple(sorted(set(runs.candidate) & set(runs.reference)))
    left_out = tuple(sorted(set(runs.candidate) ^ set(runs.reference)))
    if not seeds:
        return _Effect(seeds, left_out, np.empty(0), np.empty((0, 0)))
    outcomes = [method[key] for method in (runs.candidate, runs.reference) for key in seeds]
    _check(runs, outcomes)
    rows = np.concatenate([one.summands for one in outcomes], axis=1)
    rng = np.random.default_rng([seed, *runs.task.encode()])
    by_group = []
    for group in _groups(runs, len(rows)):
        weights, distinct = _resample(rows[group], resamples, rng)
        by_group.append(outcomes[0].score((weights @ distinct).reshape(resamples + 1, 2, len(seeds), -1)))
    scores = np.mean(by_group, axis=0)
    differences = scores[:, 0] - scores[:, 1]
    covariance = np.atleast_2d(np.cov(differences[1:], rowvar=False))
    return _Effect(seeds, left_out, differences[0], covariance)


def _groups(runs: TaskRuns, examples: int) -> list[NDArray[np.intp]]:
    """Returns the examples of each group."""
    if runs.groups is None:
        return [np.arange(examples)]
    members: dict[Hashable, list[int]] = {}
    for example, group in enumerate(runs.groups):
        members.setdefault(group, []).append(example)
    for group, those in members.items():
        if len(those) < 2:
            raise OutcomesError(f"{runs.task}: group {group} has one example; at least two are needed")
    return [np.array(those) for those in members.values()]


def _check(runs: TaskRuns, outcomes: list[Outcomes]) -> None:
    sizes = {len(one.summands) for one in outcomes} | (set() if runs.groups is None else {len(runs.groups)})
    if len(sizes) > 1:
        raise OutcomesError(
            f"{runs.task}: runs of {' and '.join(map(str, sorted(sizes)))} examples; evaluate them on the same ones"
        )
    if len({one.score for one in outcomes}) > 1:
        raise OutcomesError(
            f"{runs.task}: runs are scored by different metrics; evaluate them by the same one"
        )


def _resample(rows: Array, resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Returns how often each distinct row counts (resamples + 1, distinct), first as it is, and the distinct rows.

    Equal rows need not be told apart, which makes accuracy fast: there are few patterns of right and wrong. One example
    less than there are is drawn, so that the variance of a mean has no factor (n − 1) / n, which would matter in small
    groups.
    """
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    drawn = rng.multinomial(len(rows) - 1, counts / len(rows), size=resamples)
    return np.concatenate([counts[None], drawn]).astype(float), distinct


def _average(effects: list[_Effect]) -> _Effect:
    """Returns the effect on the mean over tasks, whose examples are independent, for the seeds that all tasks have."""
    seeds = tuple(sorted(set.intersection(*(set(effect.seeds) for effect in effects))))
    known = {seed for effect in effects for seed in (*effect.seeds, *effect.left_out)}
    places = [[effect.seeds.index(seed) for seed in seeds] for effect in effects]
    differences = [effect.differences[at] for effect, at in zip(effects, places, strict=True)]
    covariances = [effect.covariance[np.ix_(at, at)] for effect, at in zip(effects, places, strict=True)]
    return _Effect(
        seeds,
        tuple(sorted(known - set(seeds))),
        np.mean(differences, axis=0),
        np.sum(covariances, axis=0) / len(effects) ** 2,
    )


def _judged(blank: Comparison, effect: _Effect) -> Comparison:
    seeds = len(effect.seeds)
    if seeds == 0:
        return replace(blank, reason="no seed has both methods' results")
    fixed_variance = effect.covariance.mean()  # of the mean over these very seeds
    if blank.fixed:
        seed_variance, example_variance = 0.0, fixed_variance
    else:
        seed_variance = effect.differences.var(ddof=1) / seeds
        # What an example does to all seeds alike; what it does to one of them alone is in the seeds' variance already.
        # Seeds that agree by chance make the mean no more certain than it is with these seeds held fixed.
        shared = effect.covariance[~np.eye(seeds, dtype=bool)].mean()
        example_variance = max(shared, fixed_variance - seed_variance)
    if seed_variance + example_variance <= 0:
        return replace(blank, reason="no example tells them apart")
    seed_error, example_error = math.sqrt(seed_variance), math.sqrt(max(example_variance, 0.0))
    error = Error(seed_error, max(seeds - 1, 1), example_error)
    difference = float(effect.differences.mean())
    half = error.quantile(blank.alpha)
    return replace(
        blank,
        difference=difference,
        low=difference - half,
        high=difference + half,
        seed_error=seed_error,
        example_error=example_error,
        p_value=error.exceeds(difference + blank.margin),
    )
