"""The work of a step against closed formulas, and the throughput that follows from it."""

from dataclasses import replace

import pytest

from lorafa.memory.fit import safe
from lorafa.memory.recipe import Recipe, RecipeError
from pipeline.costs.cards import GPUS, Gpu
from pipeline.fullscale.throughput import (
    A100_80GB,
    Accelerator,
    _count,
    at_equal_memory,
    step_work,
    tokens_per_second,
)

HIDDEN, FFN, LAYERS, VOCABULARY, KV = 64, 176, 7, 300, 32
BATCH, LENGTH = 2, 32


@pytest.fixture
def recipe(small_models) -> Recipe:
    return Recipe(
        small_models["llama"],
        "lora",
        rank=4,
        batch_size=BATCH,
        source_length=LENGTH,
        dtype="bf16",
        attention="eager",
    )


def products(backward_passes: float) -> float:
    """FLOPs of the frozen linear layers and the head: 2 a weight and token, forward and per backward product."""
    per_block = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * FFN
    return 2 * BATCH * LENGTH * (LAYERS * per_block + HIDDEN * VOCABULARY) * (1 + backward_passes)


def attention() -> float:
    """FLOPs of eager attention: two products forward, four backward."""
    return 6 * 2 * BATCH * LENGTH * LENGTH * HIDDEN * LAYERS


def test_full_fine_tuning_does_three_products_for_each_weight(recipe):
    work = step_work(replace(recipe, method="full-ft"))
    # The first block's input needs no gradient: nothing before it trains but the embeddings, which do.
    assert work.flops == pytest.approx(products(2) + attention(), rel=1e-3)


def test_lora_spares_the_gradient_of_w_and_lora_fa_that_of_a(recipe):
    lora, frozen = (
        step_work(replace(recipe, method=m, input_gradients=True)) for m in ("lora", "lora-frozen-a")
    )
    tokens, rank = BATCH * LENGTH, 4
    inputs = 6 * HIDDEN + FFN
    outputs = 2 * HIDDEN + 2 * KV + 2 * FFN + HIDDEN
    adapters = 2 * tokens * rank * LAYERS * (inputs + outputs)
    assert lora.flops == pytest.approx(products(1) + attention() + 3 * adapters, rel=1e-3)
    assert lora.flops - frozen.flops == pytest.approx(2 * tokens * rank * LAYERS * inputs, rel=1e-6)


@pytest.mark.integration
def test_depth_is_linear(recipe):
    whole = _count(recipe, ((True,) * LAYERS,))
    assert step_work(recipe).flops == whole.flops
    assert step_work(recipe).traffic == pytest.approx(whole.traffic, rel=1e-9)


@pytest.mark.integration
def test_batch_is_affine(recipe):
    large = replace(recipe, batch_size=16)
    whole = _count(large, ((True,) * LAYERS,))
    assert step_work(large).flops == whole.flops
    assert step_work(large).traffic == pytest.approx(whole.traffic, rel=1e-3)


def test_throughput_follows_the_slower_part(recipe):
    base = tokens_per_second(recipe)
    work = step_work(recipe)
    no_traffic = tokens_per_second(recipe, replace(A100_80GB, bandwidth=float("inf")))
    assert no_traffic == pytest.approx(BATCH * LENGTH * 312e12 * 0.6 / work.flops)
    assert base < no_traffic
    double = Accelerator(2 * A100_80GB.flops, 2 * A100_80GB.bandwidth)
    assert tokens_per_second(recipe, double) == pytest.approx(2 * base)


def test_what_is_not_modelled_is_refused(recipe):
    with pytest.raises(RecipeError, match="layer_fraction 1"):
        step_work(replace(recipe, layer_fraction=0.5))


@pytest.mark.integration
def test_at_equal_memory_the_batch_is_the_largest_that_fits(recipe, monkeypatch):
    def needed(size: int) -> int:
        return safe(replace(recipe, batch_size=size))

    monkeypatch.setattr(Gpu, "memory", needed(11))
    found, gpu = at_equal_memory(recipe, "a100-40gb"), GPUS["a100-40gb"]
    size = found["batch_size"]
    assert needed(size) <= gpu.memory < needed(size + 1)  # the allocator's segments may hold one more
    speed = tokens_per_second(replace(recipe, batch_size=size), Accelerator(gpu.half, gpu.bandwidth))
    assert found["tokens_per_second"] == pytest.approx(speed)
    monkeypatch.setattr(Gpu, "memory", 1)
    assert at_equal_memory(recipe, "a100-40gb") == {"batch_size": 0, "tokens_per_second": 0}
