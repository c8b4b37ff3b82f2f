"""Geometry of the models that are built in, so that nothing is asked of the hub for them."""

from typing import Any

_ROBERTA = {
    "model_type": "roberta",
    "architectures": ["RobertaForSequenceClassification"],
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
_T5 = {
    "model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"],
    "vocab_size": 32128,
    "decoder_start_token_id": 0,
}
_LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}

# The paper's models (§4): what their config.json has that differs from the class's defaults. LLaMA and
# Llama 2 have one geometry.
BUILT_IN: dict[str, dict[str, Any]] = {
    "roberta-base": _ROBERTA,
    "roberta-large": _ROBERTA
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "t5-small": _T5,
    "t5-base": _T5
    | {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12},
    "t5-large": _T5
    | {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_decoder_layers": 24, "num_heads": 16},
    "llama-7b": _LLAMA,
    "llama-13b": _LLAMA
    | {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
}

# Repositories of the hub whose geometry is built in, so that nothing is asked of the hub for them.
REPOSITORIES = {
    "FacebookAI/roberta-base": "roberta-base",
    "FacebookAI/roberta-large": "roberta-large",
    "google-t5/t5-small": "t5-small",
    "google-t5/t5-base": "t5-base",
    "google-t5/t5-large": "t5-large",
    "huggyllama/llama-7b": "llama-7b",
    "meta-llama/Llama-2-7b-hf": "llama-7b",
    "meta-llama/Llama-2-13b-hf": "llama-13b",
}
