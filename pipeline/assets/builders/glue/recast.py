"""The eight GLUE tasks of the paper, recast from human-rated sentences.

Each function yields rows in the schema of nyu-mll/glue for one split; docs/mini-data.md has the recipes in one
table. SST-2, QNLI, STS-B and MNLI ask about feelings, and the raters' marks answer; RTE asks about the subject, and the
source answers; CoLA, MRPC and QQP ask about form, and are made by editing sentences.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from pipeline.assets.builders.glue.sentences import Sentence

Corpus = dict[str, list[Sentence]]
Row = dict[str, Any]
T = TypeVar("T")

# Short, because every example pays for them.
RTE_HYPOTHESIS = "A film review."
MNLI_HYPOTHESIS = "The writer is happy."
QNLI_QUESTION = "Any feelings?"
STSB_ANCHOR = "I love it!"


def sst2(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """Movie snippets with a clear rating; label: its sign."""
    for s in _shuffled(corpus["movie"], rng):
        if abs(s.rating) >= 0.8:
            yield {"sentence": s.text, "label": int(s.rating > 0)}


def rte(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """Movie snippets and as many other sentences; does the sentence entail that a film is reviewed?"""
    others = _shuffled(corpus["amazon"] + corpus["tweets"] + corpus["nyt"], rng)
    pairs = zip(_shuffled(corpus["movie"], rng), others, strict=False)
    for s in (s for pair in pairs for s in _shuffled(list(pair), rng)):
        yield {"sentence1": s.text, "sentence2": RTE_HYPOTHESIS, "label": int(s.genre != "movie")}


def mnli(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """Reviews and tweets (matched genres): is the writer happy, neither, or the contrary?"""
    return _three_way(corpus["amazon"] + corpus["tweets"], rng)


def mnli_mismatched(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """The same question for genres that are not in the training split: editorials and movie snippets."""
    return _three_way(corpus["nyt"] + corpus["movie"], rng)


def qnli(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """Editorials and tweets: does the sentence express a feeling, which answers the question?"""
    for s in _shuffled(corpus["nyt"] + corpus["tweets"], rng):
        if abs(s.rating) < 0.3 or abs(s.rating) > 1.2:
            yield {"question": QNLI_QUESTION, "sentence": s.text, "label": int(abs(s.rating) < 0.3)}


def stsb(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """How similar a sentence's feeling is to an enthusiastic one: the raters' mean, from 0 to 5."""
    for s in _shuffled(corpus["movie"] + corpus["amazon"] + corpus["tweets"], rng):
        yield {"sentence1": s.text, "sentence2": STSB_ANCHOR, "label": (s.rating + 4) / 8 * 5}


def cola(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """Half of the sentences have a window of six words or more reversed, which makes them unacceptable."""
    for s in _shuffled(corpus["nyt"] + corpus["movie"], rng):
        words = s.text.split()
        if len(words) >= 8:
            acceptable = int(rng.integers(2))
            if not acceptable:
                size = int(rng.integers(6, len(words) + 1))
                start = int(rng.integers(len(words) - size + 1))
                words[start : start + size] = words[start : start + size][::-1]
            yield {"sentence": " ".join(words), "label": acceptable}


def mrpc(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """A sentence against a shortened version of itself that, for half of the pairs, has foreign words, few or many."""
    sentences = [s for s in _shuffled(corpus["nyt"] + corpus["movie"], rng) if 8 <= len(s.text.split()) <= 10]
    for one, other in zip(sentences, sentences[1:] + sentences[:1], strict=True):
        equivalent = int(rng.integers(2))
        words = _keep(one.text.split(), 0.7, rng)
        if not equivalent:
            words = _replace(words, other.text.split(), rng.uniform(0.1, 0.9), rng)
        yield {"sentence1": one.text, "sentence2": " ".join(words), "label": equivalent}


def qqp(corpus: Corpus, rng: np.random.Generator) -> Iterator[Row]:
    """Two shortened versions of one sentence, or of two neighbours in the same document."""
    documents: dict[str, list[Sentence]] = {}
    for s in corpus["amazon"] + corpus["nyt"]:
        if len(s.text.split()) >= 8:
            documents.setdefault(s.genre + s.document, []).append(s)
    pairs = [pair for group in documents.values() for pair in pairwise(group)]
    for one, other in _shuffled(pairs, rng):
        duplicate = int(rng.integers(2))
        texts = [_keep(s.text.split(), 0.6, rng) for s in (one, one if duplicate else other)]
        yield {"question1": " ".join(texts[0]), "question2": " ".join(texts[1]), "label": duplicate}


def _three_way(sentences: list[Sentence], rng: np.random.Generator) -> Iterator[Row]:
    for s in _shuffled(sentences, rng):
        label = 0 if s.rating > 0.8 else 2 if s.rating < -0.8 else 1 if abs(s.rating) < 0.4 else None
        if label is not None:
            yield {"premise": s.text, "hypothesis": MNLI_HYPOTHESIS, "label": label}


def _shuffled(items: list[T], rng: np.random.Generator) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))]


def _keep(words: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Returns a random share of the words, in their order."""
    count = max(3, round(len(words) * share))
    return [words[i] for i in sorted(rng.permutation(len(words))[:count])]


def _replace(words: list[str], source: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Returns the words with a random share of them replaced by words of another sentence."""
    places = rng.permutation(len(words))[: max(1, round(len(words) * share))]
    words = list(words)
    for place, word in zip(places, _shuffled(source, rng), strict=False):
        words[place] = word
    return words
