"""Known answers, and simulated runs: `python tests/pipeline/comparison/test_paired.py 2000` makes the page's tables."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from scipy import stats
from sklearn.metrics import accuracy_score, matthews_corrcoef

from pipeline.comparison.outcomes import (
    METRICS,
    OutcomesError,
    bleu,
    matthews_correlation,
    mean,
    pearson,
)
from pipeline.comparison.paired import TaskRuns, compare, holm
from pipeline.comparison.verdict import Comparison, Verdict
from pipeline.metrics import translation

PAGE = Path(__file__).parents[3] / "docs/statistics.md"
ALPHA = 0.025
between = partial(
    compare,
    candidate="LoRA-FA",
    reference="LoRA",
    margin=1.0,
    confidence=1 - 2 * ALPHA,
    resamples=200,
    seed=0,
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
    "*this one seed, few examples differ*": partial(
        these_seeds, difference=-1.0, seeds=1, share=(0.94, 0.995), alike=0.9, own=0.05
    ),
}
BROKEN = "*this one seed, few examples differ*"  # where the promise is known not to hold
RUNS, DOCUMENTED_RUNS = 100, 2000
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


def documented(table: str) -> dict[str, list[float]]:
    """The shares in a table of the page, by the first column's text."""
    text = PAGE.read_text().split(f"<!-- {table} -->")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()[2:]]
    return {row[0]: [float(cell.removesuffix(" %")) / 100 for cell in row[1:]] for row in rows}


def agrees(share: float, simulations: int, expected: float, documented_from: int) -> bool:
    """Whether two simulated shares differ by no more than chance would have it."""
    table = [[round(share * simulations), round((1 - share) * simulations)]]
    table += [[round(expected * documented_from), round((1 - expected) * documented_from)]]
    return stats.fisher_exact(table).pvalue > 0.001


@pytest.mark.parametrize("setting", SETTINGS)
def test_intervals_contain_the_true_difference_as_often_as_promised_and_documented(setting):
    above, below = misses(setting, RUNS)
    covered, overlooked, _ = documented("coverage")[setting]
    if setting != BROKEN:
        assert stats.binomtest(round(RUNS * above), RUNS, ALPHA, alternative="greater").pvalue > 0.001
        assert stats.binomtest(round(RUNS * below), RUNS, ALPHA, alternative="greater").pvalue > 0.001
        assert covered > 0.945 and overlooked < 0.03
    assert agrees(above, RUNS, overlooked, DOCUMENTED_RUNS)
    assert agrees(1 - above - below, RUNS, covered, DOCUMENTED_RUNS)


def test_the_percentiles_of_resampled_seeds_and_examples_would_not():
    outside = percentile_misses("accuracy, seeds ±10 points", RUNS)
    assert stats.binomtest(round(RUNS * outside), RUNS, 2 * ALPHA, alternative="greater").pvalue < 1e-4
    assert agrees(1 - outside, RUNS, documented("coverage")["accuracy, seeds ±10 points"][2], DOCUMENTED_RUNS)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_simulated_runs_get_the_verdicts_they_should(difference):
    found = verdicts(difference, RUNS)
    wrong = {
        Verdict.BETTER: difference <= 0,
        Verdict.NOT_INFERIOR: difference <= -1,
        Verdict.INFERIOR: difference >= -1,
    }
    mistakes = sum(found[verdict] for verdict, is_wrong in wrong.items() if is_wrong)
    assert stats.binomtest(round(RUNS * mistakes), RUNS, ALPHA, alternative="greater").pvalue > 0.001
    right = {
        -3.0: Verdict.INFERIOR,
        0.0: Verdict.NOT_INFERIOR,
        0.5: Verdict.NOT_INFERIOR,
        2.0: Verdict.BETTER,
    }
    if difference in right:
        assert max(found, key=found.get) is right[difference]
    for verdict, expected in zip(
        found, documented("verdicts")[f"{difference:+g}".replace("-", "−")], strict=True
    ):
        assert agrees(found[verdict], RUNS, expected, DOCUMENTED_RUNS)


# Scores.


def labelled(rng, examples=200):
    labels = rng.integers(0, 2, examples)
    return np.where(rng.random(examples) < 0.2, 1 - labels, labels), labels


