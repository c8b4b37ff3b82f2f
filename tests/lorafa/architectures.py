"""Architectures of transformers that are held against PEFT; docs/models.md lists them."""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """A model of transformers, small and with random weights.

    Attributes:
        family: decoder, encoder, encoder-decoder, MoE, vision or audio.
        name: As a user knows it.
        model: Class of transformers.
        config: Its configuration's class.
        sizes: What makes it small.
        targets: What is adapted.
        note: What is peculiar about it.
    """

    family: str
    name: str
    model: str
    config: str
    sizes: dict[str, Any] = field(default_factory=dict)
    targets: str | tuple[str, ...] = "all-linear"
    note: str = ""

    def build(self) -> nn.Module:
        """Build it, the same at each call."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.sizes)
        return getattr(transformers, self.model)(config).eval()

    def inputs(self) -> dict[str, Tensor]:
        """What it takes."""
        torch.manual_seed(1)
        if self.family == "vision":
            return {"pixel_values": torch.randn(2, 3, 32, 32)}
        ids = torch.randint(3, 60, (2, 8))
        if self.name == "Whisper":
            return {"input_features": torch.randn(2, 8, 16), "decoder_input_ids": ids}
        if self.family == "audio":
            return {"input_values": torch.randn(2, 400)}
        return (
            {"input_ids": ids, "decoder_input_ids": ids}
            if self.family == "encoder-decoder"
            else {"input_ids": ids}
        )


_SIZE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_HEADS = {**_SIZE, "num_attention_heads": 2}
_GROUPED = {**_HEADS, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
_MLA = {
    **{**_HEADS, "num_key_value_heads": 2, "moe_intermediate_size": 12, "n_routed_experts": 4, "n_group": 1},
    **{"topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "q_lora_rank": 8},
    **{"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
}
_SEQ2SEQ = {
    **{
        "vocab_size": 64,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
    },
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
}
_IMAGE = {**_HEADS, "image_size": 32, "patch_size": 16}
_EXPERTS = "its experts are parameters, whose names go to `target_parameters`"

ARCHITECTURES = [
    Architecture("decoder", "Llama", "LlamaForCausalLM", "LlamaConfig", _GROUPED),
    Architecture("decoder", "Qwen2", "Qwen2ForCausalLM", "Qwen2Config", {**_HEADS, "num_key_value_heads": 1}),
    Architecture("decoder", "Gemma 2", "Gemma2ForCausalLM", "Gemma2Config", _GROUPED),
    Architecture(
        "decoder",
        "Phi-3",
        "Phi3ForCausalLM",
        "Phi3Config",
        {**_HEADS, "num_key_value_heads": 2, "pad_token_id": 0},
    ),
    Architecture(
        "decoder",
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
        note="linear layers with a transposed weight (`Conv1D`)",
    ),
    Architecture(
        "decoder",
        "GPT-NeoX",
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {**_HEADS, "max_position_embeddings": 16},
    ),
    Architecture(
        "decoder",
        "OPT",
        "OPTForCausalLM",
        "OPTConfig",
        {**_HEADS, "ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 16},
    ),
    Architecture(
        "decoder",
        "BLOOM",
        "BloomForCausalLM",
        "BloomConfig",
        {"vocab_size": 64, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    ),
    Architecture(
        "decoder",
        "Falcon",
        "FalconForCausalLM",
        "FalconConfig",
        _HEADS,
        note="adds in place to what a layer returns",
    ),
    Architecture("encoder", "BERT", "BertModel", "BertConfig", _HEADS),
    Architecture("encoder", "RoBERTa", "RobertaModel", "RobertaConfig", _HEADS),
    Architecture(
        "encoder",
        "DeBERTa-v3",
        "DebertaV2Model",
        "DebertaV2Config",
        {**_HEADS, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_position_embeddings": 16},
    ),
    Architecture(
        "encoder",
        "DeBERTa",
        "DebertaModel",
        "DebertaConfig",
        {**_HEADS, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8},
        note="divides in place what a layer returns",
    ),
    Architecture(
        "encoder",
        "DistilBERT",
        "DistilBertModel",
        "DistilBertConfig",
        {"vocab_size": 64, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    ),
    Architecture(
        "encoder-decoder",
        "T5",
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
    ),
    Architecture(
        "encoder-decoder",
        "BART",
        "BartForConditionalGeneration",
        "BartConfig",
        {**_SEQ2SEQ, "max_position_embeddings": 16},
    ),
    Architecture(
        "MoE",
        "Mixtral",
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_GROUPED, "num_local_experts": 3},
        note=_EXPERTS,
    ),
    Architecture(
        "MoE",
        "Qwen3-MoE",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**_GROUPED, "moe_intermediate_size": 12, "num_experts": 3, "num_experts_per_tok": 2},
        note=_EXPERTS,
    ),
    Architecture(
        "MoE",
        "DeepSeek-V3",
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        _MLA,
        note=f"{_EXPERTS}; so do its dense layers' and shared experts' weights",
    ),
    Architecture(
        "MoE",
        "GPT-OSS",
        "GptOssForCausalLM",
        "GptOssConfig",
        {**_GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2},
        note=_EXPERTS,
    ),
    Architecture("vision", "ViT", "ViTModel", "ViTConfig", _IMAGE),
    Architecture("vision", "CLIP", "CLIPVisionModel", "CLIPVisionConfig", _IMAGE),
    Architecture(
        "vision",
        "ResNet",
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"},
        targets=("convolution",),
        note="convolutions; a ReLU in place follows them in other implementations",
    ),
    Architecture(
        "vision",
        "ConvNeXt",
        "ConvNextModel",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        targets=("pwconv1", "pwconv2", "downsampling_layer.1"),
    ),
    Architecture(
        "audio",
        "Whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **_SEQ2SEQ,
            **{"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16, "pad_token_id": 0},
            **{"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
        },
    ),
    Architecture(
        "audio",
        "Wav2Vec2",
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {
            **_HEADS,
            **{
                "conv_dim": (8, 8),
                "conv_stride": (5, 2),
                "conv_kernel": (10, 3),
                "num_feat_extract_layers": 2,
            },
            **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
        },
    ),
]
