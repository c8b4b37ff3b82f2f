"""Tasks in the form of Super-NaturalInstructions: the public format, right answers, held-out tasks on other text."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline.assets import Source
from pipeline.assets.builders import Ingredients, natural_instructions
from pipeline.data.instructions import Instructions, load

SIZES = {"train": 30, "heldout": 6, "characters": 45, "romanian_characters": 40}
TRAIN = ["task001_opinions_question_generation", "task002_opinions_answer_generation"]
HELD_OUT = [
    "task003_opinions_wrong_answer_generation",
    "task004_opinions_quotation_generation",
    "task005_reviews_conclusion_generation",
    "task006_values_translation_generation",
]


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory: pytest.TempPathFactory) -> Ingredients:
    """Made-up reviews that say their split, number and label, and pairs of sentences."""
    root = tmp_path_factory.mktemp("mirror")
    for split in ("train", "validation"):
        reviews = [{"sentence": f"{split} {i} film of label {i % 2}", "label": i % 2} for i in range(120)]
        reviews[0]["sentence"] = "train, a film with far too much to say of it for one opinion in a passage"
        products = [{"sentence1": f"{split} {i} product of label {i % 2}", "label": i % 2} for i in range(40)]
        pairs = [
            {"translation": {"en": f"{split} {i} days", "ro": f"{split} {i} zile și nopți"}}
            for i in range(40)
        ]
        pairs[0]["translation"]["ro"] = (
            "validation, or train, in words that are much longer than forty characters"
        )
        side = {"train": "train", "validation": "test"}[split]  # of the pairs, the test split is held out
        files = {f"glue/sst2/{split}": reviews, f"glue/rte/{split}": products, f"wmt16/ro-en/{side}": pairs}
        for name, rows in files.items():
            file = root / f"{name}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(file)
    folders = {"datasets/nyu-mll/glue": root / "glue", "datasets/wmt/wmt16": root / "wmt16"}
    return Ingredients(repositories=folders, sizes=SIZES)


@pytest.fixture(scope="module")
def built(ingredients: Ingredients, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sni")
    natural_instructions.build(target, ingredients)
    return target


def _content(built: Path, task: str) -> dict:
    return json.loads((built / "tasks" / f"{task}.json").read_text(encoding="utf-8"))


def _opinions(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z][a-z]+): (\w+ \d+ film .*)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("task", TRAIN + HELD_OUT)
def test_files_are_in_the_public_format(built, task):
    content = _content(built, task)
    for key in ("Contributors", "Source", "URL", "Categories", "Reasoning", "Domains", "Instance License"):
        assert isinstance(content[key], list)
    assert content["Input_language"] and content["Output_language"] == content["Instruction_language"] == [
        "English"
    ]
    assert len(content["Definition"]) == 1 and content["Negative Examples"] == []
    assert all(set(example) == {"input", "output", "explanation"} for example in content["Positive Examples"])
    instances = content["Instances"]
    assert len(instances) == (SIZES["train"] if task in TRAIN else SIZES["heldout"])
    assert len({instance["id"] for instance in instances}) == len(instances)
    assert all(re.fullmatch(rf"{task[:7]}-[0-9a-f]{{32}}", instance["id"]) for instance in instances)
    shown = {example["input"] for example in content["Positive Examples"]}
    assert len(shown) == 2 and not shown & {instance["input"] for instance in instances}


def _answer(text: str, question: str) -> str:
    """Answers a question about a passage of made-up opinions, which say whether they like the film."""
    opinions = _opinions(text)
    if quoted := re.fullmatch(r'Who says "(.*)"\?', question):
        (name,) = [name for name, opinion in opinions.items() if opinion.startswith(quoted[1])]
        return name
    label = {"Who likes the film?": "1", "Who does not like the film?": "0"}[question]
    (name,) = [name for name, opinion in opinions.items() if opinion.endswith(label)]
    return name


def test_every_generated_question_has_one_answer(built):
    for instance in _content(built, TRAIN[0])["Instances"]:
        assert len(_opinions(instance["input"])) == 3
        for question in instance["output"]:
            assert _answer(instance["input"], question)


def test_answers_are_right_and_wrong_ones_wrong(built):
    kinds = set()
    for task, wrong in ((TRAIN[1], False), (HELD_OUT[0], True)):
        for instance in _content(built, task)["Instances"]:
            passage, question = instance["input"].split("\nQuestion: ")
            kinds.add(question.split()[1])
            names = {_answer(passage, question)}
            assert set(instance["output"]) == (set(_opinions(passage)) - names if wrong else names)
    assert kinds == {"says", "likes", "does"}


def test_quotations_conclusions_and_translations(built):
    for instance in _content(built, HELD_OUT[1])["Instances"]:
        passage, name = instance["input"].split("\nPerson: ")
        assert instance["output"] == [_opinions(passage)[name]]
    for instance in _content(built, HELD_OUT[2])["Instances"]:
        film = instance["input"].endswith("0")  # RTE: 0 is entailment
        assert instance["output"] == [f"The text is {'' if film else 'not '}about a film."]
    for instance in _content(built, HELD_OUT[3])["Instances"]:
        assert instance["output"] == [instance["input"].replace("zile și nopți", "days")]


def test_held_out_tasks_use_text_that_is_not_trained_on(built):
    for task in TRAIN:
        text = json.dumps(_content(built, task)["Instances"])
        assert "train" in text and "validation" not in text and "far too much" not in text
    for task in HELD_OUT:
        text = json.dumps(_content(built, task)["Instances"])
        assert "validation" in text and "train" not in text and "much longer" not in text


def test_no_opinion_is_in_two_passages(built):
    passages = [instance["input"] for instance in _content(built, TRAIN[0])["Instances"]]
    opinions = [opinion for passage in passages for opinion in _opinions(passage).values()]
    assert len(set(opinions)) == len(opinions) == 3 * SIZES["train"]


def test_the_same_again(built, ingredients, tmp_path):
    facts = natural_instructions.build(tmp_path, ingredients)
    assert facts["instances"] == dict.fromkeys(TRAIN, 30) | dict.fromkeys(HELD_OUT, 6)
    for task in TRAIN + HELD_OUT:
        file = f"tasks/{task}.json"
        assert (tmp_path / file).read_bytes() == (built / file).read_bytes()


def test_the_loader_reads_it(built, tmp_path):
    source = Source(str(built), None, "Muennighoff/natural-instructions", version="1")
    data = load(source, Instructions("natural-instructions", 10, None, 0, TRAIN, HELD_OUT), tmp_path)
    assert len(data.train) == 50 and len(data.validation) == 10 and len(data.test) == 24
    wrong = data.test.filter(lambda row: row["task"] == HELD_OUT[0])
    assert all(len(row["references"]) == 2 and row["output"] == row["references"][0] for row in wrong)
