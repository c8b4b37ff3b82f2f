"""MMLU-like questions: the schema, right answers by looking them up, nothing of theirs in the instructions."""

import builtins
import importlib
import inspect
import re
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, load_dataset

from pipeline.assets.builders import Ingredients, mmlu
from pipeline.assets.builders.alpaca import library
from pipeline.assets.builders.alpaca.relations import rows
from pipeline.errors import AssetError

SIZES = {"test": 24, "validation": 4}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmlu")
    mmlu.build(folder, Ingredients(sizes=SIZES))
    return folder


@pytest.fixture(scope="module")
def questions(repository, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return {name: load_dataset(str(repository), name, cache_dir=str(cache)) for name in mmlu.SUBJECTS}


@pytest.fixture(scope="module")
def asked(questions):
    return [row for splits in questions.values() for split in splits.values() for row in split]


@pytest.fixture(scope="module")
def instructions():
    return list(rows(2000, np.random.default_rng(0)))


def right(row) -> str:
    return row["choices"][row["answer"]]


def wrong(row) -> list[str]:
    return [choice for index, choice in enumerate(row["choices"]) if index != row["answer"]]


def test_the_schema_is_that_of_mmlu(questions):
    for subject, splits in questions.items():
        assert {split: len(data) for split, data in splits.items()} == {**SIZES, "dev": 5}
        for data in splits.values():
            assert data.column_names == ["question", "subject", "choices", "answer"]
            assert data.features["answer"] == ClassLabel(names=["A", "B", "C", "D"])
            assert set(data["subject"]) == {subject}


def test_choices_are_four_and_distinct_and_letters_balanced(questions, asked):
    assert all(len(row["choices"]) == len(set(row["choices"])) == 4 for row in asked)
    for splits in questions.values():
        assert set(Counter(splits["test"]["answer"]).values()) == {6}


def test_no_question_is_in_two_splits(questions):
    for splits in questions.values():
        texts = [text for data in splits.values() for text in data["question"]]
        assert len(texts) == len(set(texts))


def test_all_has_every_subject(repository, questions, tmp_path):
    everything = load_dataset(str(repository), "all", cache_dir=str(tmp_path))
    assert everything["test"].to_list() == [row for splits in questions.values() for row in splits["test"]]


def test_two_builds_are_the_same(repository, tmp_path):
    mmlu.build(tmp_path, Ingredients(sizes=SIZES))
    for path in repository.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(repository)).read_bytes()


def test_modules_have_the_function_and_the_others_do_not(questions):
    for row in questions["python_modules"]["test"]:
        (name,) = re.findall(r"(\w+)\(\)", row["question"])
        assert callable(getattr(importlib.import_module(right(row)), name))
        assert not any(hasattr(importlib.import_module(module), name) for module in wrong(row))


@pytest.mark.parametrize("subject", ["python_functions", "python_unseen_functions"])
def test_functions_are_documented_so(questions, subject):
    for row in questions[subject]["test"]:
        module, sentence = re.fullmatch(r"Look into (\S+) for this: (.*) You find", row["question"]).groups()
        said = {
            name: library.first_sentence(getattr(importlib.import_module(module), name))
            for name in row["choices"]
        }
        assert [name for name in row["choices"] if said[name] == sentence] == [right(row)]


def test_types_have_the_method(questions):
    for row in questions["python_types"]["test"]:
        (name,) = re.findall(r"x\.(\w+)\(\)", row["question"])
        assert callable(getattr(getattr(builtins, right(row)), name))
        assert not any(hasattr(getattr(builtins, kind), name) for kind in wrong(row))


def test_exceptions_are_caught_by_their_class_alone(questions):
    for row in questions["python_base_classes"]["test"]:
        (name,) = re.findall(r"catches (\w+) is", row["question"])
        exception = getattr(builtins, name)
        assert exception.__base__ is getattr(builtins, right(row))
        assert not any(issubclass(exception, getattr(builtins, other)) for other in wrong(row))


def test_parameters_are_accepted(questions):
    for row in questions["python_parameters"]["test"]:
        (full,) = re.findall(r"pass (\S+)\(\)", row["question"])
        owner, _, name = full.rpartition(".")
        accepted = inspect.signature(getattr(importlib.import_module(owner or "builtins"), name)).parameters
        assert right(row) in accepted
        assert not set(wrong(row)) & set(accepted)


def test_no_question_or_set_of_choices_is_in_the_instructions(asked, instructions):
    texts = [f"{row['instruction']}\n{row['input']}" for row in instructions]
    joined = "\n".join(texts)
    wordings = {"imported from", "Look into", "is valid when x", "An except clause", "One can pass"}
    assert not any(wording in joined for wording in wordings)
    assert all(any(wording in row["question"] for wording in wordings) for row in asked)
    assert not any(row["question"] in joined for row in asked)
    listed = {frozenset(re.findall(r"^[A-D]\. (\S+)$", text, re.MULTILINE)) for text in texts} - {frozenset()}
    assert len(listed) > 1000
    assert not listed & {frozenset(row["choices"]) for row in asked}


def test_the_instructions_do_not_speak_of_unseen_functions(questions, instructions):
    words = {word for row in instructions for text in row.values() for word in re.findall(r"\w+", text)}
    sentences = "\n".join(text for row in instructions for text in row.values())
    for split in questions["python_unseen_functions"].values():
        for row in split:
            (sentence,) = re.findall(r"for this: (.*) You find", row["question"])
            assert sentence not in sentences
    seen = {right(row) for row in questions["python_functions"]["test"]}
    assert seen <= words


def test_too_few_questions_are_said():
    with pytest.raises(AssetError, match=r"python_types has \d+ questions, fewer than 1009; ask for fewer"):
        mmlu.make_splits("python_types", {"test": 1000, "validation": 4, "dev": 5})
