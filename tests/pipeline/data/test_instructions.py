"""Instruction data: the template, loss on the response alone, truncation, seeded samples, errors."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DataCollatorForSeq2Seq, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.assets import Source
from pipeline.data.instructions import Instructions, collator, load, prompt, tokenize
from pipeline.errors import AssetError, ConfigError

ROMANIAN = "Peste 3 luni, școala și țara își plătesc cei 20 de ani."
TEXTS = [
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction: Name a colour. ### Input: a film ### Response: green and blue, Answer: B",
    ROMANIAN,
]
ALPACA = Instructions(format="alpaca", held_out=8, sample=None, sample_seed=0)


def _tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Returns a small tokenizer in the manner of GPT-2 (no start token) or of LLaMA (<s>, words begin with "▁")."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=kind == "llama", unk_token="<unk>"))
    if kind == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if kind == "llama":
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return _tokenizer(request.param)


def _rows(*rows: tuple[str, str, str]) -> Dataset:
    return Dataset.from_list(
        [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows]
    )


def _alpaca(folder: Path, count: int = 40, **changes: str) -> Source:
    rows = [
        {"instruction": f"Say {i}", "input": "" if i % 2 else "twice", "output": str(i)} for i in range(count)
    ]
    data = Dataset.from_list([{**row, "text": "unused"} for row in rows])
    folder.mkdir()
    data.rename_columns(changes).to_parquet(folder / "train-00000-of-00001.parquet")
    return Source(str(folder), None, "tatsu-lab/alpaca", version=folder.name)


def test_the_prompt_is_that_of_the_alpaca_release():
    with_input = prompt({"instruction": "Translate.", "input": ROMANIAN})
    assert with_input == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nTranslate.\n\n### Input:\n"
        f"{ROMANIAN}\n\n### Response:"
    )
    without = prompt({"instruction": "Name {a} colour.", "input": ""})
    assert without == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName {a} colour.\n\n### Response:"
    )


def test_a_row_without_an_instruction_is_its_own_prompt():
    assert prompt({"instruction": "", "input": "Q: 1 + 1?\nAnswer:"}) == "Q: 1 + 1?\nAnswer:"


@pytest.mark.parametrize(
    "row",
    [
        ("Name a colour.", "", "green"),
        ("Translate.", ROMANIAN, "In 3 months, the school pays."),
        ("Translate.", "In 3 months.", ROMANIAN),
        ("", "Which?\nA. green\nB. blue\nAnswer:", "B"),
        ("", "It ends with a line\n", "two\nlines"),
        ("", "It ends with a space ", "B"),
    ],
)
def test_no_token_of_the_prompt_has_loss(tokenizer, row):
    (example,) = tokenize(_rows(row), tokenizer, 1000, 1000)
    source = tokenizer(prompt({"instruction": row[0], "input": row[1]})).input_ids
    begins_words = (
        "" if tokenizer.decode([1]) in tokenizer.decode(source) else " "
    )  # LLaMA's does so by itself
    target = tokenizer(begins_words + row[2], add_special_tokens=False).input_ids
    assert example["input_ids"] == [*source, *target, tokenizer.eos_token_id]
    assert example["labels"] == [-100] * len(source) + [*target, tokenizer.eos_token_id]
    assert example["attention_mask"] == [1] * len(example["input_ids"])


def _ending(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Returns the tokenizer with an end-of-sequence behind every text, as `add_eos_token` puts it."""
    ended = _tokenizer("llama" if "▁" in "".join(tokenizer.get_vocab()) else "gpt2")
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return ended


def test_a_tokenizer_that_ends_texts_gives_one_end(tokenizer):
    row = ("Name a colour.", "", "green and blue")
    ended = _ending(tokenizer)
    assert ended("green").input_ids[-1] == ended.eos_token_id
    (example,) = tokenize(_rows(row), ended, 1000, 1000)
    assert example["input_ids"].count(ended.eos_token_id) == 1 == example["labels"].count(ended.eos_token_id)
    assert example["input_ids"][-1] == ended.eos_token_id
    (cut,) = tokenize(_rows(row), ended, 1000, 2)
    assert ended.eos_token_id not in cut["input_ids"]  # a cut response has none


