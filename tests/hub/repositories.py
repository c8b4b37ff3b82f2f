"""The paper's repositories in small: the real ids, file names, configurations, splits and columns; made-up contents.

The sentences are the tiny mirror's. Files of pickle and of other frameworks are there as on the hub, but with a content
that nobody may read.
"""

import gzip
import json
import random
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from datasets import ClassLabel, Dataset, Features, Translation, Value
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from pipeline.assets.builders.glue import SCHEMAS
from pipeline.assets.builders.t5 import vocabulary
from pipeline.config.compose import CONF
from tests.pipeline import tiny

GATED = frozenset({"meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"})
PINNED = {
    "Muennighoff/natural-instructions": OmegaConf.load(
        CONF / "profile/paper.yaml"
    ).profile.instructions.revision
}
POISON = b"whoever downloads this file would have to unpickle it"
LANGUAGES = ("cs", "de", "fi", "ro", "ru", "tr")
FLAN_FILES = [
    *map("_".join, product(["cot", "dialog", "niv2"], ["fs", "zs"], ["noopt", "opt"], ["train"])),
    *("flan_fs_noopt_train", "flan_zs_noopt_train", "flan_zs_opt_train"),
    *(f"flan_fs_opt_train_part{part}" for part in (1, 2, 3)),
    *("t0_fs_noopt_train", "t0_zs_noopt_train", "t0_zs_opt_train"),
]
NATURAL_INSTRUCTIONS = {
    "train": ["task001_quoref_question_generation", "task002_quoref_answer_generation", "task022_cosmosqa"],
    "test": [
        "task003_mctaco_question_generation_event_duration",
        "task004_mctaco_answer_generation_event_duration",
        "task033_winogrande_answer_generation",
    ],
}


def write(root: Path) -> None:
    """Writes all that the paper profile reads, under `root/{models,datasets}/<organisation>/<name>`."""
    for size, hidden in (("base", 32), ("large", 48)):
        _roberta(_model(root, f"FacebookAI/roberta-{size}"), hidden)
    for size, hidden in (("small", 24), ("base", 32), ("large", 48)):
        _t5(_model(root, f"google-t5/t5-{size}"), hidden)
    # Of generation, Llama 2's own settings sample, which must not reach our greedy search.
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}
    _llama(_model(root, "huggyllama/llama-7b"), {})
    for size in ("7b", "13b"):
        _llama(_model(root, f"meta-llama/Llama-2-{size}-hf"), sampling)
    _glue(_dataset(root, "nyu-mll/glue"))
    _wmt16(_dataset(root, "wmt/wmt16"))
    _alpaca(_dataset(root, "tatsu-lab/alpaca"))
    _flan(_dataset(root, "SirNeural/flan_v2"))
    _mmlu(_dataset(root, "cais/mmlu"))
    _natural_instructions(_dataset(root, "Muennighoff/natural-instructions"))


def subjects() -> list[str]:
    """Returns MMLU's 57 subjects, from lm-eval's own list of tasks."""
    package = find_spec("lm_eval")  # which takes seconds to import
    assert package is not None and package.origin is not None
    folder = Path(package.origin).parent / "tasks/mmlu/default"
    return sorted(path.stem.removeprefix("mmlu_") for path in folder.glob("mmlu_*.yaml"))


def _model(root: Path, name: str) -> Path:
    set_seed(len(name))
    folder = root / "models" / name
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"# {name}\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    return folder


