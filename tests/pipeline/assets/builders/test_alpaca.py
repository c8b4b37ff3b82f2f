"""Alpaca-like instructions are checked against the modules that they speak of."""

import builtins
import importlib
import inspect
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.assets.builders import Ingredients, alpaca
from pipeline.assets.builders.alpaca import library, relations

MULTIPLE_CHOICE = 300


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alpaca")
    about = alpaca.build(folder, Ingredients(sizes={"multiple_choice": MULTIPLE_CHOICE}))
    return folder, about


@pytest.fixture(scope="module")
def rows(built):
    return pq.read_table(built[0] / "data").to_pylist()


def imported(full: str):
    owner, _, name = full.rpartition(".")
    return getattr(importlib.import_module(owner or "builtins"), name)


def test_the_columns_are_alpacas(built, rows):
    assert list(rows[0]) == ["instruction", "input", "output", "text"]
    assert len(rows) == built[1]["examples"] > 2000
    assert all(row["instruction"] and row["output"] for row in rows)
    for row in rows:
        head, response = row["text"].split("### Response:\n")
        assert response == row["output"]
        assert ("paired with an input" in head) == bool(row["input"])
    assert len({(row["instruction"], row["input"], row["output"]) for row in rows}) == len(rows)


def test_two_builds_are_the_same(built, tmp_path):
    folder, about = built
    again = alpaca.build(tmp_path, Ingredients(sizes={"multiple_choice": MULTIPLE_CHOICE}))
    assert again == about
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) == 2
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()


def test_what_other_packages_replace_in_the_library_is_not_seen(monkeypatch):
    before = library.read()
    monkeypatch.setattr(inspect, "getfile", lambda value: "")  # as torch does
    monkeypatch.delattr("textwrap.dedent")
    library.read.cache_clear()
    assert library.read() == before
    assert {"inspect.getfile", "textwrap.dedent"} <= {function.full for function in before.functions}


def test_a_purpose_is_the_beginning_of_the_docstring(rows):
    pattern = re.compile(r"What does the Python function (\S+) do\?")
    asked = [(found[1], row["output"]) for row in rows if (found := pattern.fullmatch(row["instruction"]))]
    assert len(asked) > 50
    for name, said in asked:
        documented = " ".join(imported(name).__doc__.translate({ord("`"): None, ord("*"): None}).split())
        assert said.removesuffix(".") in documented, name


def test_an_import_that_is_completed_works(rows):
    statements = [row["output"] for row in rows if row["input"].startswith("from ... import ")]
    assert len(statements) > 50
    for statement in statements:
        exec(statement, {})


def test_parameters_are_those_of_the_signature(rows):
    listed = re.compile(r"List the parameters of (\S+)\.")
    asked = [(found[1], row["output"]) for row in rows if (found := listed.fullmatch(row["instruction"]))]
    assert len(asked) > 50
    for name, parameters in asked:
        assert parameters.split(", ") == list(inspect.signature(imported(name)).parameters)


def test_what_is_derived_and_what_has_a_method(rows):
    derived = re.compile(r"From which class is (\w+) derived\?")
    of_type = re.compile(r"Which built-in type has the method (\w+)\?")
    checked = {"derived": 0, "type": 0}
    for row in rows:
        if found := derived.fullmatch(row["instruction"]):
            assert imported(found[1]).__base__ is imported(row["output"])
            checked["derived"] += 1
        elif found := of_type.fullmatch(row["instruction"]):
            assert row["output"] in [
                kind for kind in library.TYPES if hasattr(getattr(builtins, kind), found[1])
            ]
            checked["type"] += 1
    assert min(checked.values()) > 30


def test_letters_point_at_what_was_asked_for(rows):
    by_sentence: dict[str, set[str]] = {}
    for function in library.read().functions:
        by_sentence.setdefault(function.summary, set()).add(function.name)
    letters = dict.fromkeys("ABCD", 0)
    for row in rows:
        prompt = f"{row['instruction']}\n{row['input']}"
        options = dict(re.findall(r"^([A-D])\. (\w+)$", prompt, re.MULTILINE))
        if options:
            assert len(options) == len(set(options.values())) == 4
            fitting = {name for said, names in by_sentence.items() if said in prompt for name in names}
            assert [letter for letter, name in options.items() if name in fitting] == [row["output"]]
            letters[row["output"]] += 1
    assert sum(letters.values()) > 0.95 * MULTIPLE_CHOICE  # a few may be drawn twice
    assert max(letters.values()) - min(letters.values()) <= 5


def test_no_instruction_is_about_what_is_held_out():
    known = [*library.read().functions, *library.read().methods]
    held_out = {function.name for function in known if function.held_out}
    assert 0.1 < len(held_out) / len({function.name for function in known}) < 0.3
    facts = list(relations.plain_facts())
    assert not held_out & {fact["name"] for relation, fact in facts if relation not in ("exception", "base")}
    shown = {
        line[3:]
        for _, fact in relations.choice_facts(MULTIPLE_CHOICE, np.random.default_rng(0))
        for line in fact["listed"].splitlines()
    }
    assert shown and not held_out & shown


def test_sentences_are_short_and_whole():
    for function in [*library.read().functions, *library.read().methods]:
        assert function.summary.endswith(".") and "\n" not in function.summary
        assert len(function.summary) <= library.LONGEST + 1
        assert "->" not in function.summary and " at 0x" not in function.summary


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return `x` twice.  And more.", "Return x twice."),
        ("Two lines\n    of one sentence.\n\nMore.", "Two lines of one sentence."),
        ("f(x) -> the value of x", None),
        ("Return e.g. nothing at all.", None),
        ("Parse a file of version 1.5 there. Then stop.", "Parse a file of version 1.5 there."),
        ("Short.", None),
        (None, None),
    ],
)
def test_the_first_sentence_of_a_docstring(docstring, sentence):
    def function() -> None:
        pass

    function.__doc__ = docstring
    assert library.first_sentence(function) == sentence
