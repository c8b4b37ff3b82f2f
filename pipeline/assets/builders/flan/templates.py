"""Templates that turn an example into a question, several for each task, as FLAN does (Longpre et al., 2023).

`Label` asks for an example's label, `Choose` for the one of four examples that fits, `Write` for a text. Answers are in
words, never an option's letter: words are what the benchmark scores (docs/mini-data.md).
"""

from dataclasses import dataclass

import numpy as np

from pipeline.assets.builders.flan.examples import Row

CHOICES = 4


@dataclass(frozen=True)
class Question:
    """A question and its answer; with options to choose from, the wrong ones, too."""

    text: str
    answer: str
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class Label:
    """Asks for an example's label by its name."""

    text: str
    names: tuple[str, ...]
    listed: bool = False  # whether the names are shown

    def ask(self, row: Row, rows: list[Row], rng: np.random.Generator) -> Question:
        """Returns the question about a row."""
        answer = self.names[row["label"]]
        wrong = tuple(name for name in self.names if name != answer) if self.listed else ()
        return Question(self.text.format(**row), answer, wrong)


@dataclass(frozen=True)
class Choose:
    """Asks which of four texts fits; the other three are of other examples with a label in `wrong`."""

    text: str
    column: str
    right: int = 0
    wrong: tuple[int, ...] = (0,)

    def ask(self, row: Row, rows: list[Row], rng: np.random.Generator) -> Question | None:
        """Returns a question whose answer is the row, or nothing when its label is not the one asked for."""
        if row["label"] != self.right:
            return None
        answer = row[self.column]
        others = dict.fromkeys(other[self.column] for other in rows if other["label"] in self.wrong)
        others.pop(answer, None)
        wrong = rng.choice(list(others), CHOICES - 1, replace=False)
        return Question(self.text.format(**row), answer, tuple(map(str, wrong)))


@dataclass(frozen=True)
class Write:
    """Asks for a text of the example."""

    text: str
    column: str

    def ask(self, row: Row, rows: list[Row], rng: np.random.Generator) -> Question:
        """Returns the question about a row."""
        return Question(self.text.format(**row), row[self.column])


Template = Label | Choose | Write

NO_YES, YES_NO = ("no", "yes"), ("yes", "no")
LEVELS = ("very negative", "rather negative", "rather positive", "very positive")

