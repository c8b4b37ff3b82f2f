"""English-Romanian sentences: what is held out, agreement, diacritics, the schema and Django's catalogues."""

import re
import sys
import zipfile
from datetime import date, time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset

from pipeline.assets import packages
from pipeline.assets.builders import Ingredients, wmt16
from pipeline.assets.builders.wmt16 import catalogue, frames
from pipeline.assets.builders.wmt16.cldr import Cldr
from pipeline.assets.builders.wmt16.pairs import SHARES, Pair, sentences, split_of
from pipeline.config.mirror import read_config

CACHE = Path(__file__).parents[4] / ".cache/packages"
KILOS = "mass-kilogram"

FRAMES = [Pair("<{ago}|{ahead}>, {who} <ate|will eat> {mass}.", "<{ago}|{ahead}>, {who} <a|va> {mass}.")]
WORDS = {"who": [(f"the guest {n}", f"oaspetele {n}") for n in range(40)]}
KINDS = {
    "ago": lambda rng: Pair(f"{(n := rng.integers(500))} days ago", f"acum {n} zile"),
    "ahead": lambda rng: Pair(f"in {(n := rng.integers(500))} days", f"peste {n} zile"),
    "mass": lambda rng: Pair(f"{(n := rng.integers(500))} kilos", f"{n} kile"),
}


def composed(split, size=300, seed=0):
    return list(islice(sentences(FRAMES, WORDS, KINDS, split, np.random.default_rng(seed)), size))


def parts(pair):
    """The values and the skeleton of a made-up sentence, in English."""
    when, mass = re.fullmatch(r"(.+), (?:the guest \d+) \w+(?: eat)? (\d+ kilos)\.", pair.en).groups()
    when = when[0].lower() + when[1:]
    skeleton = pair.en[0].lower() + pair.en[1:]
    skeleton = skeleton.replace(when, "{ahead}" if when.startswith("in") else "{ago}").replace(mass, "{mass}")
    return {when, mass}, skeleton


def test_no_value_and_no_combination_of_words_is_in_two_splits():
    values, skeletons = {}, {}
    for split in SHARES:
        found = [parts(pair) for pair in composed(split)]
        values[split] = set().union(*(values for values, _ in found))
        skeletons[split] = {skeleton for _, skeleton in found}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert values[one].isdisjoint(values[other])
        assert skeletons[one].isdisjoint(skeletons[other])
    assert all(len(found) > 4 for found in (*values.values(), *skeletons.values()))


def test_both_languages_of_a_sentence_have_the_same_tense_words_and_values():
    for pair in composed("train"):
        assert re.findall(r"\d+", pair.en) == re.findall(r"\d+", pair.ro)
        assert ("will eat" in pair.en) == ("va" in pair.ro.split()) == pair.ro.startswith("Peste")
    assert len({pair.en for pair in composed("train")}) == 300


def test_sentences_follow_the_seed():
    assert composed("test") == composed("test")
    assert composed("test") != composed("test", seed=1)
    assert composed("test", 100) == composed("test")[:100]


def test_splits_have_their_shares():
    found = [split_of(f"value {number}") for number in range(4000)]
    for split, share in SHARES.items():
        assert found.count(split) / 4000 == pytest.approx(share, abs=0.03)


def test_every_frame_has_the_same_slots_and_tenses_in_both_languages():
    for frame in frames.FRAMES:
        slots = [sorted(re.findall(r"{(\w+)}", text)) for text in (frame.en, frame.ro)]
        assert slots[0] == slots[1], frame
        assert "<" in frame.en and "<" in frame.ro, frame


def test_hand_written_romanian_has_the_comma_below():
    texts = [frame.ro for frame in frames.FRAMES] + [ro for words in frames.WORDS.values() for _, ro in words]
    assert not re.search("[şţŞŢ]", "".join(texts))
    assert {"ș", "ț"} <= set("".join(texts))


def test_a_package_is_importable_only_for_a_while(tmp_path):
    wheel = tmp_path / "tiny.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("made_up_package/__init__.py", "")
        archive.writestr("made_up_package/part.py", "VALUE = 3")
    path = list(sys.path)
    with packages.imported(wheel, "made_up_package"):
        from made_up_package import part

        assert part.VALUE == 3
    assert sys.path == path
    assert not [name for name in sys.modules if name.startswith("made_up_package")]


def test_an_installed_package_of_the_same_name_comes_back(tmp_path):
    import colorsys as installed

    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("colorsys/__init__.py", "OTHER = True")
    with packages.imported(other, "colorsys"):
        import colorsys

        assert colorsys.OTHER
    assert sys.modules["colorsys"] is installed


