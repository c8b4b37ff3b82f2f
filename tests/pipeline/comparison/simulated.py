"""Simulated runs with a known true difference: `python -m tests.pipeline.comparison.simulated 2000`.

It prints the tables of docs/statistics.md, the same each time; the number is that of simulations for each row, and
five times that of the last two tables'.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from pipeline.comparison.outcomes import bleu, matthews_correlation, mean, pearson
from pipeline.comparison.paired import TaskRuns, compare
from pipeline.comparison.runs import Run, pair
from pipeline.comparison.verdict import Verdict
from pipeline.results.records import DIVERGED, DONE

ALPHA = 0.025
between = partial(
    compare, candidate="LoRA-FA", reference="LoRA", margin=1.0, fraction=0.1, confidence=1 - 2 * ALPHA
)


# Simulated runs: a function of a generator to (tasks, the true difference in points).


def answers(
    rng,
    difference=0.0,
    deviation=0.0,
    examples=300,
    seeds=3,
    alike=0.5,
    own=0.3,
    share=(0.6, 0.9),
    shifts=None,
):
    """Runs whose examples are right with a chance of their own, `difference` points higher for the candidate.

    What decides about an example is the same for all runs with probability `alike`, for all runs of a method with
    probability `own`, and else each run's. `deviation` is that of the seeds' true differences, in points; `shifts` are
    the methods' points of luck by seed where they come from elsewhere.
    """
    chance, common = rng.uniform(*share, examples), rng.random(examples)
    luck = deviation * rng.standard_normal((2, seeds)) / math.sqrt(2) if shifts is None else shifts
    runs = []
    for method, bonus in enumerate((difference, 0.0)):
        source, methods, each = (
            rng.random((seeds, examples)),
            rng.random(examples),
            rng.random((seeds, examples)),
        )
        decides = np.where(source < alike, common, np.where(source < alike + own, methods, each))
        hits = decides < chance + (bonus + luck[method][:, None]) / 100
        runs.append({seed: mean(hits[seed]) for seed in range(seeds)})
    return TaskRuns("task", *runs), difference + float(np.diff(luck[::-1], axis=0).mean())


def any_seed(rng, difference=0.0, **settings):
    return [answers(rng, difference, **settings)[0]], difference


def these_seeds(rng, **settings):
    runs, truth = answers(rng, **settings)
    return [runs], truth


def four_tasks(rng, deviation):
    """The same luck on every task, as when an initial adapter is good or bad for all of them."""
    luck = deviation * rng.standard_normal((2, 3)) / math.sqrt(2)
    return [replace(answers(rng, shifts=luck)[0], task=str(task)) for task in range(4)], 0.0


def classes(rng, examples=300):
    labels = (rng.random(examples) < 0.7).astype(int)
    hard = rng.random(examples)

    def run():
        wrong = np.where(rng.random(examples) < 0.7, hard, rng.random(examples)) < rng.normal(0.2, 0.01)
        return matthews_correlation(np.where(wrong, 1 - labels, labels), labels)

    return [TaskRuns("task", *({seed: run() for seed in range(3)} for _ in range(2)))], 0.0


def ratings(rng, examples=300):
    labels, hard = rng.standard_normal((2, examples))

    def run():
        error = hard + rng.normal(0, 0.5, examples)
        return pearson(labels + rng.normal(0.6, 0.05) * error, labels)

    return [TaskRuns("task", *({seed: run() for seed in range(3)} for _ in range(2)))], 0.0


def translations(rng, examples=200):
    """Summands as sacrebleu would count them, if a word were right with some chance after a right one."""
    length = rng.integers(4, 20, examples)
    hard = rng.uniform(0.6, 0.95, examples)
    template = bleu(["a b c d"] * 2, ["a b c d"] * 2)

    def run():
        chance = np.clip(hard + rng.normal(0, 0.01), 0, 1)
        ngrams = length[:, None] - np.arange(4)
        matches = np.stack([rng.binomial(ngrams[:, n], chance ** (n + 1)) for n in range(4)], axis=-1)
        return replace(template, summands=np.column_stack([length, length, matches, ngrams]).astype(float))

    return [TaskRuns("task", *({seed: run() for seed in range(3)} for _ in range(2)))], 0.0


# As the rows of the first table of docs/statistics.md are called.
SETTINGS: dict[str, Callable] = {
    "accuracy, seeds alike": any_seed,
    "accuracy, seeds ±1 point": partial(any_seed, deviation=1.0),
    "accuracy, seeds ±3 points": partial(any_seed, deviation=3.0),
    "accuracy, seeds ±10 points": partial(any_seed, deviation=10.0, share=(0.4, 0.6)),
    "accuracy near 97 %": partial(any_seed, share=(0.95, 0.99)),
    "accuracy, five seeds ±3 points": partial(any_seed, deviation=3.0, seeds=5),
    "accuracy, these two seeds": partial(these_seeds, deviation=3.0, seeds=2),
    "Matthews correlation": classes,
    "Pearson correlation": ratings,
    "BLEU": translations,
    "average of four tasks": partial(four_tasks, deviation=1.0),
    "this one seed, few examples differ": partial(
        these_seeds, difference=-1.0, seeds=1, share=(0.94, 0.995), alike=0.9, own=0.05
    ),
}
DIFFERENCES = (-3.0, -1.0, 0.0, 0.5, 2.0)
LARGE = {"examples": 1500, "deviation": 0.2, "alike": 0.97, "own": 0.02}


def percentile(tasks, rng, resamples=200):
    """The interval that is not used: percentiles over resampled seeds and examples."""
    draws = 0.0
    seeds = sorted(tasks[0].candidate)
    chosen = rng.integers(len(seeds), size=(resamples, len(seeds)))
    for runs in tasks:
        outcomes = [method[seed] for method in (runs.candidate, runs.reference) for seed in seeds]
        rows = np.concatenate([one.summands for one in outcomes], axis=1)
        weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
        scores = outcomes[0].score((weights @ rows).reshape(resamples, 2, len(seeds), -1))
        draws += np.take_along_axis(scores[:, 0] - scores[:, 1], chosen, axis=1).mean(axis=1) / len(tasks)
    return np.quantile(draws, [ALPHA, 1 - ALPHA])


def misses(setting: str, simulations: int) -> tuple[float, float]:
    """How often the interval is above and below the true difference; above is how a deficit is overlooked."""
    rng = np.random.default_rng(1)
    above = below = 0
    for _ in range(simulations):
        tasks, truth = SETTINGS[setting](rng)
        result = between(tasks).average
        above += result.low > truth
        below += result.high < truth
    return above / simulations, below / simulations


def percentile_misses(setting: str, simulations: int) -> float:
    rng = np.random.default_rng(1)
    outside = 0
    for _ in range(simulations):
        tasks, truth = SETTINGS[setting](rng)
        low, high = percentile(tasks, rng)
        outside += not low <= truth <= high
    return outside / simulations


def verdicts(difference: float, simulations: int) -> dict[Verdict, float]:
    """The share of each verdict at margin 1."""
    rng = np.random.default_rng(2)
    found = [between([answers(rng, difference, **LARGE)[0]]).average.verdict for _ in range(simulations)]
    return {verdict: found.count(verdict) / simulations for verdict in Verdict}


# What was done before, and what is done now: a function of a generator to (tasks before, tasks now, true difference).


def one_sentence(rng, tasks=4, examples=300, sentences=300, alike=0.6):
    """Two seeds of each method on tasks of the same sentences, some of which suit a method in every task."""
    suits = rng.normal(0, 0.25, (2, sentences))
    labels = [str(sentence) for sentence in np.arange(examples) % sentences]
    found = []
    for task in range(tasks):
        common = rng.random(examples)
        decides = np.where(rng.random((2, 2, examples)) < alike, common, rng.random((2, 2, examples)))
        chance = np.clip(0.5 + suits[:, np.arange(examples) % sentences], 0, 1)[:, None]
        methods = [dict(enumerate(map(mean, hits))) for hits in decides < chance]
        found.append(TaskRuns(str(task), *methods, clusters=labels))
    return [replace(one, clusters=None) for one in found], found, 0.0


def collapsing(rng, chances, seeds=3):
    """Runs that diverge with a chance, by method; the majority class is right half the time, a run three quarters."""
    runs = answers(rng, deviation=1.0, seeds=seeds)[0]
    majority = mean(rng.random(300) < 0.5)
    lost = [set(np.flatnonzero(rng.random(seeds) < chance)) for chance in chances]
    kept = [
        {seed: one for seed, one in method.items() if seed not in gone}
        for method, gone in zip((runs.candidate, runs.reference), lost, strict=True)
    ]
    scored = [
        {seed: Run(DIVERGED) if seed in gone else Run(DONE, one, majority) for seed, one in method.items()}
        for method, gone in zip((runs.candidate, runs.reference), lost, strict=True)
    ]
    return [TaskRuns("task", *kept)], [pair("task", *scored)], 25 * (chances[1] - chances[0])


CHANGES: dict[str, Callable] = {
    "four tasks with the same sentences": one_sentence,
    "three examples of each sentence": partial(one_sentence, tasks=1, sentences=100),
    "one seed in ten collapses, both methods": partial(collapsing, chances=(0.1, 0.1)),
    "one seed in three collapses, both methods": partial(collapsing, chances=(1 / 3, 1 / 3)),
    "one seed in ten collapses, LoRA-FA alone": partial(collapsing, chances=(0.1, 0)),
    "the same, ten seeds": partial(collapsing, chances=(0.1, 0), seeds=10),
    "one seed in three collapses, LoRA-FA alone": partial(collapsing, chances=(1 / 3, 0)),
}


def changes(setting: str, simulations: int) -> tuple[float, float, float, float]:
    """How often the interval contains the true difference, and is above it: before, and now."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(simulations):
        before, now, truth = CHANGES[setting](rng)
        for tasks in (before, now):
            result = between(tasks).average
            found.append((result.low <= truth <= result.high, result.low > truth))
    shares = np.array(found, dtype=float).reshape(simulations, 2, 2).mean(axis=0)
    return tuple(shares.ravel().tolist())


