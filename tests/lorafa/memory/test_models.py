"""Models by name, file and id."""

import json
from pathlib import Path

import pytest
import torch

from lorafa.memory.models import BUILT_IN, ModelNotFoundError, build, head_of, load_config, with_new_storage

# Parameters of the published checkpoints with the head that they are fine-tuned with.
PARAMETERS = {
    "roberta-base": 124_647_170,
    "roberta-large": 355_361_794,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.3-70b": 70_553_706_496,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "deepseek-coder-1.3b": 1_346_471_936,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "gemma-3-1b": 999_885_952,
    "phi-4": 14_659_507_200,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "powerlm-3b": 3_510_819_072,
    "phi-1.5": 1_418_270_720,
    "bert-large": 335_143_938,
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_geometry(name: str) -> None:
    model = build(load_config(name), torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert all(parameter.is_meta for parameter in model.parameters())


def test_heads() -> None:
    assert head_of(load_config("roberta-base")) == "sequence-classification"
    assert head_of(load_config("t5-small")) == "seq2seq-lm"
    assert head_of(load_config("llama-7b")) == "causal-lm"


def test_config_file_and_directory(tmp_path: Path) -> None:
    values = {"model_type": "gpt2", "n_layer": 3, "n_embd": 32, "n_head": 2}
    (tmp_path / "config.json").write_text(json.dumps(values))
    for name in (str(tmp_path), str(tmp_path / "config.json")):
        assert load_config(name).num_hidden_layers == 3


def test_unknown_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        load_config(str(tmp_path / "absent.json"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="not the configuration"):
        load_config(str(tmp_path))


def test_new_storage_keeps_ties(small_models: dict[str, str]) -> None:
    model = build(load_config(small_models["t5"]), torch.float32)
    with_new_storage(model)
    assert model.shared.weight is model.encoder.embed_tokens.weight is model.lm_head.weight
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