SENTENCES = [
    ("the cat sat on the mat today", "the cat sat on the mat"),
    ("A dog, barking: loudly!", "A dog barks loudly, always."),
    ("pe 3 ianuarie 2020", "pe 3 ianuarie 2020"),
    ("", "nothing was said here"),
    ("no", "yes"),
    ("mâine la ora șapte", "mâine, la ora șapte și jumătate"),
]


@pytest.mark.parametrize(
    "chosen", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 5, 5], [3, 4], [2, 2], [4, 4], [3, 3], [1, 4, 4]]
)
def test_bleu_of_any_resample_is_sacrebleus(chosen):
    hypotheses, references = zip(*SENTENCES, strict=True)
    outcomes = bleu(hypotheses, references)
    theirs = BLEU().corpus_score([hypotheses[i] for i in chosen], [[references[i] for i in chosen]])
    assert float(outcomes.score(outcomes.summands[chosen].sum(axis=0))) == pytest.approx(
        theirs.score, abs=1e-9
    )


def test_the_translation_scores_are_the_tables():
    hypotheses, references = zip(*SENTENCES, strict=True)
    for metric, expected in translation.score(hypotheses, references).items():
        assert METRICS[metric](hypotheses, references).value == pytest.approx(expected)


def test_correlations_and_accuracy_of_many_resamples_at_once():
    rng = np.random.default_rng(3)
    predictions, labels = labelled(rng)
    numbers, ratings = rng.standard_normal((2, 200)) * 1e-3 + 1e3
    chosen = rng.integers(200, size=(20, 200))
    for metric, x, y, theirs in (
        ("accuracy", predictions, labels, accuracy_score),
        ("matthews_correlation", predictions, labels, matthews_corrcoef),
        ("pearson", numbers, ratings, lambda y, x: stats.pearsonr(x, y).statistic),
    ):
        outcomes = METRICS[metric](x, y)
        expected = [100 * theirs(y[i], x[i]) for i in chosen]
        np.testing.assert_allclose(outcomes.score(outcomes.summands[chosen].sum(axis=1)), expected, atol=1e-6)
        assert outcomes.value == pytest.approx(100 * theirs(y, x))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
def test_constant_predictions_correlate_with_nothing(constant):
    outcomes = pearson(np.full(50, constant), np.linspace(0, 1, 50))
    assert outcomes.value == 0
    varying_once = pearson([constant, *[constant + 1] * 49], np.linspace(0, 1, 50))
    assert varying_once.score(varying_once.summands[[3] * 50].sum(axis=0)) == 0  # a resample of one example
    assert matthews_correlation(np.ones(50), np.arange(50) % 2).value == 0


def test_a_score_by_groups_is_the_mean_of_the_groups_scores():
    hits, groups = np.array([1, 1, 0, 0, 0, 0, 1, 0]), [*"aa", *"bbbbbb"]
    result = between([TaskRuns("mmlu", {0: mean(hits)}, {0: mean(1 - hits)}, groups)]).average
    assert result.difference == pytest.approx(100 * (((1 + 1 / 6) - (0 + 5 / 6)) / 2))


# Errors and intervals.


def one_seed(rng, examples=400):
    return [rng.random(examples) < chance for chance in (0.8, 0.75)]


def test_one_seeds_interval_is_that_of_a_paired_z_test():
    ours, theirs = one_seed(np.random.default_rng(4))
    result = between([TaskRuns("task", {0: mean(ours)}, {0: mean(theirs)})], resamples=20_000).average
    paired = 100 * (ours.astype(float) - theirs)
    error = paired.std(ddof=1) / 20
    assert result.difference == pytest.approx(paired.mean())
    assert (result.seed_error, result.example_error) == (0, pytest.approx(error, rel=0.02))
    np.testing.assert_allclose(
        [result.low, result.high], stats.norm.interval(0.95, paired.mean(), error), atol=0.03 * error
    )
    assert result.p_value == pytest.approx(stats.norm.sf((paired.mean() + 1) / error), rel=0.1)


