"""Small models of the paper's three families, as config.json files."""

import json
from pathlib import Path

import pytest

SMALL = {
    "roberta": {
        "model_type": "roberta",
        "architectures": ["RobertaForSequenceClassification"],
        "vocab_size": 300,
        "hidden_size": 64,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 130,
    },
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": 300,
        "d_model": 64,
        "d_ff": 256,
        "d_kv": 16,
        "num_layers": 7,
        "num_decoder_layers": 6,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 7,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 130,
    },
}


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Path of the config.json of each small model, by family."""
    folder = tmp_path_factory.mktemp("models")
    paths: dict[str, str] = {}
    for family, config in SMALL.items():
        path = Path(folder, f"{family}.json")
        path.write_text(json.dumps(config))
        paths[family] = str(path)
    return paths
