"""A small configuration of each family of models that people fine-tune, as config.json has it."""

from typing import Any

_TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GQA = _TEXT | {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"num_experts_per_tok": 2, "pad_token_id": 0}
_SEQ2SEQ = {
    "vocab_size": 96,
    "d_model": 32,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
_T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
_SOUND = {
    **_VISION,
    "vocab_size": 40,
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": _GQA,
    "mistral": _GQA,
    "qwen2": _GQA,
    "qwen3": _GQA,
    "phi": _TEXT,
    "phi3": _GQA | {"pad_token_id": 0},
    "gemma": _GQA,
    "gemma2": _GQA,
    "gemma3_text": _GQA,
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neo": {
        "vocab_size": 96,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": _TEXT,
    "gptj": {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    "opt": {
        "vocab_size": 96,
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 64,
    },
    "bloom": {"vocab_size": 96, "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "falcon": {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    "mpt": {"vocab_size": 96, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
    "stablelm": _GQA,
    "olmo2": _GQA,
    "granite": _GQA,
    "cohere": _GQA,
}
STATE_SPACE: dict[str, dict[str, Any]] = {
    "mamba": {
        "vocab_size": 96,
        "hidden_size": 32,
        "state_size": 4,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
    },
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": _GQA | _EXPERTS | {"num_local_experts": 4},
    "qwen3_moe": _GQA | _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16},
    "olmoe": _TEXT | _EXPERTS | {"num_experts": 4},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": _TEXT,
    "roberta": _TEXT,
    "distilbert": {
        "vocab_size": 96,
        "dim": 32,
        "hidden_dim": 48,
        "n_layers": 3,
        "n_heads": 4,
        "max_position_embeddings": 64,
    },
    "electra": _TEXT | {"embedding_size": 16},
    "albert": _TEXT | {"embedding_size": 16},
    "deberta": _TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": _TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    "xlnet": {"vocab_size": 96, "d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48},
    "modernbert": _TEXT
    | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": _T5 | {"decoder_start_token_id": 0},
    "mt5": _T5 | {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"},
    "bart": _SEQ2SEQ | {"max_position_embeddings": 64},
    "mbart": _SEQ2SEQ | {"max_position_embeddings": 64},
    "pegasus": _SEQ2SEQ | {"max_position_embeddings": 64},
}
VISION: dict[str, dict[str, Any]] = {
    "vit": _VISION,
    "deit": _VISION,
    "beit": _VISION,
    "dinov2": _VISION,
    "clip_vision_model": _VISION,
    "siglip_vision_model": _VISION,
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 16], "depths": [1, 1]},
}
_TOWER = {**_VISION, "model_type": "clip_vision_model"}
VISION_LANGUAGE: dict[str, dict[str, Any]] = {
    "llava": {
        "vision_config": _TOWER,
        "text_config": _GQA | {"model_type": "llama"},
        "image_token_index": 95,
    },
    "gemma3": {
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
        "text_config": _GQA | {"model_type": "gemma3_text"},
        "mm_tokens_per_image": 4,
    },
    "qwen2_vl": {
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
        "text_config": _GQA
        | {
            "model_type": "qwen2_vl_text",
            "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
        },
    },
}
SOUND: dict[str, dict[str, Any]] = {
    "whisper": _SEQ2SEQ | {"num_mel_bins": 16, "max_source_positions": 16, "max_target_positions": 12},
    "wav2vec2": _SOUND,
    "hubert": _SOUND,
    "audio-spectrogram-transformer": {
        **_VISION,
        "num_mel_bins": 16,
        "max_length": 32,
        "patch_size": 8,
        "time_stride": 8,
        "frequency_stride": 8,
    },
}
FAMILIES: dict[str, dict[str, Any]] = {
    name: {"model_type": name, **sizes}
    for kind in (DECODERS, STATE_SPACE, EXPERTS, ENCODERS, SEQ2SEQ, VISION, VISION_LANGUAGE, SOUND)
    for name, sizes in kind.items()
}
