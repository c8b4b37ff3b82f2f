"""A budget of memory: what is chosen fits, nothing cheaper does, and more memory is never slower."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import transformers

from lorafa import LoraFaConfig, apply_recompute, get_lora_fa_model
from lorafa.memory import allocator
from lorafa.memory.__main__ import main
from lorafa.memory.budget import FREE, Budget, ladder, plan
from lorafa.memory.depth import full
from lorafa.memory.estimate import fake_step
from lorafa.memory.fit import safe
from lorafa.memory.margin import CONTEXT
from lorafa.memory.models import load_config
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.memory.sizes import GIB
from lorafa.memory.step import trace_step
from lorafa.recompute import recomputing


@pytest.fixture(scope="module")
def recipe(small_models: dict[str, str]) -> Recipe:
    """Enough tokens for blocks to count beside the allocator's granularity."""
    return Recipe(small_models["llama"], batch_size=256, source_length=128, attention="flash")


def test_rungs_are_those_that_the_model_has(small_models: dict[str, str]) -> None:
    free = ("norm", "activation", "loss")
    llama = ladder(Recipe(small_models["llama"]))
    assert llama == [(), free, (*free, "qkv"), (*free, "qkv", "mlp"), (*free, "block")]
    assert ladder(Recipe(small_models["llama"]), offload=True) == [*llama, (*free, "block-on-host")]
    assert ladder(Recipe(small_models["llama"], attention="eager"))[2] == (*free, "mlp")
    assert ladder(Recipe(small_models["roberta"])) == [
        (),
        ("dropout",),
        ("dropout", "qkv"),
        ("dropout", "block"),
    ]


@pytest.mark.integration
def test_a_larger_budget_is_never_slower(recipe: Recipe) -> None:
    sizes = [safe(replace(recipe, recompute=rung)) for rung in ladder(recipe)]
    assert sizes == sorted(sizes, reverse=True)
    step = (sizes[0] - sizes[-1]) // 40
    plans = [plan(recipe, budget) for budget in range(sizes[-1], sizes[0] + step, step)]
    flops = [found.flops for found in plans]
    assert flops == sorted(flops, reverse=True)
    assert len(set(flops)) > len(sizes)  # rungs of some blocks, too
    assert all(found.needed <= found.budget for found in plans)
    with pytest.raises(RecipeError, match=r"a step of 256 × 128 tokens needs at least [0-9.]+ GiB"):
        plan(recipe, sizes[-1] - 1)


@pytest.mark.integration
def test_micro_batches_take_no_more_operations(recipe: Recipe) -> None:
    free = replace(recipe, recompute=ladder(recipe)[1])
    least, most = safe(replace(free, batch_size=1, accumulation=256)), safe(free)
    plans = [plan(recipe, budget, accumulate=True) for budget in (least, (least + most) // 2, most)]
    divided = [found.recipe.accumulation for found in plans]
    assert 256 >= divided[0] > divided[1] > divided[2] == 1
    assert all(found.recipe.batch_size * found.recipe.accumulation == 256 for found in plans)
    assert all(found.needed <= found.budget for found in plans)
    assert {found.flops for found in plans} == {plans[2].flops}
    assert f"tokens, {divided[0]} times a step: recompute norm, activation, loss;" in str(plans[0])


@pytest.mark.integration
def test_the_host_keeps_what_no_recomputation_can_save(recipe: Recipe) -> None:
    block, least = (safe(replace(recipe, recompute=rung)) for rung in ladder(recipe, offload=True)[-2:])
    plans = [plan(recipe, budget, offload=True) for budget in (least, (least + block) // 2, block)]
    assert "block-on-host" in plans[0].recipe.recompute
    assert 0 < plans[1].first["block-on-host"] < plans[1].depth
    assert plans[2].recipe.recompute[-1] == "block" and not plans[2].first
    assert {found.flops for found in plans} == {plans[2].flops}


@pytest.mark.integration
def test_what_was_chosen_stays_within_the_budget(recipe: Recipe) -> None:
    """Run every block, those with more recomputed and those with less, through the allocator."""
    rungs = [safe(replace(recipe, recompute=rung)) for rung in ladder(recipe, offload=True)]
    for high, low in [*pairwise(rungs[1:4]), *pairwise(rungs[4:])]:
        found = plan(recipe, (low + high) // 2, offload=True)
        assert found.first
        blocks = full(load_config(recipe.model), 1.0).adapted
        with fake_step(found.recipe, blocks) as (model, batch, optimizer):
            for kind, number in found.first.items():
                apply_recompute(model, [kind], range(number))
            reserved = allocator.replay(trace_step(model, batch, optimizer)).peak_reserved
        assert reserved + CONTEXT <= found.budget
        assert reserved + CONTEXT > 0.85 * found.needed


@pytest.mark.integration
def test_a_model_is_given_a_budget(small_models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(small_models["llama"])
    model = transformers.LlamaForCausalLM(config)
    adapters = LoraFaConfig(r=8, target_modules="all-linear")
    with pytest.raises(RecipeError, match="needs at least"):
        get_lora_fa_model(model, adapters, memory_budget=Budget("100MiB"))
    adapted = get_lora_fa_model(model, adapters, memory_budget=Budget("24GiB", batch_size=2, length=64))
    assert "recompute nothing" in capsys.readouterr().out
    assert not recomputing(adapted)
    assert adapted.memory_plan.budget == 24 * GIB


@pytest.mark.integration
def test_a_budget_is_a_size_alone(
    small_models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the configuration, as an argument, which counts if there are both, and on the command line."""
    config = load_config(small_models["llama"])
    need = safe(Recipe(small_models["llama"], dtype="fp32", adapter_dtype="fp32", recompute=FREE))
    size = f"{need / 2**20:.2f}MiB"
    named = LoraFaConfig(r=8, target_modules="all-linear", memory_budget=size)
    for options in ({}, {"memory_budget": "24GiB"}):
        adapted = get_lora_fa_model(transformers.LlamaForCausalLM(config), named, **options)
        chosen = "nothing" if options else "norm, activation, loss"
        assert f"1 × 512 tokens: recompute {chosen}" in capsys.readouterr().out
        assert bool(recomputing(adapted)) is not bool(options)
    adapted.save_pretrained(str(tmp_path))
    assert LoraFaConfig.from_pretrained(str(tmp_path)).memory_budget == size
    with pytest.raises(ValueError, match="memory_budget is for a model without adapters"):
        get_lora_fa_model(adapted, named, "other")
    main(
        [
            *["--model", small_models["llama"], "--batch", "4", "--dtype", "fp32", "--adapter-dtype", "fp32"],
            *["--budget", size, "--accumulate", "--to-host"],
        ]
    )
    assert "1 × 512 tokens, 4 times a step: recompute" in capsys.readouterr().err


def test_a_size_is_checked_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="'24' is not a size like 24GiB"):
        Budget("24")
    with pytest.raises(ValueError, match="'plenty' is not a size like 24GiB"):
        LoraFaConfig(memory_budget="plenty")
    with pytest.raises(SystemExit):
        main(["--model", "llama-7b", "--method", "lora", "--budget", "24GiB"])
    assert "a memory budget is for method lora-fa, not lora" in capsys.readouterr().err
