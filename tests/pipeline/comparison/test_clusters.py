"""The order of stored predictions, found again from the data and the tokenizer."""

from types import SimpleNamespace

import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.comparison import clusters
from pipeline.results import records

TEXTS = [
    ("a b c d e f", "a b", 1),
    ("e d", "d", 0),
    ("b", "b c a", 0),
    ("c", "e", 1),
    ("f e d c b a", "d", 1),
]


@pytest.fixture
def record(tmp_path):
    """A run on a split of five examples, cut at five tokens; the first and the last have the same words."""
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate("abcdef")}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "rte").mkdir()
    frame = pd.DataFrame(TEXTS, columns=["sentence1", "sentence2", "label"])
    frame.to_parquet(tmp_path / "rte/validation-00000-of-00001.parquet")
    columns = {"text_columns": ["sentence1", "sentence2"]}
    config = {"task": {"subset": "rte", "classification": columns}, "budget": {"max_length": 5}}
    data, model = (records.Material("some/repository", path=str(tmp_path)) for _ in range(2))
    return SimpleNamespace(
        run_info=SimpleNamespace(config=config), meta_info=records.MetaInfo(data=data, model=model)
    )


def predictions(labels):
    return pd.DataFrame({"split": "validation", "prediction": 0, "label": labels})


def test_examples_are_found_from_short_to_long_and_named_by_the_words_of_their_longest_text(record):
    found = clusters.of_sentences(record, predictions([1, 0, 0, 1, 1]))  # of 2, 3, 4, 5 and 5 tokens
    assert found == ["c", "d e", "a b c", "a b c d e f", "a b c d e f"]


def test_other_data_name_no_clusters(record):
    assert clusters.of_sentences(record, predictions([1, 1, 1, 0, 0])) is None
    assert clusters.of_sentences(record, predictions([1, 0, 0])) is None
    record.meta_info.data.path += "/moved"
    assert clusters.of_sentences(record, predictions([1, 0, 0, 1, 1])) is None