def test_the_examples_error_by_groups_is_that_of_stratified_sampling():
    rng = np.random.default_rng(5)
    ours, theirs = one_seed(rng)
    groups = np.repeat(np.arange(40), 10)  # small ones, where a plain bootstrap is 5 % too certain
    result = between(
        [TaskRuns("mmlu", {0: mean(ours)}, {0: mean(theirs)}, list(groups))], resamples=20_000
    ).average
    by_group = (100 * (ours.astype(float) - theirs)).reshape(40, 10)
    assert result.example_error == pytest.approx(
        math.sqrt(by_group.var(axis=1, ddof=1).sum() / 10) / 40, rel=0.02
    )


def test_the_examples_error_of_a_correlation_is_scipys_bootstraps():
    rng = np.random.default_rng(6)
    labels = rng.standard_normal(300)
    ours, theirs = labels + 0.5 * rng.standard_normal((2, 300))
    result = between(
        [TaskRuns("stsb", {0: pearson(ours, labels)}, {0: pearson(theirs, labels)})], resamples=5000
    ).average

    def difference(x, z, y, axis):
        return 100 * (stats.pearsonr(x, y, axis=axis).statistic - stats.pearsonr(z, y, axis=axis).statistic)

    scipys = stats.bootstrap(
        (ours, theirs, labels),
        difference,
        paired=True,
        n_resamples=2000,
        method="basic",
        rng=7,
    )
    assert result.example_error == pytest.approx(scipys.standard_error, rel=0.06)


def test_where_examples_do_not_matter_the_interval_is_that_of_a_t_test_over_seeds():
    differences = np.array([0.1, 0.4, -0.2])  # of a score that every example has alike
    ours = {seed: mean(np.full(50, 0.5 + difference)) for seed, difference in enumerate(differences)}
    theirs = {seed: mean(np.full(50, 0.5)) for seed in range(3)}
    result = between([TaskRuns("task", ours, theirs)], confidence=0.9).average
    bounds = stats.ttest_1samp(100 * differences, popmean=0).confidence_interval(0.9)
    np.testing.assert_allclose([result.low, result.high], bounds, rtol=1e-4)
    for margin in (1.0, 1000.0):
        test = stats.ttest_1samp(100 * differences, popmean=-margin, alternative="greater")
        p_value = between([TaskRuns("task", ours, theirs)], margin=margin).average.p_value
        assert p_value == pytest.approx(test.pvalue, rel=1e-3)
    assert result.seed_error == pytest.approx(stats.sem(100 * differences))


def test_the_interval_is_of_a_t_and_a_normal_variable():
    rng = np.random.default_rng(8)
    result = between([answers(rng, deviation=3.0)[0]]).average
    assert min(result.seed_error, result.example_error) > 0.3
    errors = result.seed_error * rng.standard_t(2, 10**6) + result.example_error * rng.standard_normal(10**6)
    assert result.high - result.difference == pytest.approx(np.quantile(errors, 1 - ALPHA), rel=0.02)
    assert result.p_value == pytest.approx((errors > result.difference + 1).mean(), rel=0.02)


def test_the_p_value_is_below_alpha_exactly_if_the_interval_is_above_the_margin():
    runs = answers(np.random.default_rng(9), deviation=2.0)[0]
    low = between([runs]).average.low
    assert low < 0
    for margin in (-low - 1e-6, -low + 1e-6):
        result = between([runs], margin=margin).average
        assert (result.p_value < result.alpha) == (result.low > -margin) == (margin > -low)
        assert (result.verdict in (Verdict.NOT_INFERIOR, Verdict.BETTER)) == (margin > -low)


def test_seeds_that_agree_by_chance_do_not_narrow_the_interval():
    """Each seed is right once more than the reference, but at different examples."""
    ours = {seed: mean(np.arange(100) != seed) for seed in range(3)}
    theirs = {seed: mean(~np.isin(np.arange(100), [seed, seed + 10])) for seed in range(3)}
    result = between([TaskRuns("task", ours, theirs)]).average
    assert (result.seed_error, result.difference) == (pytest.approx(0, abs=1e-9), pytest.approx(1))
    assert result.example_error == pytest.approx(100 * math.sqrt(0.01 * 0.99 / 100 / 3), rel=0.15)