# Every claim where it is just false.

MAJORITY, GAIN = 55.0, 10.0  # points; a tenth of the reference's gain is the margin of one point


def just_false(rng, kept=0.9, chances=(0.0, 0.0), tasks=1, alike=0.0, examples=300, seeds=3):
    """Runs whose candidate keeps just `kept` of the reference's gain: (tasks before, tasks now, the margin in points).

    A run collapses with the chance of its method, and is then the majority class; what is kept is so with all seeds
    counted. The tasks share their sentences, each of which suits a method in all of them by a deviation of `alike`.
    """
    lasting = 1 - np.array(chances)
    gains = GAIN * np.array([kept * lasting[1] / lasting[0], 1.0])
    luck = rng.standard_normal((2, seeds)) / math.sqrt(2)
    suits = rng.normal(0, alike, (2, examples))
    lost = rng.random((2, seeds)) < np.array(chances)[:, None]
    sentences = list(map(str, range(examples)))
    before, now = [], []
    for task in map(str, range(tasks)):
        chance = (MAJORITY + gains[:, None, None] + luck[:, :, None]) / 100 + suits[:, None, :]
        own = rng.random((2, seeds, examples))
        decides = np.where(rng.random(own.shape) < 0.6, rng.random(examples), own)
        majority = mean(rng.random(examples) < MAJORITY / 100)
        runs = [[mean(hits) for hits in method] for method in decides < chance]
        before.append(
            TaskRuns(task, *({s: one for s, one in enumerate(runs[m]) if not lost[m, s]} for m in (0, 1)))
        )
        scored = [
            {
                s: Run(DIVERGED) if lost[m, s] else Run(DONE, one, majority, clusters=sentences)
                for s, one in enumerate(runs[m])
            }
            for m in (0, 1)
        ]
        now.append(pair(task, *scored))
    return before, now, GAIN * lasting[1] / 10