def _dataset(root: Path, name: str) -> Path:
    folder = root / "datasets" / name
    folder.mkdir(parents=True)
    (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    return folder


def _poison(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(POISON)


def _words() -> list[str]:
    rng = random.Random(5)
    sentences = [tiny.sentence(rng, index % 2 == 0) for index in range(200)]
    return [*sentences, " ".join(tiny.ROMANIAN.values()), " ".join(tiny.PROMPT)]


def _bpe(start: list[str], *, bytes_as_letters: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns the pieces and merges of byte-pair encoding, RoBERTa's on bytes, LLaMA's on letters."""
    pieces = Tokenizer(models.BPE())
    alphabet = (
        pre_tokenizers.ByteLevel.alphabet() if bytes_as_letters else [chr(code) for code in range(33, 127)]
    )
    pieces.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if bytes_as_letters else pre_tokenizers.Metaspace()
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=start, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(_words(), trainer)
    model = json.loads(pieces.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _roberta(folder: Path, hidden: int) -> None:
    words, merges = _bpe(["<s>", "<pad>", "</s>", "<unk>"], bytes_as_letters=True)
    words["<mask>"] = len(words)
    RobertaTokenizer(vocab=words, merges=merges, model_max_length=512).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    config = RobertaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    RobertaForMaskedLM(config).save_pretrained(folder)  # with the head that it was pretrained with
    _poison(folder, "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "dict.txt")


def _t5(folder: Path, hidden: int) -> None:
    tokenizer = vocabulary.train(_words(), 400)
    tokenizer.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(tokenizer) + 28,  # the embeddings are padded to a round number
        d_model=hidden,
        d_kv=16,
        d_ff=2 * hidden,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        n_positions=512,
        task_specific_params={
            "translation_en_to_ro": {
                "early_stopping": True,
                "max_length": 300,
                "num_beams": 4,
                "prefix": "translate English to Romanian: ",
            }
        },
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    _poison(folder, "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot")
    _poison(folder, "onnx/decoder_model.onnx")
    (folder / "spiece.model").write_bytes(b"what tokenizer.json was made from")


def _llama(folder: Path, generation: dict[str, Any]) -> None:
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words, merges = _bpe(special, bytes_as_letters=False)
    LlamaTokenizer(vocab=words, merges=merges).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).half()
    model.save_pretrained(folder, max_shard_size="60KB")
    settings = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **generation}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    _poison(folder, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    (folder / "tokenizer.model").write_bytes(b"what tokenizer.json was made from")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')


def _card(folder: Path, configurations: dict[str, dict[str, Dataset]]) -> None:
    """Writes Parquet files and the card that lists them, as `push_to_hub` does."""
    infos, files = [], []
    for name, splits in configurations.items():
        (folder / name).mkdir()
        for split, data in splits.items():
            data.to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
        sizes = [
            {"name": split, "num_bytes": 1000, "num_examples": len(data)} for split, data in splits.items()
        ]
        columns = next(iter(splits.values())).features._to_yaml_list()
        infos.append({"config_name": name, "features": columns, "splits": sizes})
        paths = [{"split": split, "path": f"{name}/{split}-*"} for split in splits]
        files.append({"config_name": name, "data_files": paths})
    header = yaml.safe_dump({"language": ["en"], "dataset_info": infos, "configs": files}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{header}---\n\n# {folder.name}\n")


def _glue(folder: Path) -> None:
    def rows(subset: str, count: int, seed: int, *, labelled: bool = True) -> Dataset:
        columns, names, _ = SCHEMAS[subset]
        label = ClassLabel(names=names) if names else Value("float32")
        features = Features(
            {**dict.fromkeys(columns, Value("string")), "label": label, "idx": Value("int32")}
        )
        made = tiny.glue_rows(subset, count, seed)
        hidden = [
            row if labelled else {**row, "label": -1} for row in made
        ]  # the test splits' labels are kept secret
        return Dataset.from_list(hidden, features=features)

    def splits(subset: str) -> dict[str, Dataset]:
        if subset != "mnli":
            parts = {"train": rows(subset, 24, 0), "validation": rows(subset, 12, 1)}
            return {**parts, "test": rows(subset, 4, 2, labelled=False)}
        matched = {"train": rows(subset, 24, 0), "validation_matched": rows(subset, 12, 1)}
        secret = {f"test_{kind}": rows(subset, 4, 3, labelled=False) for kind in ("matched", "mismatched")}
        return {**matched, "validation_mismatched": rows(subset, 12, 2), **secret}

    diagnostic = {"test": rows("mnli", 4, 4, labelled=False)}
    _card(
        folder,
        {"ax": diagnostic, **{subset: splits(subset) for subset in sorted(SCHEMAS)}, "wnli": splits("rte")},
    )


def _wmt16(folder: Path) -> None:
    rng = random.Random(6)

    def pairs(language: str, count: int) -> Dataset:
        english = [tiny.sentence(rng, rng.random() < 0.5) for _ in range(count)]
        foreign = [" ".join(tiny.ROMANIAN.get(word, word) for word in text.split()) for text in english]
        rows = [{language: other, "en": text} for other, text in zip(foreign, english, strict=True)]
        features = Features({"translation": Translation(languages=(language, "en"))})
        return Dataset.from_dict({"translation": rows}, features=features)

    sizes = {"train": 24, "validation": 8, "test": 8}
    _card(
        folder,
        {
            f"{language}-en": {split: pairs(language, size) for split, size in sizes.items()}
            for language in LANGUAGES
        },
    )


def _alpaca(folder: Path) -> None:
    rng = random.Random(7)
    rows = [
        {
            "instruction": f"Is it {rng.choice(tiny.GOOD)} ?",
            "input": tiny.sentence(rng, True) if index % 2 else "",
            "output": "" if index == 3 else "yes",  # some of the real ones are empty
            "text": "Below is an instruction",
        }
        for index in range(48)
    ]
    (folder / "data").mkdir()
    Dataset.from_list(rows).to_parquet(folder / "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet")
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-nc-4.0\n---\n\n# Alpaca\n"
    )  # names no configurations


def _flan(folder: Path) -> None:
    rng = random.Random(8)
    for name in FLAN_FILES:
        rows = [
            {"inputs": f"Is it good ? {tiny.sentence(rng, index % 2 == 0)}", "targets": "yes", "task": name}
            for index in range(4)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Flan V2\n")


def _mmlu(folder: Path) -> None:
    rng = random.Random(9)

    def questions(subject: str, count: int) -> Dataset:
        return Dataset.from_list([tiny.mmlu_question(rng, subject) for _ in range(count)], features=tiny.MMLU)

    def splits(subject: str) -> dict[str, Dataset]:
        return {
            "test": questions(subject, 2),
            "validation": questions(subject, 1),
            "dev": questions(subject, 5),
        }

    nested = Dataset.from_list([{"train": tiny.mmlu_question(rng, "")}])  # so it is on the hub
    everything = {name: splits(name) for name in subjects()}
    extra = {"all": splits(""), "auxiliary_train": {"train": nested}}
    _card(folder, dict(sorted({**everything, **extra}.items())))


def _natural_instructions(folder: Path) -> None:
    rng = random.Random(10)
    for part, tasks in NATURAL_INSTRUCTIONS.items():
        (folder / part).mkdir()
        for task in tasks:
            lines = [
                {
                    "task_name": task,
                    "id": f"{task}-{index}",
                    "definition": "Is it good ?",
                    "inputs": tiny.sentence(rng, True),
                    "targets": word,
                }
                for index in range(12)
                for word in ("yes", "good")  # a line for each answer
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / part / f"{task}_{part}.jsonl").write_text(text)