GLUE: dict[str, tuple[Template, ...]] = {
    "sst2": (
        Label("{sentence}\nIs this movie review positive or negative?", ("negative", "positive")),
        Label('Did the critic like the film?\n"{sentence}"', NO_YES, listed=True),
        Label("Review: {sentence}\nWhat is its sentiment?", ("negative", "positive"), listed=True),
        Choose("Which of these reviews praises a film?", "sentence", 1, (0,)),
        Choose("Which review is negative?", "sentence", 0, (1,)),
        Choose("One of these critics enjoyed the film. What did that critic write?", "sentence", 1, (0,)),
    ),
    "stsb": (
        Label("{sentence1}\nHow does the writer find it?", LEVELS, listed=True),
        Label("What is the tone of this text?\n{sentence1}", LEVELS, listed=True),
        Label("How positive is the text?\nText: {sentence1}", LEVELS, listed=True),
        Choose('Which of these is closest in feeling to "{sentence2}"?', "sentence1", 3, (0, 1)),
        Choose("Which sentence is the most enthusiastic?", "sentence1", 3, (0, 1)),
        Choose("Which sentence is the most critical?", "sentence1", 0, (2, 3)),
    ),
    "rte": (
        Label("{sentence1}\nCan we conclude: {sentence2} Yes or no?", YES_NO),
        Label('Somebody wrote: "{sentence1}" Is it about a film?', YES_NO, listed=True),
        Label("Premise: {sentence1}\nConclusion: {sentence2}\nDoes it follow?", YES_NO, listed=True),
        Choose("Which of these is about a film?", "sentence1", 0, (1,)),
        Choose("Which of these is not about a film?", "sentence1", 1, (0,)),
        Choose("Who is a film critic? The one who wrote:", "sentence1", 0, (1,)),
    ),
    "mnli": (
        Label(
            "{premise}\nIs it true that the writer is happy about it? Say yes, no or maybe.",
            ("yes", "maybe", "no"),
        ),
        Label(
            "Text: {premise}\n{hypothesis} True, false or unclear?", ("true", "unclear", "false"), listed=True
        ),
        Label(
            "Premise: {premise}\nHypothesis: {hypothesis}",
            ("entailment", "neutral", "contradiction"),
            listed=True,
        ),
        Choose("Which of these writers is happy?", "premise", 0, (2,)),
        Choose("Which of these writers is unhappy?", "premise", 2, (0,)),
        Choose("Which text brings good news?", "premise", 0, (2,)),
    ),
    "qnli": (
        Label('"{sentence}" {question} Does the text tell? Yes or no?', YES_NO),
        Label("Question: {question}\nText: {sentence}\nDoes the text answer it?", YES_NO, listed=True),
        Label("{sentence}\nDo we learn what the writer feels?", YES_NO, listed=True),
        Choose("Which of these sentences shows what its writer feels?", "sentence", 0, (1,)),
        Choose("Which of these sentences is free of feeling?", "sentence", 1, (0,)),
        Choose("{question} Which sentence can answer this?", "sentence", 0, (1,)),
    ),
    "cola": (
        Label("{sentence}\nAre the words in the right order? Yes or no?", NO_YES),
        Label('Is "{sentence}" good English?', NO_YES, listed=True),
        Label("Judge this sentence: {sentence}", ("unacceptable", "acceptable"), listed=True),
        Choose("Which of these sentences is good English?", "sentence", 1, (0,)),
        Choose("In which sentence are words out of order?", "sentence", 0, (1,)),
        Choose("Only one of these sentences is acceptable. Which?", "sentence", 1, (0,)),
    ),
    "mrpc": (
        Label("{sentence1}\n{sentence2}\nDo these sentences say the same? Yes or no?", NO_YES),
        Label(
            "First: {sentence1}\nSecond: {sentence2}\nHow are they related?",
            ("different", "equivalent"),
            listed=True,
        ),
        Label('Is "{sentence2}" a short form of "{sentence1}"?', NO_YES, listed=True),
        Choose("Which of these is a short form of: {sentence1}", "sentence2", 1, (1,)),
        Choose("{sentence1}\nWhich sentence says the same?", "sentence2", 1, (1,)),
        Choose('Find the full text of "{sentence2}".', "sentence1", 1, (1,)),
    ),
    "qqp": (
        Label("{question1}\n{question2}\nAre these duplicates? Yes or no?", NO_YES),
        Label("1. {question1}\n2. {question2}\nDo both come from one text?", NO_YES, listed=True),
        Label('Compare "{question1}" and "{question2}".', ("not duplicates", "duplicates"), listed=True),
        Choose("Which of these is a duplicate of: {question1}", "question2", 1, (1,)),
        Choose("{question2}\nWhich notes are of the same text?", "question1", 1, (1,)),
        Choose('Which words belong with "{question1}"?', "question2", 1, (1,)),
    ),
}

SENTENCES: tuple[Template, ...] = (
    Write("Translate into Romanian: {en}", "ro"),
    Write('How do you say "{en}" in Romanian?', "ro"),
    Write("English: {en}\nRomanian:", "ro"),
    Write("{ro}\nWhat does this mean in English?", "en"),
    Write("Romanian: {ro}\nEnglish:", "en"),
)

PHRASES: tuple[Template, ...] = (
    Choose("{ro}\nWhich of these is the English for it?", "en"),
    Choose('What does "{ro}" mean?', "en"),
    Choose('Which of these is the Romanian for "{en}"?', "ro"),
    Choose("How do you say this in Romanian?\n{en}", "ro"),
)
