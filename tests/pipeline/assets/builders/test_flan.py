"""FLAN-like instructions: every question has one right answer, in words; only training splits are used."""

import hashlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipeline.assets import Source
from pipeline.assets.builders import Ingredients, flan
from pipeline.assets.builders.flan import examples
from pipeline.assets.builders.flan.templates import GLUE, PHRASES, SENTENCES
from pipeline.assets.builders.glue import SCHEMAS
from pipeline.data.instructions import Instructions, load
from pipeline.errors import AssetError

SIZES = {"each": 8, "characters": 200, "romanian_characters": 200}


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Ingredients:
    """Made-up examples that say their split, their number and their label: "train 7 one of label 1"."""
    root = tmp_path_factory.mktemp("mirror")
    glue, wmt16 = root / "glue", root / "wmt16"
    for subset, (columns, names, _) in SCHEMAS.items():
        for split in ("train", "validation"):
            labels = [i % len(names) if names else round(5 * (i % 8) / 7, 1) for i in range(80)]
            rows = [
                {**{c: f"{split} {i} {c} of label {label}" for c in columns}, "label": label, "idx": i}
                for i, label in enumerate(labels)
            ]
            file = glue / subset / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(file)
    for split in ("train", "validation", "test"):
        pairs = [
            {"en": f"{split} {i} days ago, it rained", "ro": f"{split} {i} zile, ploua"} for i in range(60)
        ]
        pairs += [{"en": "train 1 days ago, it rained", "ro": "a second translation of the same"}]
        pairs += [{"en": f"On May {i}, 2001, it rained", "ro": f"Pe {i} mai 2001, ploua"} for i in range(9)]
        file = wmt16 / "ro-en" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"translation": pairs}).to_parquet(file)
    return Ingredients(repositories={"datasets/nyu-mll/glue": glue, "datasets/wmt/wmt16": wmt16}, sizes=SIZES)


