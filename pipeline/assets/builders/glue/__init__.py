"""The recast GLUE tasks as a data set repository: Parquet files in GLUE's schemas, a card, and simple baselines."""

from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline.assets.builders import Ingredients
from pipeline.assets.builders.glue import recast
from pipeline.assets.builders.glue.sentences import Sentence, read
from pipeline.metrics.glue import score

PAIR = ("sentence1", "sentence2")
ENTAILMENT = ["entailment", "not_entailment"]

# Subset -> text columns, label names (None: a number), metric. As in nyu-mll/glue.
SCHEMAS: dict[str, tuple[tuple[str, ...], list[str] | None, str]] = {
    "mrpc": (PAIR, ["not_equivalent", "equivalent"], "accuracy"),
    "cola": (("sentence",), ["unacceptable", "acceptable"], "matthews_correlation"),
    "qnli": (("question", "sentence"), ENTAILMENT, "accuracy"),
    "rte": (PAIR, ENTAILMENT, "accuracy"),
    "sst2": (("sentence",), ["negative", "positive"], "accuracy"),
    "stsb": (PAIR, None, "pearson"),
    "mnli": (("premise", "hypothesis"), ["entailment", "neutral", "contradiction"], "accuracy"),
    "qqp": (("question1", "question2"), ["not_duplicate", "duplicate"], "accuracy"),
}


# Tasks that compare two texts, which bags of words, one for each text, cannot.
COMPARED = ("mrpc", "qqp")


def build(target: Path, ingredients: Ingredients) -> dict[str, Any]:
    """Writes the eight tasks and returns each one's baselines on its validation splits (MNLI: their mean).

    Args:
        target: The repository's folder.
        ingredients: The package with the rated sentences, "vader"; the number of examples of the splits, "train" and
            "validation", where there are as many.
    """
    corpus = read(ingredients.packages["vader"])
    baselines = {}
    for subset in SCHEMAS:
        splits = make_splits(corpus, subset, ingredients.sizes)
        for split, data in splits.items():
            file = target / subset / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            data.to_parquet(file)
        train, *validation = splits.values()
        measured = [measure_baselines(subset, train, split) for split in validation]
        baselines[subset] = {key: fmean(scores[key] for scores in measured) for key in measured[0]}
    (target / "README.md").write_text(_card(baselines))
    return {"baselines": baselines}


def make_splits(corpus: dict[str, list[Sentence]], subset: str, sizes: dict[str, int]) -> dict[str, Dataset]:
    """Recasts one task; its training and validation splits share no sentence."""
    recipes = {"train": (subset, "train"), "validation": (subset, "validation")}
    if subset == "mnli":
        recipes = {
            "train": ("mnli", "train"),
            "validation_matched": ("mnli", "validation"),
            "validation_mismatched": ("mnli_mismatched", "validation"),
        }
    parts = (
        len(recipes) - 1
    )  # validation splits whose mean is reported share the examples that one would have
    shares = {"train": sizes["train"], "validation": sizes["validation"] // parts}
    return {
        split: _dataset(corpus, subset, recipe, side, shares[side])
        for split, (recipe, side) in recipes.items()
    }


def measure_baselines(subset: str, train: Dataset, validation: Dataset) -> dict[str, float]:
    """Scores the majority class (or mean) and a linear model on bags of words; for pairs, one on shared words, too."""
    columns, names, metric = SCHEMAS[subset]
    labels, truth = np.array(train["label"]), np.array(validation["label"])
    if names is None:
        majority, model = np.full(len(truth), labels.mean()), Ridge(alpha=10.0)
    else:
        majority = np.full(len(truth), np.bincount(labels).argmax())
        model = LogisticRegression(max_iter=1000, C=0.3)
    vectorizers = [CountVectorizer(binary=True, ngram_range=(1, 2)).fit(train[column]) for column in columns]

    def bags(data: Dataset) -> csr_matrix:
        return hstack([v.transform(data[column]) for v, column in zip(vectorizers, columns, strict=True)])

    predicted = model.fit(bags(train), labels).predict(bags(validation))
    scores = {"majority": score(metric, majority, truth), "bag_of_words": score(metric, predicted, truth)}
    if subset in COMPARED:
        shared = LogisticRegression(max_iter=1000).fit(overlap(train, columns), labels)
        scores["word_overlap"] = score(metric, shared.predict(overlap(validation, columns)), truth)
    return scores


def overlap(data: Dataset, columns: tuple[str, ...]) -> np.ndarray:
    """Returns the part of each text's words that the other has, and of both's words that both have, rows × 3."""
    rows = []
    for texts in zip(*(data[column] for column in columns), strict=True):
        one, other = ({word.strip(".,!?;:'\"()").lower() for word in text.split()} for text in texts)
        both = len(one & other)
        rows.append([both / len(one), both / len(other), both / len(one | other)])
    return np.array(rows)


def _dataset(corpus: dict[str, list[Sentence]], subset: str, recipe: str, split: str, size: int) -> Dataset:
    columns, names, _ = SCHEMAS[subset]
    side = {genre: [s for s in sentences if s.split == split] for genre, sentences in corpus.items()}
    seed = list(SCHEMAS).index(subset)
    rows: list[dict[str, Any]] = list(getattr(recast, recipe)(side, np.random.default_rng(seed)))[:size]
    label = Value("float32") if names is None else ClassLabel(names=names)
    features = Features(
        {**{column: Value("string") for column in columns}, "label": label, "idx": Value("int32")}
    )
    return Dataset.from_list([{**row, "idx": index} for index, row in enumerate(rows)], features=features)


def _card(baselines: dict[str, dict[str, float]]) -> str:
    lines = ["---", "license: mit", "configs:"]
    for subset in SCHEMAS:
        splits = ["train", "validation"]
        if subset == "mnli":
            splits = ["train", "validation_matched", "validation_mismatched"]
        lines += [f"- config_name: {subset}", "  data_files:"]
        lines += [f"  - split: {split}\n    path: {subset}/{split}-*" for split in splits]
    lines += ["---", "", "# GLUE's tasks, recast from human-rated sentences", ""]
    lines += ["Stand-ins in GLUE's schemas; not GLUE's examples. The recipes are in docs/mini-data.md.", ""]
    names = ("majority", "bag_of_words", "word_overlap")
    lines += ["| task | metric | majority | bag of words | word overlap |", "|---|---|---|---|---|"]
    for subset, scores in baselines.items():
        cells = [f"{scores[name]:.3f}" if name in scores else "–" for name in names]
        lines.append(f"| {subset} | {SCHEMAS[subset][2]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
