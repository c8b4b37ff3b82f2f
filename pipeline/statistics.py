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
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics import BLEU

from pipeline.errors import PipelineError
from pipeline.intervals import Error, seeds_to_decide

Array = NDArray[np.float64]

RANDOM_SEEDS = 3  # with fewer, seeds are held fixed: one or two say next to nothing of how seeds differ
AVERAGE = "average"


class OutcomesError(PipelineError):
    """The outcomes of two methods cannot be paired."""


@dataclass(frozen=True)
class Outcomes:
    """What one run did with each example, as summands whose totals give the run's score.

    Attributes:
        summands: (examples, k); at least two examples, finite.
        score: Totals (..., k) to scores (...), in points. Multiplying the totals must not change the score.
    """

    summands: Array
    score: Callable[[Array], Array]

    def __post_init__(self) -> None:
        if self.summands.ndim != 2 or len(self.summands) < 2 or not np.isfinite(self.summands).all():
            raise OutcomesError(
                f"outcomes of shape {self.summands.shape}: need at least two examples, without NaN or infinity"
            )

    @property
    def value(self) -> float:
        """The run's score over all its examples, in points."""
        return float(self.score(self.summands.sum(axis=0)))


def mean(values: ArrayLike) -> Outcomes:
    """Returns outcomes whose score is 100 times the mean of the values, one an example, between 0 and 1.

    Raises:
        OutcomesError: A value is not between 0 and 1, as when it is a percentage already.
    """
    values = np.asarray(values, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise OutcomesError("mean: values must lie between 0 and 1; divide percentages by 100")
    return Outcomes(np.stack([np.ones_like(values), values], axis=-1), _mean_score)


def accuracy(predictions: ArrayLike, references: ArrayLike) -> Outcomes:
    """Returns outcomes whose score is the percentage of predictions that equal the reference."""
    return mean(np.asarray(predictions) == np.asarray(references))


def pearson(predictions: ArrayLike, references: ArrayLike) -> Outcomes:
    """Returns outcomes whose score is 100 times Pearson's correlation; 0 if either side is constant."""
    # Correlation is blind to shifts: from the first value, constants become exact zeros and sums stay small.
    x, y = (np.asarray(values, dtype=float) for values in (predictions, references))
    x, y = x - x[0], y - y[0]
    return Outcomes(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1), _correlation_score)