def test_the_average_has_the_mean_difference_and_the_errors_of_independent_tasks():
    rng = np.random.default_rng(10)
    tasks = [replace(answers(rng, deviation=2.0)[0], task=str(task)) for task in range(4)]
    report = between(tasks)
    by_seed = [
        np.mean([runs.candidate[seed].value - runs.reference[seed].value for runs in tasks])
        for seed in range(3)
    ]
    assert report.average.difference == pytest.approx(np.mean(by_seed))
    assert report.average.difference == pytest.approx(np.mean([one.difference for one in report.tasks]))
    assert report.average.seed_error == pytest.approx(stats.sem(by_seed))
    fixed = [between([TaskRuns(r.task, {0: r.candidate[0]}, {0: r.reference[0]})]).average for r in tasks]
    alone = between([TaskRuns(r.task, {0: r.candidate[0]}, {0: r.reference[0]}) for r in tasks]).average
    assert alone.example_error == pytest.approx(math.hypot(*(one.example_error for one in fixed)) / 4)


def test_repeatable_and_blind_to_other_tasks_and_the_order_of_examples():
    rng = np.random.default_rng(11)
    first, second = (replace(answers(rng)[0], task=task) for task in ("rte", "mrpc"))
    order = rng.permutation(300)
    shuffled = TaskRuns(
        "rte",
        *(
            {seed: replace(run, summands=run.summands[order]) for seed, run in method.items()}
            for method in (first.candidate, first.reference)
        ),
    )
    alone = between([first]).tasks[0]
    assert between([first]).tasks[0] == between([shuffled]).tasks[0] == alone
    assert replace(between([second, first]).tasks[1], p_holm=alone.p_holm) == alone
    assert between([first], seed=1).tasks[0] != alone


# Several tasks.


def test_holm_by_hand():
    # Sorted: 0.005 × 4, 0.01 × 3, 0.03 × 2, and 0.04 × 1 is not less than that.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.7, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holm_is_wrong_about_any_of_eight_tasks_no_more_often_than_promised():
    p_values = np.random.default_rng(12).uniform(size=(4000, 8))
    p_values[:, :3] /= 1e6  # three hypotheses are false
    wrong = sum(min(holm(row)[3:]) < ALPHA for row in p_values)
    assert 0.015 < wrong / 4000 < 0.03


def test_the_report_says_which_tasks_hold_at_once():
    rng = np.random.default_rng(13)
    settings = {"deviation": 0.2, "alike": 0.97, "own": 0.02, "examples": 4000}
    tasks = [
        replace(answers(rng, gain, **settings)[0], task=task) for task, gain in (("rte", 3), ("cola", -5))
    ]
    report = between(tasks)
    assert report.text == "Not inferior on 1 of 2 tasks at once (Holm, one-sided level 0.025): rte"
    assert [one.verdict for one in report.tasks] == [Verdict.BETTER, Verdict.INFERIOR]
    assert report.tasks[0].p_holm == pytest.approx(2 * report.tasks[0].p_value)
    assert "on 0 of 1 tasks at once (Holm, one-sided level 0.025)" in between(tasks[1:]).text


# Words.


def line(difference, low, high, seeds=(0, 1, 2), left_out=(), margin=1.0, reason=""):
    return Comparison(
        "LoRA-FA",
        "LoRA",
        "rte",
        margin,
        0.95,
        seeds,
        left_out,
        difference,
        low,
        high,
        0.1,
        0.1,
        0.1,
        0.1,
        reason,
    )


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (line(0.1, -0.6, 0.8), "+0.1 [−0.6, 0.8], not inferior at margin 1.0"),
        (line(0.04, -0.6, 0.68), "0.0 [−0.6, 0.7], not inferior at margin 1.0"),
        (line(-0.5, -0.8, -0.2), "−0.5 [−0.8, −0.2], not inferior at margin 1.0, but lower"),
        (line(-1.5, -2.1, -0.9), "−1.5 [−2.1, −0.9], inconclusive at margin 1.0, but lower"),
        (line(-1.5, -4, 1), "−1.5 [−4.0, 1.0], inconclusive at margin 1.0"),
        (line(-3, -4, -2), "−3.0 [−4.0, −2.0], inferior at margin 1.0"),
        (line(2, 1, 3), "+2.0 [1.0, 3.0], better"),
        (line(-0.3, -0.98, 0.4), "−0.30 [−0.98, 0.40], not inferior at margin 1.0"),
        (line(0.5, 0.004, 1), "+0.500 [0.004, 1.000], better"),
        (line(0.0, -0.2, 0.2, margin=0.25), "0.0 [−0.2, 0.2], not inferior at margin 0.25"),
        (line(0, -1, 1, seeds=(0, 2), left_out=(1,)),
         "0.0 [−1.0, 1.0], inconclusive at margin 1.0, for seeds 0, 2 alone, without seed 1"),
        (line(0, 0, 0, seeds=(), reason="no seed at all"), "no verdict, no seed at all"),
    ],
)  # fmt: skip
def test_one_line(comparison, text):
    assert comparison.text == f"LoRA-FA − LoRA: {text}"