def _unigram() -> PreTrainedTokenizerFast:
    """Returns a tokenizer whose vocabulary has the control tokens as words, too, as sentencepiece's have."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "< / s >"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


@pytest.mark.parametrize("text", ["</s>", "a</s>b, </s></s> <s> twice"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "ended", "unigram"])
def test_control_tokens_that_a_text_has_are_text(kind, text):
    base = _tokenizer("gpt2" if kind == "gpt2" else "llama")
    tokenizer = {"ended": _ending, "unigram": lambda _: _unigram()}.get(kind, lambda same: same)(base)
    rows = _rows((text, "a film", "green"), ("Name.", text, "green"), ("Name.", "", text), ("", text, "B"))
    for example in tokenize(rows, tokenizer, 1000, 1000):
        ids = example["input_ids"]
        assert ids.index(tokenizer.eos_token_id) == len(ids) - 1
        assert tokenizer.bos_token_id not in ids[1:]
        assert example["labels"][-1] == tokenizer.eos_token_id
        if kind == "unigram":  # whose vocabulary has the letters
            assert "</s>" in tokenizer.decode(ids[:-1]).replace(" ", "")


def test_a_tokenizer_is_left_as_it_was(tokenizer):
    before = tokenizer("a</s>b").input_ids
    tokenize(_rows(("Name a colour.", "", "</s>")), tokenizer, 1000, 1000)
    assert tokenizer("a</s>b").input_ids == before


def test_romanian_letters_survive(tokenizer):
    (example,) = tokenize(_rows(("Translate.", ROMANIAN, ROMANIAN)), tokenizer, 1000, 1000)
    assert tokenizer.decode(example["input_ids"]).count(ROMANIAN) == 2
    assert "ș" in ROMANIAN and "ț" in ROMANIAN  # with a comma below, not a cedilla


def test_an_over_long_source_never_costs_the_response(tokenizer):
    whole, cut = (
        tokenize(_rows(("Sum up.", "green " * 500, "blue and green")), tokenizer, length, 16)[0]
        for length in (10_000, 40)
    )
    response = [label for label in whole["labels"] if label != -100]
    assert cut["labels"] == [-100] * 40 + response
    assert cut["input_ids"] == whole["input_ids"][:40] + response
    assert response[-1] == tokenizer.eos_token_id


def test_an_over_long_response_is_cut_before_its_end(tokenizer):
    (example,) = tokenize(_rows(("Name a colour.", "", "green " * 50)), tokenizer, 1000, 7)
    assert sum(label != -100 for label in example["labels"]) == 7
    assert tokenizer.eos_token_id not in example["labels"]


def test_padding_has_no_loss_and_no_attention():
    tokenizer = _tokenizer("gpt2")
    examples = tokenize(
        _rows(("Name a colour.", "", "green"), ("Name a colour.", "a film", "blue")), tokenizer, 99, 99
    )
    batch = DataCollatorForSeq2Seq(tokenizer)(list(examples))
    short = len(examples[0]["input_ids"])
    assert batch["labels"][0, short:].eq(-100).all() and batch["attention_mask"][0, short:].eq(0).all()
    assert batch["labels"].shape == batch["input_ids"].shape == (2, len(examples[1]["input_ids"]))


def test_logits_of_responses_alone_give_the_same_loss_and_gradients(tokenizer):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **size)).double()
    rows = _rows(("Name a colour.", "", "green"), ("Translate.", ROMANIAN, "In 3 months, the school pays."))
    examples = list(tokenize(rows, tokenizer, 1000, 1000))
    batch = collator(tokenizer)(examples)
    assert len(batch["logits_to_keep"]) < batch["labels"].shape[1] - 10

    losses, gradients = [], []
    for inputs in (batch, DataCollatorForSeq2Seq(tokenizer)(examples)):
        loss = model(**inputs).loss
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # the loss itself is of float32 logits
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-7)


def test_tokens_are_kept_until_what_makes_them_changes(tmp_path):
    tokenizer = _tokenizer("gpt2")
    rows = load(_alpaca(tmp_path / "alpaca"), ALPACA, tmp_path / "cache").train
    one, same, other = (tokenize(rows, tokenizer, length, 9)._fingerprint for length in (50, 50, 51))
    assert one == same != other


def test_a_sample_is_a_fixed_selection(tmp_path):
    source = _alpaca(tmp_path / "alpaca")
    sampled = replace(ALPACA, sample=10)
    first, again, other = (
        load(source, chosen, tmp_path / "cache")
        for chosen in (sampled, sampled, replace(sampled, sample_seed=1))
    )
    assert first.train["output"] == again.train["output"]
    assert first.selection == again.selection
    assert first.train["output"] != other.train["output"]
    train, validation = (sorted(map(int, part["output"])) for part in (first.train, first.validation))
    assert len(train) == 10 and len(validation) == 8 and not set(train) & set(validation)
    numbers = np.array(train + validation, dtype=np.int64)
    assert first.selection == {
        "rows": 40,
        "seed": 0,
        "sha256": hashlib.sha256(numbers.tobytes()).hexdigest(),
        "train": 10,
        "validation": 8,
        "empty": 0,
    }


def test_without_a_sample_everything_else_is_trained_on(tmp_path):
    data = load(_alpaca(tmp_path / "alpaca"), ALPACA, tmp_path / "cache")
    assert sorted(map(int, [*data.train["output"], *data.validation["output"]])) == list(range(40))
    assert data.train.column_names == ["instruction", "input", "output"]
    assert data.test is None


def test_rows_without_a_response_are_dropped_and_counted(tmp_path):
    folder = tmp_path / "flan"
    folder.mkdir()
    rows = [{"inputs": f"Q{i}", "targets": "" if i < 4 else " \n" if i < 6 else f"A{i}"} for i in range(20)]
    for half, name in ((rows[:10], "flan2021"), (rows[10:], "cot")):
        Dataset.from_list([{**row, "task_name": name} for row in half]).to_parquet(folder / f"{name}.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: flan2021\n    path: flan2021.parquet\n  - split: cot\n    path: cot.parquet\n---\n"
    )
    source = Source(str(folder), None, "some/flan", version="1")
    data = load(source, Instructions("flan", held_out=3, sample=None, sample_seed=0), tmp_path / "cache")
    kept = [*data.train, *data.validation]
    assert sorted(row["input"] for row in kept) == sorted(f"Q{i}" for i in range(6, 20))  # all splits
    assert all(row["instruction"] == "" and row["output"] == row["input"].replace("Q", "A") for row in kept)
    assert data.selection["empty"] == 6
    assert data.selection["train"] + data.selection["validation"] == 14


def test_errors_say_what_is_missing(tmp_path):
    gone = Source(str(tmp_path / "gone"), None, "tatsu-lab/alpaca")
    with pytest.raises(AssetError, match="gone: no usable data set"):
        load(gone, ALPACA, tmp_path / "cache")
    with pytest.raises(AssetError, match="no column output, only instruction, input, answer, text"):
        load(_alpaca(tmp_path / "renamed", output="answer"), ALPACA, tmp_path / "cache")
    with pytest.raises(AssetError, match="has 5 rows, too few to hold out 8"):
        load(_alpaca(tmp_path / "small", count=5), ALPACA, tmp_path / "cache")
    with pytest.raises(AssetError, match="has 40 rows, too few to hold out 8 and train on 33"):
        load(_alpaca(tmp_path / "alpaca"), replace(ALPACA, sample=33), tmp_path / "cache")


TRAIN, HELD_OUT = "task001_quoref_question_generation", "task105_story_generation"
SNI = Instructions("natural-instructions", 2, None, 0, [TRAIN], [HELD_OUT])


def _tasks(folder: Path, **changes: object) -> Source:
    """Writes two tasks in the public JSON format, and the lists of a split that they make."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "splits/default").mkdir(parents=True)
    for part, task in (("train", TRAIN), ("test", HELD_OUT)):
        (folder / f"splits/default/{part}_tasks.txt").write_text(f"{task}\n")
    for task in (TRAIN, HELD_OUT):
        instances = [
            {"id": f"{task}-{i}", "input": f"Passage {i}", "output": [f"first {i}", f"second {i}"]}
            for i in range(120)
        ]
        content = {
            "Definition": ["Write about Țara."],
            "Positive Examples": [{"input": "p", "output": "q", "explanation": "r"}],
            "Instances": instances,
            **changes,
        }
        text = json.dumps(content, indent=4, ensure_ascii=False)
        (folder / "tasks" / f"{task}.json").write_text(text, encoding="utf-8")
    return Source(str(folder), None, "Muennighoff/natural-instructions", version=folder.name)


