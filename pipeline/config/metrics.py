"""What is known of each metric: its name, its direction, and how its scores are shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of records and tables.

    Attributes:
        label: Its name, with its unit where it has one.
        unit: What a record's number is multiplied by to be in the unit of tables and figures: 100 for fractions.
        greater_is_better: Its direction.
        digits: Decimals in that unit.
    """

    label: str
    unit: float = 1
    greater_is_better: bool = True
    digits: int = 1

    @property
    def best(self) -> Callable[..., Any]:
        """`max` or `min`: what chooses among its scores."""
        return max if self.greater_is_better else min

    @property
    def sign(self) -> int:
        """1, or -1 where less is better: times a score, more is better."""
        return 1 if self.greater_is_better else -1

    def points(self, score: float) -> float:
        """Returns a record's score in the unit of tables and figures: percent, BLEU or nats."""
        return self.unit * score


METRICS = {
    "accuracy": Metric("Accuracy, %", unit=100),
    "matthews_correlation": Metric("Matthews corr., %", unit=100),
    "pearson": Metric("Pearson corr., %", unit=100),
    "mmlu": Metric("5-shot MMLU, %", unit=100),
    "bleu": Metric("BLEU"),
    "bleu_without_diacritics": Metric("BLEU, no diacritics"),
    "rouge_l": Metric("ROUGE-L"),
    "loss": Metric("Validation loss", greater_is_better=False, digits=3),
}
# Of benchmarks, which no run is trained for.
BENCHMARKS = {
    "macro": Metric("Accuracy, mean of subjects, %", unit=100),
    "micro": Metric("Accuracy, mean of questions, %", unit=100),
}


def in_points(scores: Mapping[str, float], metric: str) -> dict[str, float]:
    """Returns a record's scores in the unit of tables and figures.

    Args:
        scores: By name; what is no name of a metric, such as that of a split, is of the task's.
        metric: The task's.
    """
    known = METRICS | BENCHMARKS
    return {name: known.get(name, known[metric]).points(score) for name, score in scores.items()}
