"""Operations of a step against the whole model's, PEFT's layers and a closed formula."""

from dataclasses import replace
from pathlib import Path

import pytest

from lorafa.memory import estimate, flops
from lorafa.memory.flops import encoder_flops, forward_flops, training_flops
from lorafa.memory.recipe import Recipe


@pytest.fixture(params=["roberta", "t5", "llama"])
def recipe(request, small_models) -> Recipe:
    model = small_models[request.param]
    return Recipe(model, "lora", rank=4, batch_size=2, source_length=32, dtype="fp32", attention="eager")


def whole(recipe: Recipe, run=flops._train) -> int:
    """Counts every block."""
    depths = (7, 6) if Path(recipe.model).name == "t5.json" else (7,)
    carrying = [round(depth * recipe.layer_fraction) for depth in depths]
    adapted = tuple(
        (False,) * (depth - count) + (True,) * count for depth, count in zip(depths, carrying, strict=True)
    )
    return flops._count(recipe, adapted, run)


@pytest.mark.integration
def test_a_shallow_model_says_what_the_whole_one_does(recipe):
    method = {"roberta.json": "prompt-tuning", "t5.json": "full-ft", "llama.json": "lora-fa"}
    other = replace(recipe, method=method[Path(recipe.model).name])
    assert training_flops(other) == whole(other)
    assert forward_flops(other) == whole(other, flops._forward)


def test_adapters_on_some_of_the_layers(small_models):
    recipe = Recipe(small_models["llama"], "lora", batch_size=2, source_length=32, layer_fraction=3 / 7)
    assert training_flops(recipe) == whole(recipe)
    assert training_flops(recipe) < training_flops(replace(recipe, layer_fraction=1.0))


def test_operations_are_affine_in_rank_and_proportional_to_the_batch(small_models):
    recipe = Recipe(small_models["llama"], "lora-fa", batch_size=6, source_length=32, dtype="fp32")
    found = [training_flops(replace(recipe, rank=rank)) for rank in (1, 2, 16)]
    assert found[2] == found[0] + 15 * (found[1] - found[0])  # the third is derived from the first two
    assert found[2] == whole(replace(recipe, rank=16))


def test_lora_fa_makes_the_products_of_a_frozen_a(small_models):
    recipe = Recipe(small_models["llama"], batch_size=2, source_length=32, dtype="fp32")
    ours, frozen = (replace(recipe, method=method) for method in ("lora-fa", "lora-frozen-a"))
    assert training_flops(ours) == pytest.approx(training_flops(frozen), rel=1e-3)


def test_quantized_weights_cost_the_products_of_others(small_models):
    recipe = Recipe(small_models["llama"], "lora", batch_size=2, source_length=32)
    assert training_flops(replace(recipe, quantization="nf4")) == training_flops(recipe)


def test_the_encoder_is_a_part_of_the_forward_pass(small_models):
    recipe = Recipe(
        small_models["t5"], "full-ft", batch_size=2, source_length=32, target_length=8, dtype="fp32"
    )
    longer = replace(recipe, target_length=16)
    assert encoder_flops(recipe) == encoder_flops(longer) < forward_flops(recipe) < forward_flops(longer)


def test_bytes_of_a_forward_pass_are_affine_in_the_batch(small_models):
    recipe = Recipe(small_models["roberta"], "full-ft", source_length=128, dtype="fp32")
    derived = [estimate.forward_bytes(replace(recipe, batch_size=size)) for size in (256, 512, 1024)][-1]
    recorded = estimate._record_forward(replace(recipe, batch_size=1024))
    assert derived == pytest.approx(recorded, abs=2**26)  # a few of the allocator's segments
    assert recorded < estimate.estimate(replace(recipe, batch_size=1024)).reserved