# What cannot be compared, or not wholly.


def test_only_seeds_of_both_methods_count():
    rng = np.random.default_rng(14)
    full = answers(rng, seeds=4)[0]
    lost = TaskRuns("task", full.candidate, {seed: full.reference[seed] for seed in (3, 1, 0)})
    both = TaskRuns("task", {seed: full.candidate[seed] for seed in (0, 1, 3)}, lost.reference)
    result = between([lost]).tasks[0]
    assert (result.seeds, result.left_out) == ((0, 1, 3), (2,))
    assert result == replace(between([both]).tasks[0], left_out=(2,))
    average = between([replace(full, task="whole"), lost]).average
    assert (average.seeds, average.left_out) == ((0, 1, 3), (2,))


def test_no_seed_in_common_is_no_verdict_of_the_task_nor_of_the_average():
    whole = answers(np.random.default_rng(15))[0]
    lost = TaskRuns("lost", {0: whole.candidate[0]}, {1: whole.reference[1]})
    report = between([replace(whole, task="whole"), lost])
    assert report.tasks[1].text == "LoRA-FA − LoRA: no verdict, no seed has both methods' results"
    assert report.average.verdict is Verdict.NONE
    assert math.isnan(report.average.difference) and report.average.p_value == report.tasks[1].p_holm == 1
    assert between([replace(whole, task="whole"), TaskRuns("none", {}, {})]).average.verdict is Verdict.NONE


def test_runs_that_no_example_tells_apart_prove_nothing():
    same = {seed: mean(np.arange(100) < 90) for seed in range(3)}
    assert between([TaskRuns("task", same, same)]).average.text.endswith(
        "no verdict, no example tells them apart"
    )


def test_what_is_said_of_unequal_runs():
    hits = mean(np.arange(100) < 90)
    for other, problem in (
        (mean(np.arange(99) < 90), "rte: runs of 99 and 100 examples"),
        (bleu(["a"] * 100, ["a"] * 100), "rte: runs are scored by different metrics"),
    ):
        with pytest.raises(OutcomesError, match=problem):
            between([TaskRuns("rte", {0: hits}, {0: other})])
    with pytest.raises(OutcomesError, match="rte: runs of 3 and 100 examples"):
        between([TaskRuns("rte", {0: hits}, {0: hits}, groups=[1, 1, 1])])
    with pytest.raises(OutcomesError, match="rte: group b has one example"):
        between([TaskRuns("rte", {0: hits}, {0: hits}, groups=["a"] * 99 + ["b"])])


def test_what_is_said_of_impossible_outcomes():
    for make in (
        lambda: mean([]),
        lambda: mean([1.0]),
        lambda: mean([0.5, math.nan]),
        lambda: mean([50.0, 70.0]),
        lambda: pearson([1.0, math.inf, 2.0], [1.0, 2.0, 3.0]),
        lambda: matthews_correlation([0, 1, 2], [0, 1, 1]),
    ):
        with pytest.raises(OutcomesError):
            make()


if __name__ == "__main__":
    runs = int(sys.argv[1])
    for name in SETTINGS:
        above, below = misses(name, runs)
        shares = (1 - above - below, above, 1 - percentile_misses(name, runs))
        print(f"| {name} |", " | ".join(f"{100 * share:.1f} %" for share in shares), "|", flush=True)
    for true in DIFFERENCES:
        row = f"{true:+g}".replace("-", "−")
        print(
            f"| {row} |", " | ".join(f"{100 * share:.1f} %" for share in verdicts(true, runs).values()), "|"
        )
