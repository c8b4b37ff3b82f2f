import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, matthews_corrcoef

from pipeline.metrics.glue import METRICS, score

RNG = np.random.default_rng(0)
CLASSES, LABELS = RNG.integers(0, 2, 50), RNG.integers(0, 2, 50)
NUMBERS, TARGETS = RNG.normal(size=50), RNG.normal(size=50)


def matthews(predictions, labels):
    tp, tn = (np.sum((predictions == c) & (labels == c)) for c in (1, 0))
    fp, fn = np.sum((predictions == 1) & (labels == 0)), np.sum((predictions == 0) & (labels == 1))
    return (tp * tn - fp * fn) / np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))


def test_agree_with_the_formulas():
    assert score("accuracy", CLASSES, LABELS) == np.mean(CLASSES == LABELS)
    assert score("matthews_correlation", CLASSES, LABELS) == pytest.approx(matthews(CLASSES, LABELS))
    assert score("pearson", NUMBERS, TARGETS) == pytest.approx(np.corrcoef(NUMBERS, TARGETS)[0, 1], abs=1e-6)


def test_agree_with_scikit_learn_and_scipy():
    assert score("accuracy", CLASSES, LABELS) == accuracy_score(LABELS, CLASSES)
    assert score("matthews_correlation", CLASSES, LABELS) == matthews_corrcoef(LABELS, CLASSES)
    assert score("pearson", NUMBERS, TARGETS) == pytest.approx(pearsonr(NUMBERS, TARGETS).statistic, abs=1e-6)


def test_constant_predictions_have_no_correlation():
    assert score("pearson", np.ones(50), TARGETS) == 0
    assert score("matthews_correlation", np.ones(50, int), LABELS) == 0


@pytest.mark.parametrize("name", METRICS)
def test_metrics_describe_themselves(name):
    metric = METRICS[name]()
    assert metric.description and "arxiv.org" in metric.citation
