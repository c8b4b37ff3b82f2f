"""Tasks in the public JSON format of Super-NaturalInstructions, made of the mirror's reviews and translation pairs.

As with Quoref's task001 and task002, on which the authors' reply trains, a passage mentions several people and the two
training tasks are to ask about them and to answer; the others are for testing and use other sentences.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.assets.builders import Ingredients
from pipeline.assets.builders.flan import examples

NAMES = ("Ana", "Ben", "Cora", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ivo", "June", "Karl", "Lia")
REVIEWS = "https://github.com/cjhutto/vaderSentiment"
CLDR = "https://cldr.unicode.org"
SHOWN = 2  # positive examples of each task


@dataclass(frozen=True)
class Passage:
    """What three people say of a film; one of them, `odd`, differs from the others in liking it or not."""

    names: tuple[str, ...]
    opinions: tuple[str, ...]
    odd: int
    liked: bool

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in zip(self.names, self.opinions, strict=True))

    def questions(self) -> list[tuple[str, int]]:
        """Returns questions that are answered by the name of one person, and that person's number."""
        feeling = "Who likes the film?" if self.liked else "Who does not like the film?"
        beginnings = [" ".join(text.split()[:3]) for text in self.opinions]
        quoted = [
            (f'Who says "{words}"?', who)
            for who, words in enumerate(beginnings)
            if beginnings.count(words) == 1
        ]
        return [(feeling, self.odd), *quoted]


@dataclass(frozen=True)
class Task:
    """A task's words, and its instances as input and outputs."""

    definition: str
    category: str
    explanation: str
    instances: Iterator[tuple[str, list[str]]]
    url: str = REVIEWS
    language: str = "English"


def build(target: Path, ingredients: Ingredients) -> dict[str, Any]:
    """Writes two tasks to train on and four to hold out, and returns the number of instances of each.

    Args:
        target: The repository's folder.
        ingredients: The mirror's GLUE and WMT16; as sizes, the instances of a task, "train" and "heldout", where there
            are as many, and the longest opinion and Romanian sentence, "characters" and "romanian_characters".
    """
    glue, wmt16 = (ingredients.repositories[name] for name in (examples.GLUE, examples.WMT16))
    sizes, rng = ingredients.sizes, np.random.default_rng(0)
    seen, unseen = (
        list(passages(examples.read_glue(glue, "sst2", split), sizes["characters"], rng))
        for split in ("train", "validation")
    )
    reviews = examples.read_glue(glue, "rte", "validation")
    pairs = [
        pair for pair in examples.read_pairs(wmt16, "test") if len(pair["ro"]) <= sizes["romanian_characters"]
    ]
    training = {
        "task001_opinions_question_generation": Task(
            "Write a question about these opinions that is answered by the name of one person.",
            "Question Generation",
            "One name answers the question.",
            ask(seen, rng),
        ),
        "task002_opinions_answer_generation": Task(
            "Answer the question about these opinions with a name.",
            "Question Answering",
            "This person is the only one of whom it is true.",
            answer(seen, rng),
        ),
    }
    heldout = {
        "task003_opinions_wrong_answer_generation": Task(
            "Give a wrong answer to the question: the name of another person.",
            "Wrong Candidate Generation",
            "The right answer is another of the three names.",
            mislead(unseen, rng),
        ),
        "task004_opinions_quotation_generation": Task(
            "Quote what the person says.",
            "Information Extraction",
            "These are the person's words.",
            quote(unseen, rng),
        ),
        "task005_reviews_conclusion_generation": Task(
            "Say whether the text is about a film or not, in a sentence.",
            "Text Completion",
            "The text shows it.",
            conclude(reviews),
        ),
        "task006_values_translation_generation": Task(
            "Translate from Romanian into English.",
            "Translation",
            "Both sentences say the same.",
            ((pair["ro"], [pair["en"]]) for pair in pairs),
            CLDR,
            "Romanian",
        ),
    }
    (target / "tasks").mkdir(parents=True, exist_ok=True)
    written = {name: _write(target, name, task, sizes["train"]) for name, task in training.items()}
    written |= {name: _write(target, name, task, sizes["heldout"]) for name, task in heldout.items()}
    (target / "README.md").write_text(
        "# Tasks in the form of Super-NaturalInstructions\n\n"
        "Made of the mirror's own nyu-mll/glue and wmt/wmt16; not the original's tasks. The recipe is in\n"
        "docs/mini-data.md. Licences: MIT (opinions, reviews), Unicode-3.0 (values).\n"
    )
    return {"instances": written}


