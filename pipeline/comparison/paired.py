"""Paired comparisons of two methods over seeds and examples: intervals and verdicts.

Every score of the tables is a function of sums over examples: of hits for accuracy, of moments for the correlations, of
n-gram counts for BLEU. Differences are candidate − reference, in points: hundredths, as the tables print scores. Two
things make a mean difference uncertain:

- examples: the covariance of the seeds' differences over other examples, the same for both methods, all seeds and all
  tasks (`pipeline.comparison.jackknife`);
- seeds: the variance of the seeds' differences, with one degree of freedom less than there are seeds.

This is the model of Obuchowski and Rockette for many readers of the same cases, with seeds as readers (Hillis et al.,
2005, https://doi.org/10.1002/sim.2024). The interval is Behrens' and Fisher's, of a t plus a normal variable: it
keeps its promise at three seeds, where a percentile bootstrap over seeds and examples does not. docs/statistics.md has
the measured error rates and says how to read a verdict.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm, t

from pipeline.comparison import jackknife
from pipeline.comparison.intervals import Error
from pipeline.comparison.jackknife import Scores
from pipeline.comparison.outcomes import Array, Outcomes
from pipeline.comparison.verdict import AVERAGE, RANDOM_SEEDS, Comparison, Report, Retention


@dataclass(frozen=True)
class TaskRuns:
    """The runs of one task to compare, by seed; what ran out of memory is left out.

    Attributes:
        task: How the task is called in texts.
        candidate: Seed to outcomes; all runs have the same examples in the same order.
        reference: The same of the method it is compared with.
        groups: A label for each example where the score is the mean of the groups' scores (MNLI's two splits). None for
            one score over all examples.
        clusters: A label for each example; those of one label are drawn together, in all tasks. None: each by itself.
        baseline: What needs no training, such as the majority class; a gain is above it. None: there is none.
        collapsed: The seeds of the candidate, and of the reference, whose runs learnt nothing. They count as they are.
    """

    task: str
    candidate: Mapping[int, Outcomes]
    reference: Mapping[int, Outcomes]
    groups: Sequence[Hashable] | None = None
    clusters: Sequence[str] | None = None
    baseline: Outcomes | None = None
    collapsed: tuple[Collection[int], Collection[int]] = ((), ())


def compare(
    tasks: Sequence[TaskRuns],
    candidate: str,
    reference: str,
    *,
    margin: float,
    fraction: float,
    confidence: float,
) -> Report:
    """Compares two methods on every task and on the average over the tasks.

    With at least `RANDOM_SEEDS` seeds in common, a verdict is about any seed; with fewer, about those seeds alone. The
    average treats a seed as one draw for all tasks, since runs of the same seed share their initial adapter.

    Args:
        tasks: At least one; their order is that of the report.
        candidate: Label of the method in question.
        reference: Label of the method it is compared with.
        margin: Points by which the candidate may be worse.
        fraction: Of the reference's gain over the baseline, what the candidate may lose; the other margin.
        confidence: Of the two-sided intervals; the one-sided tests are at level (1 − confidence) / 2.

    Raises:
        OutcomesError: The runs of a task differ in their metric or number of examples.
    """

    def judged(task: str, effect: _Effect) -> Comparison:
        blank = Comparison(candidate, reference, task, margin, confidence, effect.seeds, effect.left_out)
        return _judged(blank, effect, fraction)

    effects = [_effect(runs) for runs in tasks]
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
    """Scores of the candidate's S seeds, the reference's, and, where there is one, the baseline; (2S or 2S + 1,)."""

    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    scores: Scores | None
    improvement: float = math.nan
    collapsed: tuple[int, int] = (0, 0)
    independent: tuple[str, ...] = ()

    @property
    def baseline(self) -> bool:
        """Whether there is a baseline's score."""
        return self.scores is not None and len(self.scores.values) > 2 * len(self.seeds)

    def at(self, seeds: tuple[int, ...], baseline: bool) -> Scores:
        """Returns the scores of some of the seeds, with or without the baseline's."""
        assert self.scores is not None
        places = [self.seeds.index(seed) for seed in seeds]
        chosen = [*places, *(len(self.seeds) + place for place in places)]
        return self.scores.combined(np.eye(len(self.scores.values))[:, chosen + [-1] * baseline])


def _effect(runs: TaskRuns) -> _Effect:
    seeds = tuple(sorted(set(runs.candidate) & set(runs.reference)))
    left_out = tuple(sorted(set(runs.candidate) ^ set(runs.reference)))
    if not seeds:
        return _Effect(seeds, left_out, None)
    outcomes = [method[seed] for method in (runs.candidate, runs.reference) for seed in seeds]
    outcomes += [runs.baseline] if runs.baseline is not None else []
    scores = jackknife.of_runs(runs.task, outcomes, runs.groups, runs.clusters)
    ours, theirs = scores.values[: 2 * len(seeds)].reshape(2, -1)
    collapsed = (len(set(runs.collapsed[0]) & set(seeds)), len(set(runs.collapsed[1]) & set(seeds)))
    independent = (runs.task,) if runs.clusters is None else ()
    return _Effect(seeds, left_out, scores, _improvement(ours, theirs), collapsed, independent)


