"""A person's own CSV: what cannot be used is named by file and row, before torch or the tokenizer sees it."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from pipeline.assets import Source
from pipeline.config.compose import compose_run
from pipeline.data import glue
from pipeline.errors import AssetError
from tests.pipeline import tiny

GOOD = ["a lovely film,1", "an awful plot,0", "a fine screen,1"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write_encoder(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def task():
    run, _ = compose_run(["task=sst2"])
    return replace(
        run.task,
        subset=None,
        classification=replace(run.task.classification, text_columns=["text"], num_labels=2),
    )


def load(folder, tokenizer, task, lines, classes=2, header="text,label", bad="train"):
    """Loads splits of which one has these lines."""
    task = replace(task, classification=replace(task.classification, num_labels=classes))
    for split in ("train", "validation"):
        content = lines if split == bad else GOOD
        (folder / f"{split}.csv").write_text("\n".join([header, *content, ""]))
    return glue.load(Source(str(folder), None, "me/reviews"), task, tokenizer, 20, folder / "cache")


@pytest.mark.parametrize(
    ("lines", "classes", "row", "problem"),
    [
        ([*GOOD, "a film,good"], 2, 4, "label 'good' is a word"),
        (["a film,positive", "a plot,negative"], 2, 1, "label 'positive' is a word"),
        ([*GOOD, "a film,-1"], 2, 4, "label -1 is none of the classes"),
        (["a film,1", "a plot,2"], 2, 2, "label 2 is none of the classes.*they seem to count from 1"),
        (["a film,0", "a plot,3"], 3, 2, "label 3 is none of the classes; .* 0 to 2"),
        (["a film,1", "a plot,0.5"], 2, 1, "label .*1.0.* is no whole number"),
        (["a film,1.0", "a plot,0.0"], 2, 1, "label .*1.0.* is no whole number"),
        (["a film,True", "a plot,False"], 2, 1, "label .*True.* is no number"),
        ([*GOOD, "a film,"], 2, 4, "no label"),
        (["a film,1", ",0"], 2, 2, "no text in column text"),
        (["a film,1", '"",0'], 2, 2, "no text in column text"),
        (["a film,1", "NA,0"], 2, 2, "no text in column text.*NA"),
        (["12,1", "13,0"], 2, 1, "12 in column text is no text"),
        (["a film,4.5", "a plot,"], 1, 2, "no label; labels of a regression must be numbers"),
        (["a film,4.5", "a plot,high"], 1, 2, "label 'high' is a word"),
        (["a film,4.5", "a plot,inf"], 1, 2, "label inf is not finite"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, tokenizer, task, lines, classes, row, problem):
    with pytest.raises(AssetError, match=rf"train\.csv, row {row}: {problem}") as caught:
        load(tmp_path, tokenizer, task, lines, classes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["a film,good", "a film,-1", "a film,"])
def test_a_row_of_the_validation_split_is_named(tmp_path, tokenizer, task, line):
    with pytest.raises(AssetError, match=r"validation\.csv, row 4: (no )?label"):
        load(tmp_path, tokenizer, task, [*GOOD, line], bad="validation")


def test_what_can_be_used_is_left_as_it_is(tmp_path, tokenizer, task):
    data = load(tmp_path, tokenizer, task, GOOD)
    assert data.train["labels"][:] == [1, 0, 1] and data.validation_sizes == {"validation": 3}


def test_a_share_of_the_training_examples_takes_the_place_of_the_validation_split(tmp_path, tokenizer, task):
    """Each example is in one of the two, and always in the same."""
    lines = [f"{'a ' * count}film,1" for count in range(1, 11)]
    drawn = [load(tmp_path, tokenizer, replace(task, held_out=0.25), lines) for _ in range(2)]
    for data in drawn:
        lengths = [[len(ids) for ids in part["input_ids"]] for part in (data.train, data.validation)]
        assert sorted(lengths[0] + lengths[1]) == [count + 3 for count in range(1, 11)]
        assert data.validation_sizes == {"held_out": 3} and lengths[1] == sorted(lengths[1])
    assert drawn[0].validation[:] == drawn[1].validation[:]


def test_whole_numbers_of_a_regression_become_floats(tmp_path, tokenizer, task):
    data = load(tmp_path, tokenizer, task, ["a film,4", "a plot,0"], classes=1)
    assert data.train["labels"][:] == [4.0, 0.0]
    assert data.train.features["labels"].dtype == "float32"


def test_one_wrong_text_of_a_pair_is_named(tmp_path, tokenizer, task):
    pair = replace(task, classification=replace(task.classification, text_columns=["one", "two"]))
    with pytest.raises(AssetError, match=r"train\.csv, row 2: no text in column two"):
        load(tmp_path, tokenizer, pair, ["a film,a plot,1", "a film,,0"], header="one,two,label")


def test_where_files_cannot_be_told_the_split_is_named(tmp_path, tokenizer, task):
    (tmp_path / "train-notes.csv").write_text("text,label\na film,1\n")
    with pytest.raises(AssetError, match=r", train, row 2: label -1 is none"):
        load(tmp_path, tokenizer, task, ["a film,-1"])


def test_control_tokens_in_a_text_are_text(tmp_path, tokenizer, task):
    data = load(tmp_path, tokenizer, task, ["a [SEP] film,1", "a film,0"])
    for ids in data.train["input_ids"]:
        assert list(ids).count(tokenizer.sep_token_id) == 1
