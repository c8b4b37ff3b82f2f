"""FLAN-like instructions: the examples of the mirror's GLUE and translation pairs through hand-written templates.

The columns are those of the FLAN collection that its authors first linked on the hub (google-research/FLAN, issue 98).
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from pipeline.assets.builders import Ingredients
from pipeline.assets.builders.flan import examples, templates
from pipeline.assets.builders.flan.examples import Row
from pipeline.assets.builders.flan.templates import Question, Template
from pipeline.errors import AssetError

SOURCES = {"glue": "nyu-mll/glue", "wmt16_translate": "wmt/wmt16"}
CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---

# Instructions in the form of FLAN

Examples of the mirror's own nyu-mll/glue and wmt/wmt16 (training splits) through hand-written templates; not FLAN's
examples. The recipe is in docs/mini-data.md.
"""


def build(target: Path, ingredients: Ingredients) -> dict[str, Any]:
    """Writes the training split and returns its size.

    Args:
        target: The repository's folder.
        ingredients: The mirror's GLUE and WMT16; as sizes, the number of examples of each template, "each", where there
            are as many, and the longest question with its answers in characters, "characters", or with Romanian
            "romanian_characters" (a tokenizer made for English needs twice as many tokens for it).

    Raises:
        AssetError: A template has no example that is short enough.
    """
    rng = np.random.default_rng(0)
    sizes = ingredients.sizes
    glue, wmt16 = (ingredients.repositories[name] for name in (examples.GLUE, examples.WMT16))
    pairs = examples.read_pairs(wmt16, "train")
    tasks: list[tuple[str, list[Row], tuple[Template, ...], int]] = [
        (f"glue/{subset}", examples.read_glue(glue, subset, "train"), asked, sizes["characters"])
        for subset, asked in templates.GLUE.items()
    ] + [
        ("wmt16_translate/ro-en", pairs, templates.SENTENCES, sizes["romanian_characters"]),
        ("wmt16_translate/ro-en", examples.phrases(pairs), templates.PHRASES, sizes["romanian_characters"]),
    ]
    rows: list[Row] = []
    for name, given, asked, longest in tasks:
        for template in asked:
            made = list(islice(apply(template, given, longest, rng), sizes["each"]))
            if not made:
                raise AssetError(f"{name}: no example is short enough for {template.text!r}; allow more")
            source = SOURCES[name.split("/")[0]]
            rows += [{**row, "task_source": source, "task_name": name} for row in made]
    file = target / "data" / "train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list([rows[index] for index in rng.permutation(len(rows))]).to_parquet(file)
    (target / "README.md").write_text(CARD)
    return {"examples": len(rows)}


def apply(template: Template, given: list[Row], longest: int, rng: np.random.Generator) -> Iterator[Row]:
    """Yields the questions of at most `longest` characters about the examples, in random order, in FLAN's columns.

    Args:
        template: What to ask.
        given: The examples of one task.
        longest: Characters of the longest question with its answers.
        rng: For the order and the wrong options.
    """
    for index in rng.permutation(len(given)):
        question = template.ask(given[index], given, rng)
        if question and len(question.text) + sum(map(len, (question.answer, *question.wrong))) <= longest:
            yield render(question, rng)


def render(question: Question, rng: np.random.Generator) -> Row:
    """Returns a question in FLAN's columns `inputs`, `targets` and `template_type`."""
    if not question.wrong:
        return {"inputs": question.text, "targets": question.answer, "template_type": "zs_noopt"}
    options = [question.wrong[index] for index in rng.permutation(len(question.wrong))]
    options.insert(int(rng.integers(len(options) + 1)), question.answer)
    lines = [question.text, "OPTIONS:", *(f"- {option}" for option in options)]
    return {"inputs": "\n".join(lines), "targets": question.answer, "template_type": "zs_opt"}