def _lines(folder: Path) -> Source:
    """Writes the same tasks as the hub's copy has them, with a line for each output."""
    for part, task in (("train", TRAIN), ("test", HELD_OUT)):
        (folder / part).mkdir(parents=True)
        lines = [
            {
                "task_name": task,
                "id": f"{task}-{i}",
                "definition": "Write about Țara.",
                "inputs": f"Passage {i}",
                "targets": f"{nth} {i}",
            }
            for i in range(120)
            for nth in ("first", "second")
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / part / f"{task}_{part}.jsonl").write_text(text)
    return Source(str(folder), None, "Muennighoff/natural-instructions", version=folder.name)


@pytest.mark.parametrize("layout", [_tasks, _lines])
def test_natural_instructions(tmp_path, layout):
    data = load(layout(tmp_path / "sni"), SNI, tmp_path / "cache")
    assert len(data.train) == 118 and len(data.validation) == 2
    row = data.train[0]
    assert row["task"] == TRAIN and row["instruction"] == "Write about Țara."
    assert row["output"] == row["input"].replace("Passage", "first")
    assert data.test["input"] == [f"Passage {i}" for i in range(100)]  # the benchmark's hundred
    assert data.test[7]["references"] == ["first 7", "second 7"]
    assert set(data.test["task"]) == {HELD_OUT}


