"""What a run did with each example, as summands whose totals give its score: what a jackknife leaves out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics import BLEU

from pipeline.errors import PipelineError

Array = NDArray[np.float64]


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
