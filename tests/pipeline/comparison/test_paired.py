"""Known answers, and the error rates of simulated runs beside those of the page."""

import math
import re
from dataclasses import replace
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
from pipeline.comparison.paired import TaskRuns, holm
from pipeline.comparison.runs import Run, pair
from pipeline.comparison.verdict import Comparison, Verdict
from pipeline.metrics import translation
from pipeline.results import records
from tests.pipeline.comparison.simulated import (
    ALPHA,
    DIFFERENCES,
    SETTINGS,
    answers,
    between,
    changes,
    misses,
    mistakes,
    percentile_misses,
    verdicts,
)

PAGE = Path(__file__).parents[3] / "docs/statistics.md"
RUNS, DOCUMENTED_RUNS = 40, 500


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
    assert stats.binomtest(round(RUNS * above), RUNS, ALPHA, alternative="greater").pvalue > 0.001
    assert stats.binomtest(round(RUNS * below), RUNS, ALPHA, alternative="greater").pvalue > 0.001
    assert covered > 0.93 and overlooked < 0.045
    assert agrees(above, RUNS, overlooked, DOCUMENTED_RUNS)
    assert agrees(1 - above - below, RUNS, covered, DOCUMENTED_RUNS)


def test_the_percentiles_of_resampled_seeds_and_examples_would_not():
    outside = percentile_misses("accuracy, seeds ±10 points", RUNS)
    assert stats.binomtest(round(RUNS * outside), RUNS, 2 * ALPHA, alternative="greater").pvalue < 0.01
    assert agrees(1 - outside, RUNS, documented("coverage")["accuracy, seeds ±10 points"][2], DOCUMENTED_RUNS)


@pytest.mark.parametrize(
    "setting", ["four tasks with the same sentences", "one seed in three collapses, both methods"]
)
def test_clusters_and_collapsed_seeds_keep_the_promise_that_was_broken_without(setting):
    contained, above, *now = changes(setting, RUNS)
    expected = documented("changes")[setting]
    assert expected[0] < 0.9 < expected[2]
    for share, page in zip((contained, above, *now), expected, strict=True):
        assert agrees(share, RUNS, page, DOCUMENTED_RUNS)


