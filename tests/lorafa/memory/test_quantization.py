"""Sizes of quantized weights, and what else a model that is prepared for them has."""

import pytest

from lorafa.memory.estimate import estimate
from lorafa.memory.quantization import nf4_bytes
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.memory.trace import rounded

MIB = 2**20


def test_bytes_of_nf4() -> None:
    """Published of Mistral-7B: 3,328 MiB of 4 bits, 416 MiB of scales (fitcheck-llm 0.3.1, final-t4-20260921.json)."""
    weights = 3328 * MIB * 2
    assert nf4_bytes(weights, double=False) == (3328 + 416) * MIB
    assert nf4_bytes(weights) == 3328 * MIB + weights // 64 + 4 * weights // (64 * 256)


def test_what_is_not_quantized_is_in_float32(small_models: dict[str, str]) -> None:
    """LLaMA's embeddings, head and norms are, as its two buffers; its seven linear layers a block are in 4 bits."""
    recipe = Recipe(
        small_models["llama"], "lora", rank=2, dtype="fp16", quantization="nf4-single", prepared=True
    )
    vocabulary, width, inner, blocks, frequencies = 300, 64, 176, 7, 8
    linears = [2 * [width * width], 2 * [width * width // 2], 3 * [width * inner]]
    sizes = [nf4_bytes(weights, double=False) for layers in linears for weights in layers] * blocks
    sizes += [4 * vocabulary * width] * 2 + [4 * width] * (2 * blocks + 1) + [4 * frequencies] * 2
    assert estimate(recipe).breakdown["weights"] == sum(rounded(size, 512) for size in sizes)


def test_nothing_is_prepared_without_a_quantization() -> None:
    with pytest.raises(RecipeError, match="choose a quantization"):
        Recipe("llama-7b", prepared=True)