def matthews_correlation(predictions: ArrayLike, references: ArrayLike) -> Outcomes:
    """Returns outcomes whose score is 100 times Matthews' correlation of two classes, 0 and 1; 0 for one class alone.

    For two classes it is Pearson's correlation of the class ids (the phi coefficient).

    Raises:
        OutcomesError: There is a third class.
    """
    if not np.isin(np.concatenate([predictions, references]), (0, 1)).all():
        raise OutcomesError("matthews_correlation: classes must be 0 and 1")
    return pearson(predictions, references)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Outcomes:
    """Returns outcomes whose score is corpus BLEU with one reference a sentence, by sacrebleu's n-gram counts.

    Signature: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp.
    """
    metric = BLEU(effective_order=True)  # which has no part in the counts, but silences a warning
    sentences = [
        metric.sentence_score(hypothesis, [reference])
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    counts = [[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in sentences]
    return Outcomes(np.array(counts, dtype=float), _bleu_score)


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> Outcomes:
    """Returns outcomes whose score is the mean over sentences of ROUGE-L's F1, in percent."""
    from pipeline.metrics import rouge  # which brings nltk and scikit-learn

    pairs = zip(hypotheses, references, strict=True)
    return mean([rouge.rouge_l(hypothesis, [reference]) / 100 for hypothesis, reference in pairs])


# By the names of the scores in a run's record: (predictions, references) to outcomes.
METRICS: dict[str, Callable[..., Outcomes]] = {
    "accuracy": accuracy,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "bleu": bleu,
    "rouge_l": rouge_l,
}


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


class Verdict(StrEnum):
    """What an interval says about a margin; `BETTER` implies `NOT_INFERIOR`."""

    BETTER = "better"  # the interval is above 0
    NOT_INFERIOR = "not inferior"  # above −margin
    INFERIOR = "inferior"  # below −margin
    INCONCLUSIVE = "inconclusive"  # contains −margin
    NONE = "no verdict"


@dataclass(frozen=True)
class Comparison:
    """Candidate − reference on one task, or on the average of several, in points.

    Attributes:
        candidate: Label of the method in question.
        reference: Label of the method it is compared with.
        task: The task, or `AVERAGE`.
        margin: The largest deficit, in points, that counts as none.
        confidence: Of the two-sided interval, such as 0.95.
        seeds: The seeds that count, those that both methods have.
        left_out: The seeds that only one method has (for the average: that not all runs have).
        difference: Mean over the seeds.
        low: Lower end of the interval.
        high: Upper end.
        seed_error: Standard error from the choice of seeds; 0 where they are held fixed (fewer than `RANDOM_SEEDS`).
        example_error: Standard error from the choice of examples.
        p_value: One-sided, of the hypothesis that the difference is −margin or less. Below `alpha` exactly if `low` is
            above −margin.
        p_holm: The same after Holm's correction for all tasks of the report; that of the average is not corrected.
        reason: Why there is no verdict; the numbers are then NaN and the p-values 1.
    """

    candidate: str
    reference: str
    task: str
    margin: float
    confidence: float
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seed_error: float = math.nan
    example_error: float = math.nan
    p_value: float = 1.0
    p_holm: float = 1.0
    reason: str = ""

    @property
    def alpha(self) -> float:
        """The one-sided level of the non-inferiority test: half of what the two-sided interval leaves."""
        return (1 - self.confidence) / 2

    @property
    def fixed(self) -> bool:
        """Whether the verdict is about these seeds alone."""
        return len(self.seeds) < RANDOM_SEEDS

    @property
    def verdict(self) -> Verdict:
        """The interval's position."""
        return Verdict.NONE if self.reason else _verdict(self.low, self.high, self.margin)

    def seeds_to_decide(self, power: float) -> int | None:
        """Returns how many seeds in all would decide this inconclusive comparison with a probability of `power`.

        Taken as true are the difference that is seen and the deviation of single seeds' differences; the examples and
        their error stay. None where no number would do, or where the seeds are too few to show how seeds differ.
        """
        if self.verdict is not Verdict.INCONCLUSIVE or self.fixed:
            return None
        deviation = self.seed_error * math.sqrt(len(self.seeds))
        distance = self.difference + self.margin
        return seeds_to_decide(
            distance, deviation, self.example_error, self.alpha, power, more_than=len(self.seeds)
        )

    @property
    def text(self) -> str:
        """One line, such as "LoRA-FA − LoRA: +0.1 [−0.6, 0.8], not inferior at margin 1.0"."""
        subject = f"{self.candidate} − {self.reference}"
        if self.reason:
            return f"{subject}: {self.verdict}, {self.reason}"
        at_margin = "" if self.verdict is Verdict.BETTER else f" at margin {float(self.margin)}"
        words = [self._numbers(), f"{self.verdict}{at_margin}"]
        if self.high < 0 and self.verdict is not Verdict.INFERIOR:
            words.append("but lower")
        if self.fixed:
            words.append(f"for {_seeds(self.seeds)} alone")
        if self.left_out:
            words.append(f"without {_seeds(self.left_out)}")
        return f"{subject}: {', '.join(words)}"

    def _numbers(self) -> str:
        """The difference and its interval with the first number of digits at which they show the verdict."""
        for digits in (1, 2, 3):
            low, high = round(self.low, digits), round(self.high, digits)
            if _verdict(low, high, self.margin) is self.verdict and (high < 0) == (self.high < 0):
                break
        return f"{_number(self.difference, digits, '+')} [{_number(self.low, digits)}, {_number(self.high, digits)}]"


@dataclass(frozen=True)
class Report:
    """Every comparison of two methods.

    Attributes:
        tasks: One for each task, `p_holm` corrected for their number.
        average: The mean of the tasks' differences, over the seeds that all of them have.
    """

    tasks: tuple[Comparison, ...]
    average: Comparison

    @property
    def text(self) -> str:
        """On which tasks the candidate is not inferior, all of them at once: wrong anywhere with probability alpha."""
        shown = [comparison.task for comparison in self.tasks if comparison.p_holm < comparison.alpha]
        names = f": {', '.join(shown)}" if shown else ""
        return (
            f"Not inferior on {len(shown)} of {len(self.tasks)} tasks at once "
            f"(Holm, one-sided level {self.average.alpha:.3g}){names}"
        )


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


def _mean_score(totals: Array) -> Array:
    return 100 * totals[..., 1] / totals[..., 0]


def _correlation_score(totals: Array) -> Array:
    x, y, xx, yy, xy = np.moveaxis(totals[..., 1:] / totals[..., :1], -1, 0)
    x_variance, y_variance = xx - x * x, yy - y * y
    varied = (x_variance > 1e-12 * xx) & (y_variance > 1e-12 * yy)  # else constant, but for rounding
    return np.where(varied, 100 * (xy - x * y) / np.sqrt(np.where(varied, x_variance * y_variance, 1)), 0.0)


def _bleu_score(totals: Array) -> Array:
    """Papineni et al. (2002) with the exponential smoothing of mteval-v13a, as sacrebleu has it by default."""
    length, reference = totals[..., 0], totals[..., 1]
    matches, ngrams = totals[..., 2:6], totals[..., 6:10]
    halvings = np.cumsum(matches == 0, axis=-1)
    numerators = np.where(matches == 0, 0.5**halvings, matches)
    valid = (ngrams > 0).all(axis=-1) & (matches > 0).any(axis=-1)
    precisions = numerators / np.where(ngrams > 0, ngrams, 1)
    brevity = np.minimum(1 - reference / np.where(length > 0, length, 1), 0)
    return np.where(valid, 100 * np.exp(np.log(precisions).mean(axis=-1) + brevity), 0.0)


def _verdict(low: float, high: float, margin: float) -> Verdict:
    if low > 0:
        return Verdict.BETTER
    if low > -margin:
        return Verdict.NOT_INFERIOR
    return Verdict.INFERIOR if high < -margin else Verdict.INCONCLUSIVE


def _number(value: float, digits: int, sign: str = "-") -> str:
    rounded = round(value, digits) + 0.0  # no negative zero
    return f"{rounded:{sign if rounded else '-'}.{digits}f}".replace("-", "−")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