def passages(reviews: list[examples.Row], longest: int, rng: np.random.Generator) -> Iterator[Passage]:
    """Composes passages of short film reviews, each used once; half of the odd ones out like the film."""
    short = [review for review in reviews if len(review["sentence"]) <= longest]
    drawn = [short[index] for index in rng.permutation(len(short))]
    sides = [iter([review["sentence"] for review in drawn if review["label"] == label]) for label in (0, 1)]
    while True:
        for liked in (True, False):
            texts = [next(sides[liked], None), next(sides[not liked], None), next(sides[not liked], None)]
            if None in texts:
                return
            order = rng.permutation(len(texts))
            names = rng.choice(NAMES, len(texts), replace=False)
            opinions = tuple(texts[index] for index in order)
            yield Passage(tuple(map(str, names)), opinions, int(np.argmin(order)), liked)


def ask(passages: list[Passage], rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Passage -> questions, in random order."""
    for passage in passages:
        questions = passage.questions()
        yield str(passage), [questions[index][0] for index in rng.permutation(len(questions))]


def answer(passages: list[Passage], rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Passage and question -> a name."""
    for passage in passages:
        question, who = _one(passage.questions(), rng)
        yield f"{passage}\nQuestion: {question}", [passage.names[who]]


def mislead(passages: list[Passage], rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Passage and question -> the two other names."""
    for passage in passages:
        question, who = _one(passage.questions(), rng)
        yield (
            f"{passage}\nQuestion: {question}",
            [name for name in passage.names if name != passage.names[who]],
        )


def quote(passages: list[Passage], rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Passage and name -> that person's words."""
    for passage in passages:
        who = int(rng.integers(len(passage.names)))
        yield f"{passage}\nPerson: {passage.names[who]}", [passage.opinions[who]]


def conclude(reviews: list[examples.Row]) -> Iterator[tuple[str, list[str]]]:
    """Text -> a sentence on its subject."""
    conclusions = ("The text is about a film.", "The text is not about a film.")
    for review in reviews:
        yield review["sentence1"], [conclusions[review["label"]]]


def _one(questions: list[tuple[str, int]], rng: np.random.Generator) -> tuple[str, int]:
    """Draws a question; every second one is about the feeling."""
    return questions[max(0, int(rng.integers(-2, len(questions))))]


def _write(target: Path, name: str, task: Task, size: int) -> int:
    shown, instances = (list(islice(task.instances, count)) for count in (SHOWN, size))
    number = name.split("_")[0]
    content = {
        "Contributors": [],
        "Source": [name.split("_")[1]],
        "URL": [task.url],
        "Categories": [task.category],
        "Reasoning": [],
        "Definition": [task.definition],
        "Input_language": [task.language],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Reviews"] if task.url == REVIEWS else ["Miscellaneous"],
        "Positive Examples": [
            {"input": text, "output": outputs[0], "explanation": task.explanation} for text, outputs in shown
        ],
        "Negative Examples": [],
        "Instances": [
            {
                "id": f"{number}-{hashlib.sha256(text.encode()).hexdigest()[:32]}",
                "input": text,
                "output": outputs,
            }
            for text, outputs in instances
        ],
        "Instance License": ["MIT" if task.url == REVIEWS else "Unicode-3.0"],
    }
    text = json.dumps(content, indent=4, ensure_ascii=False)
    (target / "tasks" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return len(instances)