CLAIMS: dict[str, Callable] = {
    "seeds ±1 point": just_false,
    "four tasks with the same sentences": partial(just_false, tasks=4, alike=0.15),
    "one seed in three collapses, both methods": partial(just_false, chances=(1 / 3, 1 / 3)),
    "one seed in ten collapses, LoRA-FA alone": partial(just_false, chances=(0.1, 0)),
}


def mistakes(setting: str, simulations: int) -> tuple[list[float], list[float]]:
    """How often each claim is made where it is just false, before and now, in the order of the page's columns."""
    rng = np.random.default_rng(4)
    found = np.zeros((2, 6))
    for _ in range(simulations):
        *lower, margin = CLAIMS[setting](rng)
        *equal, _ = CLAIMS[setting](rng, kept=1.0)
        for row, (deficient, as_good) in enumerate(zip(lower, equal, strict=True)):
            report = between(deficient, margin=margin)
            average, retention = report.average, report.average.retention
            found[row] += [
                between(as_good).average.low > 0,
                average.low > -margin,
                average.high < -margin,
                retention is not None and retention.low > 0,
                retention is not None and retention.high < 0,
                any(one.p_holm < ALPHA for one in report.tasks),
            ]
    before, now = (found / simulations).tolist()
    return before, now


def percent(shares) -> str:
    return " | ".join(f"{100 * share:.1f} %" for share in shares)


def main(simulations: int) -> None:
    for name in SETTINGS:
        above, below = misses(name, simulations)
        shares = (1 - above - below, above, 1 - percentile_misses(name, simulations))
        print(f"| {name} | {percent(shares)} |", flush=True)
    print()
    for name in CHANGES:
        print(f"| {name} | {percent(changes(name, simulations))} |", flush=True)
    print()
    for name in CLAIMS:
        for when, shares in zip(("before", "now"), mistakes(name, simulations // 5), strict=True):
            print(f"| {name}, {when} | {percent(shares)} |", flush=True)
    print()
    for true in DIFFERENCES:
        print(
            f"| {true:+g}".replace("-", "−"),
            f"| {percent(verdicts(true, simulations // 5).values())} |",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
