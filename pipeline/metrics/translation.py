"""The translation metrics of the paper's Table 3: BLEU, also without diacritics, and ROUGE-L, in percent."""

import unicodedata
from collections.abc import Sequence

import evaluate
import numpy as np
from datasets import Features, Value
from sacrebleu.metrics import BLEU

from pipeline.metrics.rouge import rouge_l


class _TranslationMetric(evaluate.Metric):
    """One number for generated sentences against one reference each."""

    source: str

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("string"), "references": Value("string")})
        return evaluate.MetricInfo(
            description=str(self.__doc__), citation=self.source, inputs_description="", features=features
        )


class Bleu(_TranslationMetric):
    """BLEU of a corpus by sacrebleu with its defaults, in percent; `bleu_signature` names them."""

    source = "Post (2018), A Call for Clarity in Reporting BLEU Scores, https://aclanthology.org/W18-6319"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {"bleu": BLEU().corpus_score(predictions, [references]).score}


class BleuWithoutDiacritics(_TranslationMetric):
    """BLEU of texts whose letters have lost their marks, as En-Ro is often scored; `bleu_signature` names the rest."""

    source = (
        "Sennrich, Haddow and Birch (2016), Edinburgh Neural Machine Translation Systems for WMT 16, "
        "https://aclanthology.org/W16-2323"
    )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        plain, target = ([without_diacritics(text) for text in texts] for texts in (predictions, references))
        return {"bleu_without_diacritics": BLEU().corpus_score(plain, [target]).score}


def without_diacritics(text: str) -> str:
    """Returns a text with ă, â, î, ș and ț, in either way to write the last two, as a, i, s and t."""
    return "".join(
        letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter)
    )


class RougeL(_TranslationMetric):
    """Mean over the sentences of ROUGE-L's F1 score, in percent; `rouge_l` says of which words.

    Hugging Face's `evaluate` reports the median of bootstrapped means, which differs from the mean by chance alone.
    """

    source = "Lin (2004), ROUGE: A Package for Automatic Evaluation of Summaries, https://aclanthology.org/W04-1013"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scores = [rouge_l(text, [reference]) for text, reference in zip(predictions, references, strict=True)]
        return {"rouge_l": float(np.mean(scores))}


METRICS = {"bleu": Bleu, "bleu_without_diacritics": BleuWithoutDiacritics, "rouge_l": RougeL}


def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns every metric of generated sentences, each against its one reference.

    Args:
        predictions: The generated sentences.
        references: Their references, in the same order.
    """
    scores: dict[str, float] = {}
    for metric in METRICS.values():
        scores |= metric(keep_in_memory=True).compute(predictions=predictions, references=references)
    return scores


def bleu_signature() -> str:
    """Returns sacrebleu's signature, which says how BLEU was computed (references, case, tokenizer, version)."""
    return str(BLEU(references=[[""]]).get_signature())
