"""The GLUE metrics of the paper's Table 2: accuracy, Matthews and Pearson correlation."""

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, matthews_corrcoef

CITATION = "Wang et al. (2019), GLUE, https://arxiv.org/abs/1804.07461"


class _GlueMetric(evaluate.Metric):
    """One number for predictions against references."""

    dtype = "int64"

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value(self.dtype), "references": Value(self.dtype)})
        return evaluate.MetricInfo(
            description=str(self.__doc__), citation=CITATION, inputs_description="", features=features
        )


class Accuracy(_GlueMetric):
    """Share of predictions that equal the reference, in [0, 1]."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class MatthewsCorrelation(_GlueMetric):
    """Matthews correlation coefficient, in [-1, 1]; 0 for constant predictions."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class Pearson(_GlueMetric):
    """Pearson correlation, in [-1, 1]; 0 for constant predictions, where it has no value."""

    dtype = "float32"

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if np.ptp(predictions) == 0:
            return {"pearson": 0.0}
        return {"pearson": float(pearsonr(predictions, references).statistic)}


METRICS = {"accuracy": Accuracy, "matthews_correlation": MatthewsCorrelation, "pearson": Pearson}


def score(metric: str, predictions: Any, references: Any) -> float:
    """Returns one metric's value for predictions and references of the same length.

    Args:
        metric: A key of `METRICS`.
        predictions: Class ids, or numbers for Pearson.
        references: The labels.
    """
    computed = METRICS[metric](keep_in_memory=True).compute(predictions=predictions, references=references)
    return float(computed[metric])