@pytest.mark.parametrize("layout", [_tasks, _lines])
def test_without_names_it_is_the_data_set_s_own_split(tmp_path, layout):
    source = layout(tmp_path / "sni")
    own = load(source, replace(SNI, train_tasks=[], heldout_tasks=[]), tmp_path / "cache")
    named = load(source, SNI, tmp_path / "cache")
    assert own.test.to_list() == named.test.to_list()
    assert set(own.train["task"]) == {TRAIN}
    seen = {*own.train["input"], *own.validation["input"]}
    assert seen == {f"Passage {i}" for i in range(100)}  # Tk-Instruct's hundred, where names have all 120
    assert len(own.train) == 98 and len(named.train) == 118


def test_a_folder_without_a_split_of_its_own_is_named(tmp_path):
    with pytest.raises(
        AssetError, match=r"has no split of its own, neither as splits/default/train_tasks.txt nor"
    ):
        load(Source(str(tmp_path), None, "a/b"), replace(SNI, train_tasks=[], heldout_tasks=[]), tmp_path)


def test_natural_instructions_errors(tmp_path):
    source = _tasks(tmp_path / "sni")
    missing = replace(SNI, train_tasks=["task999_none"])
    with pytest.raises(AssetError, match=r"task999_none\.json does not exist; there are task001_quoref"):
        load(source, missing, tmp_path / "cache")
    with pytest.raises(AssetError, match="has no task task999_none"):
        load(_lines(tmp_path / "lines"), missing, tmp_path / "cache")
    for name, change in (("no_input", {"Instances": [{"output": ["a"]}]}), ("none", {"Definition": []})):
        with pytest.raises(AssetError, match="is not in the format of Super-NaturalInstructions"):
            load(_tasks(tmp_path / name, **change), SNI, tmp_path / "cache")
    with pytest.raises(ConfigError, match=f"trained on and held out: {TRAIN}"):
        load(source, replace(SNI, heldout_tasks=[TRAIN]), tmp_path / "cache")