def _improvement(ours: Array, theirs: Array) -> float:
    """Returns the share of pairs of runs, one of each method, in which ours scores higher; a tie is half of one."""
    gaps = np.round(ours[:, None] - theirs, 9)
    return float(np.mean((np.sign(gaps) + 1) / 2))


def _average(effects: list[_Effect]) -> _Effect:
    """Returns the effect on the mean over tasks, for the seeds that all tasks have."""
    seeds = tuple(sorted(set.intersection(*(set(effect.seeds) for effect in effects))))
    known = {seed for effect in effects for seed in (*effect.seeds, *effect.left_out)}
    left_out = tuple(sorted(known - set(seeds)))
    if not seeds:
        return _Effect(seeds, left_out, None)
    baseline = all(effect.baseline for effect in effects)
    return _Effect(
        seeds,
        left_out,
        jackknife.mean([effect.at(seeds, baseline) for effect in effects]),
        float(np.mean([effect.improvement for effect in effects])),
        (sum(effect.collapsed[0] for effect in effects), sum(effect.collapsed[1] for effect in effects)),
        tuple(task for effect in effects for task in effect.independent),
    )


def _judged(blank: Comparison, effect: _Effect, fraction: float) -> Comparison:
    if effect.scores is None:
        return replace(blank, reason="no seed has both methods' results")
    one = np.eye(len(effect.seeds))
    rest = np.zeros((len(effect.scores.values) - 2 * len(one), len(one)))
    differences = effect.scores.combined(np.concatenate([one, -one, rest]))
    error = _error(differences, blank.alpha)
    if error is None:
        return replace(blank, reason="no example tells them apart")
    difference, half = float(differences.values.mean()), error.quantile(blank.alpha)
    return replace(
        blank,
        difference=difference,
        low=difference - half,
        high=difference + half,
        seed_error=error.seeds,
        example_error=error.examples,
        p_value=error.exceeds(difference + blank.margin),
        improvement=effect.improvement,
        collapsed=effect.collapsed,
        independent=effect.independent,
        retention=_retention(effect, fraction, blank.alpha) if effect.baseline else None,
    )


def _retention(effect: _Effect, fraction: float, alpha: float) -> Retention | None:
    """Returns what the candidate keeps of the reference's gain, if the reference is shown to gain anything.

    A fixed fraction of a gain that is estimated itself is tested as one combination of the three scores, candidate −
    (1 − fraction) · reference − fraction · baseline (Rothmann et al., 2003, https://doi.org/10.1002/sim.1400).
    """
    assert effect.scores is not None
    seeds = len(effect.seeds)
    one, whole = np.eye(seeds), np.ones((1, seeds))
    gain = effect.scores.combined(np.concatenate([0 * one, one, -whole]))
    surplus = effect.scores.combined(np.concatenate([one, (fraction - 1) * one, -fraction * whole]))
    if _interval(gain, alpha)[0] <= 0:
        return None
    low, high = _interval(surplus, alpha)
    kept = 1 - fraction + surplus.values.mean() / gain.values.mean()
    return Retention(float(kept), 1 - fraction, low, high)


def _interval(effects: Scores, alpha: float) -> tuple[float, float]:
    """Returns the interval of the mean of the seeds' effects."""
    error, middle = _error(effects, alpha), float(effects.values.mean())
    half = error.quantile(alpha) if error else 0.0
    return middle - half, middle + half


def _error(effects: Scores, alpha: float) -> Error | None:
    """Returns the error of the mean of the seeds' effects; None where nothing varies."""
    seeds, covariance = len(effects.values), effects.covariance
    fixed_variance = covariance.mean()  # of the mean over these very seeds
    if seeds < RANDOM_SEEDS:
        seed_variance, example_variance = 0.0, fixed_variance
    else:
        seed_variance = effects.values.var(ddof=1) / seeds
        # What an example does to all seeds alike; what it does to one of them alone is in the seeds' variance already.
        # Seeds that agree by chance make the mean no more certain than it is with these seeds held fixed.
        shared = covariance[~np.eye(seeds, dtype=bool)].mean()
        example_variance = max(shared, fixed_variance - seed_variance)
    if seed_variance + example_variance <= 1e-18:  # rounding
        return None
    widened = t.isf(alpha, effects.df) / norm.isf(alpha)  # exact where seeds do not matter
    return Error(
        math.sqrt(seed_variance), max(seeds - 1, 1), float(widened) * math.sqrt(max(example_variance, 0.0))
    )