def test_no_claim_is_made_more_often_than_promised_where_it_is_just_false():
    name, runs = "one seed in ten collapses, LoRA-FA alone", 20
    for when, shares in zip(("before", "now"), mistakes(name, runs), strict=True):
        text = PAGE.read_text().split(f"| {name}, {when} |")[1].splitlines()[0]
        expected = [float(cell) / 100 for cell in re.findall(r"([\d.]+) %", text)]
        assert max(expected) < 0.045
        made = shares if when == "now" else [*shares[:3], shares[5]]
        for share, page in zip(made, expected, strict=True):
            assert agrees(share, runs, page, DOCUMENTED_RUNS // 5)


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
        assert agrees(found[verdict], RUNS, expected, DOCUMENTED_RUNS // 5)


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
    scores = translation.score(hypotheses, references)
    for metric in ("bleu", "rouge_l"):
        assert METRICS[metric](hypotheses, references).value == pytest.approx(scores[metric])


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
    result = between([TaskRuns("task", {0: mean(ours)}, {0: mean(theirs)})]).average
    paired = 100 * (ours.astype(float) - theirs)
    error = stats.sem(paired)
    squares = (paired - paired.mean()) ** 2
    df = min(
        2 * 400 / (400 * (squares**2).sum() / squares.sum() ** 2 - 1), 399
    )  # the variance's own uncertainty
    assert result.difference == pytest.approx(paired.mean())
    assert result.low == pytest.approx(paired.mean() - stats.t.isf(ALPHA, df) * error, rel=1e-6)
    assert result.example_error == pytest.approx(error * stats.t.isf(ALPHA, df) / stats.norm.isf(ALPHA))
    assert result.seed_error == 0
    assert result.p_value == pytest.approx(stats.norm.sf((paired.mean() + 1) / result.example_error))


def test_the_examples_error_by_groups_is_that_of_stratified_sampling():
    rng = np.random.default_rng(5)
    ours, theirs = one_seed(rng)
    groups = np.repeat(np.arange(40), 10)  # small ones, where a plain bootstrap is 5 % too certain
    result = between([TaskRuns("mmlu", {0: mean(ours)}, {0: mean(theirs)}, list(groups))]).average
    by_group = (100 * (ours.astype(float) - theirs)).reshape(40, 10)
    stratified = math.sqrt(by_group.var(axis=1, ddof=1).sum() / 10) / 40
    assert stratified < result.example_error < 1.02 * stratified  # and the t's share


def test_the_examples_error_of_a_correlation_is_scipys_bootstraps():
    rng = np.random.default_rng(6)
    labels = rng.standard_normal(300)
    ours, theirs = labels + 0.5 * rng.standard_normal((2, 300))
    result = between([TaskRuns("stsb", {0: pearson(ours, labels)}, {0: pearson(theirs, labels)})]).average

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
    assert 1 < result.example_error / (100 * math.sqrt(0.01 * 0.99 / 100 / 3)) < 1.25  # six examples decide


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
    assert alone.example_error == pytest.approx(
        math.hypot(*(one.example_error for one in fixed)) / 4, rel=0.01
    )


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
    assert between([first]).tasks[0] == alone
    assert between([shuffled]).tasks[0].low == pytest.approx(alone.low)
    assert replace(between([second, first]).tasks[1], p_holm=alone.p_holm) == alone


# Clusters, the gain that is kept, and seeds that collapse.


def test_copies_of_examples_are_no_news_if_they_are_known_as_such():
    ours, theirs = one_seed(np.random.default_rng(16), examples=200)
    names = [f"sentence {n}" for n in range(200)]

    def of(copies, clusters):
        hits = ({0: mean(np.tile(one, copies))} for one in (ours, theirs))
        return between([TaskRuns("task", *hits, clusters=clusters)]).average

    once = of(1, names)
    assert of(3, names * 3).low == pytest.approx(once.low)
    assert of(3, None).example_error == pytest.approx(once.example_error / math.sqrt(3), rel=0.01)
    assert once.independent == () and of(3, None).independent == ("task",)


def test_tasks_of_the_same_sentences_are_one_task():
    ours, theirs = one_seed(np.random.default_rng(17), examples=200)
    names = [f"sentence {n}" for n in range(200)]
    order = np.random.default_rng(18).permutation(200)
    first = TaskRuns("rte", {0: mean(ours)}, {0: mean(theirs)}, clusters=names)
    second = TaskRuns(
        "mnli", {0: mean(ours[order])}, {0: mean(theirs[order])}, clusters=[names[n] for n in order]
    )
    report = between([first, second])
    assert report.average.low == pytest.approx(report.tasks[0].low)
    apart = between([replace(first, clusters=None), replace(second, clusters=None)]).average
    assert apart.example_error == pytest.approx(report.average.example_error / math.sqrt(2), rel=0.01)


def test_what_is_kept_of_the_gain_is_a_t_test_of_one_combination_of_scores():
    """Where examples do not matter; the reference gains 40 points, of which the candidate may lose four."""
    gains = np.array([0.36, 0.38, 0.39])
    ours = {seed: mean(np.full(50, 0.5 + gain)) for seed, gain in enumerate(gains)}
    theirs = {seed: mean(np.full(50, 0.9)) for seed in range(3)}
    runs = TaskRuns("task", ours, theirs, baseline=mean(np.full(50, 0.5)))
    kept = between([runs]).average.retention
    bounds = stats.ttest_1samp(100 * (gains - 0.9 * 0.4), popmean=0).confidence_interval(0.95)
    np.testing.assert_allclose([kept.low, kept.high], bounds, rtol=1e-4)
    assert kept.kept == pytest.approx(gains.mean() / 0.4)
    assert kept.text == "may or may not keep 90% of the gain (seen: 94%)"
    assert "at least 80%" in between([runs], fraction=0.2).average.retention.text
    half = {seed: mean(np.full(50, 0.7 + seed / 1000)) for seed in range(3)}
    assert "less than 90%" in between([replace(runs, candidate=half)]).average.retention.text
    assert between([replace(runs, baseline=mean(np.full(50, 0.95)))]).average.retention is None  # no gain


def test_improvement_is_the_share_of_pairs_that_mann_and_whitney_count():
    ours, theirs = (0.2, 0.5, 0.9), (0.5, 0.1, 0.4)
    methods = ({seed: mean(np.full(50, one)) for seed, one in enumerate(scores)} for scores in (ours, theirs))
    found = between([TaskRuns("task", *methods)]).average.improvement
    assert found == pytest.approx(stats.mannwhitneyu(ours, theirs).statistic / 9)


def test_a_run_that_diverges_counts_as_the_majority_class_and_one_out_of_memory_not_at_all():
    hits = np.arange(100) < 90
    good, majority = mean(hits), mean(np.arange(100) < 60)
    done = Run(records.DONE, good, majority)
    ours = {
        0: done,
        1: Run(records.DIVERGED),
        2: Run(records.OUT_OF_MEMORY),
        3: Run(records.DONE, majority, majority),
    }
    runs = pair("task", ours, dict.fromkeys(range(4), done))
    assert [runs.candidate[seed].value for seed in (0, 1, 3)] == [90, 60, 60] and 2 not in runs.candidate
    assert runs.collapsed == ({1, 3}, set())
    average = between([runs]).average
    assert average.difference == pytest.approx(-20)
    assert average.text.endswith("without seed 2, 2 runs of LoRA-FA collapsed")
    untuned = Run(records.DONE, mean(np.arange(100) < 30))
    assert pair("task", ours, {}, untuned).candidate[1].value == 30
    assert pair("task", {0: Run(records.DIVERGED)}, {}).candidate == {}


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
        reason=reason,
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
    with pytest.raises(OutcomesError, match="rte: group b has one cluster of examples"):
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
