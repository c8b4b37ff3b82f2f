"""Sentences that people have translated: the messages of Django's interface, from its gettext catalogues."""

import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import cast

from pipeline.assets.builders.wmt16.pairs import Pair

CATALOGUES = "/locale/ro/LC_MESSAGES/django.po"
SHORTEST, LONGEST = 3, 16  # words
PLACEHOLDER = re.compile(r"%\(\w+\)[sdi]|%[sdi]|{\w*}")
MARKUP = re.compile(r"[<>&\n\\%{}]|https?:")
COMMA_BELOW = str.maketrans("şŞţŢ", "șȘțȚ")


def read(wheel: Path) -> list[Pair]:
    """Returns the translated messages of 3 to 16 words, each once; needs Babel to be importable.

    Left out are messages without a translation or with one that its translator doubts, plural forms, markup other than
    placeholders, and translations that do not have their message's placeholders. Some translators wrote ş and ţ
    with a cedilla, a workaround for old fonts; they become ș and ț.
    """
    found: dict[str, Pair] = {}
    for message in _messages(wheel):
        pair = Pair(" ".join(message[0].split()), " ".join(message[1].split()).translate(COMMA_BELOW))
        if _is_sentence(pair):
            found.setdefault(pair.en, pair)
    return list(found.values())


def _messages(wheel: Path) -> Iterator[tuple[str, str]]:
    from babel.messages.pofile import read_po

    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(CATALOGUES)):
            for message in read_po(BytesIO(archive.read(name)), locale="ro"):
                texts = (message.id, message.string)
                if all(texts) and not message.fuzzy and not message.pluralizable:
                    yield cast(tuple[str, str], texts)  # plural forms alone have several


def _is_sentence(pair: Pair) -> bool:
    placeholders = [sorted(PLACEHOLDER.findall(text)) for text in (pair.en, pair.ro)]
    return (
        all(SHORTEST <= len(text.split()) <= LONGEST for text in (pair.en, pair.ro))
        and not any(MARKUP.search(PLACEHOLDER.sub("", text)) for text in (pair.en, pair.ro))
        and placeholders[0] == placeholders[1]
    )
