import io
import tarfile
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel

from pipeline.assets.builders import Ingredients, glue
from pipeline.assets.builders.glue import recast, sentences
from pipeline.assets.builders.glue.sentences import GENRES, Sentence

CACHED = Path(__file__).parents[4] / ".cache/packages/vaderSentiment-3.3.2/vaderSentiment-3.3.2.tar.gz"
WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
]
WORDS += [f"{word}s" for word in WORDS]  # enough of them that no two drawn texts are the same
SIZES = {"train": 120, "validation": 120}  # MNLI: of both kinds together


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    """A package like vaderSentiment's source distribution, with made-up sentences."""
    rng = np.random.default_rng(0)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for stem in GENRES.values():
            lines = []
            for i in range(400):
                text = f"{stem[:3]} {i} " + " ".join(rng.choice(WORDS, rng.integers(3, 10)))
                lines.append(f"{i // 4}_{i}\t{np.clip(rng.normal(0, 1.2), -4, 4):.3f}\t{text} &amp; more")
            _add(archive, f"hutto_ICWSM_2014/{stem}_GroundTruth.txt", "\n".join(lines).encode())
    path = tmp_path_factory.mktemp("package") / "package.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, f"vaderSentiment-3.3.2/{sentences.ARCHIVE}", inner.getvalue())
    return path


@pytest.fixture(params=["made up", "real"])
def corpus(request, made_up) -> dict[str, list[Sentence]]:
    """The made-up sentences, and the real ones where the mini mirror has been built."""
    if request.param == "real" and not CACHED.is_file():
        pytest.skip("the mini mirror has not been built here")
    return sentences.read(CACHED if request.param == "real" else made_up)


def test_sentences_are_read_once_each_with_rating_and_genre(made_up):
    corpus = sentences.read(made_up)
    assert list(corpus) == list(GENRES)
    texts = [s.text for s in corpus["movie"]]
    assert len(set(texts)) == len(texts) > 300
    assert all(-4 <= s.rating <= 4 and s.genre == "movie" for s in corpus["movie"])
    assert texts[0].endswith("& more")


def test_split_depends_on_the_words_alone():
    assert sentences.split_of("Hello, world!") == sentences.split_of("hello   WORLD")
    splits = Counter(sentences.split_of(f"sentence number {i}") for i in range(2000))
    assert 0.3 < splits["validation"] / 2000 < 0.4


@pytest.mark.parametrize("subset", glue.SCHEMAS)
def test_tasks_have_glue_schemas_and_sensible_classes(corpus, subset):
    columns, names, _ = glue.SCHEMAS[subset]
    splits = glue.make_splits(corpus, subset, SIZES)
    validation = ["validation_matched", "validation_mismatched"] if subset == "mnli" else ["validation"]
    assert list(splits) == ["train", *validation]
    for data in splits.values():
        assert data.column_names == [*columns, "label", "idx"]
        assert len(data) >= 50
        if names is None:
            assert data.features["label"].dtype == "float32"
            assert 0 <= min(data["label"]) < 1.5 and 3.5 < max(data["label"]) <= 5
        else:
            assert data.features["label"] == ClassLabel(names=names)
            assert max(Counter(data["label"]).values()) / len(data) < 0.72
            assert set(data["label"]) == set(range(len(names)))


@pytest.mark.parametrize("subset", glue.SCHEMAS)
def test_training_and_validation_share_no_sentence(corpus, subset):
    splits = glue.make_splits(corpus, subset, {"train": 10_000, "validation": 10_000})
    constant = {recast.RTE_HYPOTHESIS, recast.MNLI_HYPOTHESIS, recast.QNLI_QUESTION, recast.STSB_ANCHOR}
    sides = {}
    for split, data in splits.items():
        columns = glue.SCHEMAS[subset][0]
        sides[split] = {text for column in columns for text in data[column]} - constant
    for split, texts in sides.items():
        assert split == "train" or not texts & sides["train"]


def test_edited_pairs_come_from_one_side_of_the_split(corpus):
    """Words that MRPC and QQP borrow are of sentences of the same split."""
    for subset in ("mrpc", "qqp", "cola"):
        for split, data in glue.make_splits(corpus, subset, SIZES).items():
            known = {
                w for s in chain.from_iterable(corpus.values()) if s.split == split for w in s.text.split()
            }
            for column in glue.SCHEMAS[subset][0]:
                assert {word for text in data[column] for word in text.split()} <= known


def test_the_same_package_gives_the_same_data(made_up):
    one, other = (
        glue.make_splits(sentences.read(made_up), "mrpc", SIZES)["train"].to_list() for _ in range(2)
    )
    assert one == other


def test_the_repository_loads_like_the_hub_s(made_up, tmp_path):
    from datasets import load_dataset

    baselines = glue.build(tmp_path / "glue", Ingredients({"vader": made_up}, sizes=SIZES))["baselines"]
    assert set(baselines) == set(glue.SCHEMAS)
    for subset, scores in baselines.items():
        assert 0 <= scores["majority"] < 0.75, subset
    loaded = load_dataset(str(tmp_path / "glue"), "mnli", cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train", "validation_matched", "validation_mismatched"]


def test_baselines_follow_the_labels():
    from datasets import Dataset

    train = Dataset.from_dict({"sentence": ["good film", "bad film"] * 20, "label": [1, 0] * 20})
    validation = Dataset.from_dict({"sentence": ["good", "bad", "bad"], "label": [1, 0, 0]})
    scores = glue.measure_baselines("sst2", train, validation)
    assert scores == {"majority": pytest.approx(2 / 3), "bag_of_words": 1.0}


def test_word_overlap_sees_what_bags_of_words_cannot():
    """Whether two texts share a word is in neither text alone."""
    from datasets import Dataset

    words = [f"word{i}" for i in range(40)]
    pairs = [(one, other, int(one == other)) for one in words for other in (one, words[words.index(one) - 1])]
    data = Dataset.from_dict(
        dict(zip(("sentence1", "sentence2", "label"), zip(*pairs, strict=True), strict=True))
    )
    scores = glue.measure_baselines("mrpc", data, data)
    assert scores["word_overlap"] == 1.0
    assert set(glue.measure_baselines("rte", data, data)) == {"majority", "bag_of_words"}
    assert glue.overlap(
        Dataset.from_dict({"a": ["One, two three four"], "b": ["two one"]}), ("a", "b")
    ).tolist() == [[0.5, 1.0, 0.5]]


def test_a_window_of_words_is_reversed_in_unacceptable_sentences():
    text = "one two three four five six seven eight nine"
    corpus = {"nyt": [Sentence(text, 0.0, "nyt", "1", "train")] * 60, "movie": []}
    sizes = set()
    for row in recast.cola(corpus, np.random.default_rng(0)):
        words = row["sentence"].split()
        moved = [
            place for place, pair in enumerate(zip(words, text.split(), strict=True)) if pair[0] != pair[1]
        ]
        assert bool(moved) != bool(row["label"])
        if moved:
            start, end = moved[0], moved[-1] + 1
            assert words[start:end] == text.split()[start:end][::-1]
            sizes.add(end - start)
    assert sizes == {6, 7, 8, 9}


def test_rte_asks_for_the_subject(made_up):
    rows = list(recast.rte(sentences.read(made_up), np.random.default_rng(0)))
    assert all((row["label"] == 0) == row["sentence1"].startswith("mov") for row in rows)
    assert sum(row["label"] for row in rows) * 2 == len(rows)