@pytest.fixture(scope="module")
def pinned():
    """The pinned wheels, where a build of the mirror has left them: tests download nothing."""
    pins = read_config("mini").packages
    files = {name: CACHE / f"{pins[name].name}-{pins[name].version}" for name in ("babel", "django")}
    missing = [folder.name for folder in files.values() if not any(folder.glob("*.whl"))]
    if missing:
        pytest.skip(
            f"not in .cache/packages: {', '.join(missing)}; `snakemake --cores 1 mirror` fetches them"
        )
    return {name: packages.fetch(pins[name], CACHE) for name in files}


@pytest.fixture(scope="module")
def cldr(pinned):
    with packages.imported(pinned["babel"], "babel"):
        yield Cldr()


@pytest.mark.parametrize(
    ("count", "romanian"),
    [
        (1, "1 kilogram"),
        (2, "2 kilograme"),
        (19, "19 kilograme"),
        (20, "20 de kilograme"),
        (100, "100 de kilograme"),
        (101, "101 kilograme"),
        (119, "119 kilograme"),
        (120, "120 de kilograme"),
        (1250, "1.250 de kilograme"),
        (3.5, "3,5 kilograme"),
    ],
)
def test_numbers_agree_with_their_units(cldr, count, romanian):
    assert cldr.quantity(count, KILOS).ro == romanian


def test_values_are_written_as_each_language_does(cldr):
    day = date(2024, 3, 15)
    assert cldr.day(day) == Pair("March 15, 2024", "15 martie 2024")
    assert cldr.day(day, "full") == Pair("Friday, March 15, 2024", "vineri, 15 martie 2024")
    assert cldr.month(day) == Pair("March 2024", "martie 2024")
    assert cldr.dates(day, date(2024, 3, 20)) == Pair("Mar 15 – 20, 2024", "15–20 mar. 2024")
    assert cldr.clock(time(14, 5)) == Pair("2:05 PM", "14:05")
    assert cldr.hours(time(9), time(17, 30)) == Pair("9:00 AM – 5:30 PM", "09:00–17:30")
    assert cldr.relative(3, "duration-month") == Pair("in 3 months", "peste 3 luni")
    assert cldr.relative(-20, "duration-year") == Pair("20 years ago", "acum 20 de ani")
    assert cldr.money(20, "EUR") == Pair("20 euros", "20 de euro")
    assert cldr.money(1, "RON") == Pair("1 Romanian leu", "1 leu românesc")
    names = cldr.listed(lambda locale: locale.territories, ["CL", "FR", "IT"])
    assert names == Pair("Chile, France, and Italy", "Chile, Franța și Italia")


def test_the_repository_has_the_schema_of_wmt16(pinned, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        ingredients = Ingredients(pinned, sizes={"train": 200, "validation": 20, "test": 60})
        facts = wmt16.build(tmp_path / folder, ingredients)
    one, two = (
        load_dataset(str(tmp_path / folder), "ro-en", cache_dir=str(tmp_path / "cache"))
        for folder in ("one", "two")
    )
    assert {split: len(data) for split, data in one.items()} == facts["pairs"]
    assert facts["pairs"]["test_django"] > 150
    for split, data in one.items():
        assert data.features["translation"].languages == ["ro", "en"]
        assert data["translation"] == two[split]["translation"]
        text = "".join(row["ro"] for row in data["translation"])
        assert not re.search("[şţŞŢ]", text)
        assert {"ș", "ț", "ă", "î"} <= set(text)
    assert all(" de de " not in row["ro"] for row in one["train"]["translation"])


CATALOGUE = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=3; plural=(n==1?0:(((n%100>19)||((n%100==0)&&(n!=0)))?2:1));\\n"

msgid "The field %(name)s is needed."
msgstr "Câmpul %(name)s este necesar şi în ţară."

msgid "The field %(name)s is too long."
msgstr "Câmpul este prea lung."

msgid "Not <em>a</em> sentence"
msgstr "Nu <em>este</em> propoziție"

#, fuzzy
msgid "This is in doubt."
msgstr "Aceasta este îndoielnică."

msgid "Nobody has translated this."
msgstr ""

msgid "%(count)s of these items"
msgid_plural "%(count)s of these items"
msgstr[0] "un element de aici"
msgstr[1] "mai multe elemente"
msgstr[2] "multe de elemente"

msgid "Too short"
msgstr "Prea scurt"
"""


def test_the_catalogue_is_filtered(pinned, cldr, tmp_path):
    with zipfile.ZipFile(tmp_path / "tiny.whl", "w") as archive:
        archive.writestr("django/conf/locale/ro/LC_MESSAGES/django.po", CATALOGUE)
        archive.writestr("django/conf/locale/fr/LC_MESSAGES/django.po", CATALOGUE.replace("name", "nom"))
    assert catalogue.read(tmp_path / "tiny.whl") == [
        Pair("The field %(name)s is needed.", "Câmpul %(name)s este necesar și în țară.")
    ]