@pytest.fixture(scope="module")
def built(ingredients: Ingredients, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("flan")
    flan.build(target, ingredients)
    return target


@pytest.fixture(scope="module")
def rows(built: Path) -> pd.DataFrame:
    return pd.read_parquet(built / "data" / "train-00000-of-00001.parquet")


def test_the_columns_are_those_of_flan(rows):
    assert set(rows.columns) == {"inputs", "targets", "task_source", "task_name", "template_type"}
    assert set(rows.template_type) == {"zs_opt", "zs_noopt"}
    assert rows.targets.str.len().gt(0).all() and rows.inputs.is_unique


def test_each_task_has_several_templates_some_with_options(rows):
    for subset, templates in GLUE.items():
        of_task = rows[rows.task_name == f"glue/{subset}"]
        assert len(templates) >= 4 and len(of_task) == SIZES["each"] * len(templates)
        assert "zs_opt" in set(of_task.template_type)
    assert len(rows[rows.task_name == "wmt16_translate/ro-en"]) == SIZES["each"] * len(SENTENCES + PHRASES)


def _options(inputs: str) -> list[str]:
    _, _, listed = inputs.partition("\nOPTIONS:\n")
    return [line.removeprefix("- ") for line in listed.split("\n")] if listed else []


def test_a_question_with_options_has_exactly_one_right_one_and_it_stands_anywhere(rows):
    with_options = rows[rows.template_type == "zs_opt"]
    places = Counter()
    for row in with_options.itertuples():
        options = _options(row.inputs)
        assert len(set(options)) == len(options) and row.targets in options
        if len(options) == 4:
            places[options.index(row.targets)] += 1
    assert len(with_options) >= len(rows) / 2
    assert set(places) == set(range(4)) and min(places.values()) > sum(places.values()) / 8


def test_no_answer_is_a_letter(rows):
    assert rows.targets.str.len().min() > 1


@pytest.mark.parametrize(
    "task, asks, right",
    [
        ("glue/sst2", "Which review is negative?", lambda text: text.endswith("label 0")),
        ("glue/cola", "Which of these sentences is good English?", lambda text: text.endswith("label 1")),
        ("glue/rte", "Which of these is about a film?", lambda text: text.endswith("label 0")),
        ("glue/mnli", "Which of these writers is unhappy?", lambda text: text.endswith("label 2")),
        ("glue/qnli", "is free of feeling?", lambda text: text.endswith("label 1")),
    ],
)
def test_only_the_right_option_has_the_label(rows, task, asks, right):
    asked = rows[(rows.task_name == task) & rows.inputs.str.contains(asks, regex=False)]
    assert len(asked) == SIZES["each"]
    for row in asked.itertuples():
        options = _options(row.inputs)
        assert [text for text in options if right(text)] == [row.targets]


@pytest.mark.parametrize(
    "task, templates", [("glue/mrpc", 3), ("glue/qqp", 3), ("wmt16_translate/ro-en", len(PHRASES))]
)
def test_the_right_option_belongs_with_the_text_of_the_question(rows, task, templates):
    """The made-up texts of one example share their number."""
    asked = rows[(rows.task_name == task) & (rows.inputs.map(_options).map(len) == 4)]
    assert len(asked) == templates * SIZES["each"]
    for row in asked.itertuples():
        number = re.search(r"train (\d+) ", row.inputs)[1]
        assert row.targets.split()[1] == number


def test_labels_have_the_names_that_the_template_gives_them(rows):
    words = rows[rows.inputs.str.startswith("First: ")]  # MRPC: 0 different, 1 equivalent
    labels = words.inputs.str.extract(r"label (\d)")[0]
    assert dict(zip(labels, words.targets, strict=True)) == {"0": "different", "1": "equivalent"}
    tone = rows[rows.inputs.str.startswith("What is the tone")]  # STS-B: 0 to 5
    for row in tone.itertuples():
        score = float(re.search(r"label (\S+)", row.inputs)[1])
        sign = "positive" if score >= 2.5 else "negative"
        assert row.targets.endswith(sign)
    assert set(rows[rows.inputs.str.contains("Are the words in the right order")].targets) == {"no", "yes"}


def test_translations_are_those_of_the_pairs(rows):
    into = rows[rows.inputs.str.startswith("Translate into Romanian: ")]
    english = into.inputs.str.removeprefix("Translate into Romanian: ")
    assert len(into) == SIZES["each"]
    assert not into.targets.str.contains("second translation").any()  # its English would have two answers
    made_up = english.str.startswith("train")
    assert (into.targets == english.str.replace("days ago, it rained", "zile, ploua"))[made_up].all()


def test_phrases_are_what_stands_before_a_comma_in_both_languages():
    pairs = [
        {"en": "In 8 years, it will end", "ro": "Peste 8 ani, se va încheia"},
        {"en": "In 8 years, it will begin", "ro": "Peste 8 ani, va începe"},
        {"en": "On May 7, 2001, it ended", "ro": "Pe 7 mai 2001, s-a încheiat"},
        {"en": "It was on May 7, 2001", "ro": "A fost pe 7 mai, cum știi"},
        {"en": "It costs 1,200 euros", "ro": "Costă 1.200 de euro"},
    ]
    assert examples.phrases(pairs) == [{"en": "In 8 years", "ro": "Peste 8 ani", "label": 0}]


def test_no_validation_or_test_example_and_no_long_one_is_used(rows):
    assert rows.inputs.str.contains("train|May|mai").all()
    assert not rows.inputs.str.contains("validation|test ").any()
    assert rows.inputs.str.len().max() < SIZES["characters"] + 40


def test_sizes_that_leave_a_template_without_examples_are_an_error(ingredients, tmp_path):
    short = replace(ingredients, sizes={**SIZES, "characters": 110})
    with pytest.raises(AssetError, match="glue/sst2: no example is short enough for 'Which of these reviews"):
        flan.build(tmp_path, short)


def test_the_same_again(built, ingredients, tmp_path):
    flan.build(tmp_path, ingredients)
    one, other = (
        hashlib.sha256((folder / "data" / "train-00000-of-00001.parquet").read_bytes()).hexdigest()
        for folder in (built, tmp_path)
    )
    assert one == other


def test_the_loader_reads_it(built, rows, tmp_path):
    source = Source(str(built), None, "SirNeural/flan_v2", version="1")
    data = load(source, Instructions("flan", held_out=16, sample=100, sample_seed=0), tmp_path)
    assert len(data.train) == 100 and len(data.validation) == 16
    answers = dict(zip(rows.inputs, rows.targets, strict=True))
    assert all(answers[row["input"]] == row["output"] for row in data.train)
