"""The estimator against real training steps on small real models."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from lorafa.memory.adapt import adapt
from lorafa.memory.batch import batch_of
from lorafa.memory.estimate import at_full_depth, estimate
from lorafa.memory.models import HEADS, head_of, load_config
from lorafa.memory.recipe import DTYPES, Recipe
from lorafa.memory.semantics import device_semantics
from lorafa.memory.step import optimizer_of, trace_step
from lorafa.memory.tracker import CUDA_TEMPORARIES, StorageTracker
from lorafa.targets import block_stacks

FAMILIES = ["roberta", "t5", "llama"]
IN_TURN = [
    pytest.param(family, marks=pytest.mark.integration) if family == "t5" else family for family in FAMILIES
]

METHODS = ["full-ft", "lora", "lora-frozen-a", "lora-fa"]


def small_recipe(model: str, method: str, **changes: object) -> Recipe:
    settings = {
        "rank": 4,
        "batch_size": 4,
        "source_length": 96,
        "target_length": 48,
        "dtype": "fp32",
        "attention": "eager",
        "adapter_dropout": 0.1,
        "device": "cpu",
    }
    return Recipe(model, method, **settings | changes)  # type: ignore[arg-type]


def predicted_peak(recipe: Recipe) -> int:
    """Peak without rounding, which is CUDA's; the CPU allocates what is asked for."""
    return at_full_depth(recipe).trace.timeline(granularity=1).peak


def real_model(recipe: Recipe) -> nn.Module:
    """The recipe's model with real, random weights, at full depth."""
    config = load_config(recipe.model)
    config.use_cache = False
    attention = "eager" if recipe.attention == "eager" else "sdpa"
    model = HEADS[head_of(config)].from_config(
        config, dtype=DTYPES[recipe.dtype], attn_implementation=attention
    )
    adapted: dict[str, Sequence[bool]] = {s: [True] * len(b) for s, b in block_stacks(model).items()}
    return adapt(model, recipe, adapted)


def tracked_peak(recipe: Recipe) -> int:
    """Peak of the second of two real steps, by the tracker."""
    model = real_model(recipe)
    with device_semantics(recipe.device, None):
        batch = batch_of(load_config(recipe.model), recipe)
        optimizer = optimizer_of(model, recipe)
        trace = trace_step(model, batch, optimizer, first_step=True, device=recipe.device)
    return trace.timeline(granularity=1).peak


def profiled_peak(recipe: Recipe) -> int:
    """Peak of the second of two real steps: what exists before it, and what PyTorch's profiler sees allocated."""
    batch = batch_of(load_config(recipe.model), recipe)
    model = real_model(recipe)
    optimizer = optimizer_of(model, recipe)
    training_step(model, batch, optimizer)
    states = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    existing = [*model.parameters(), *model.buffers(), *states, *batch.values()]
    current = sum({tensor.data_ptr(): tensor.nbytes for tensor in existing}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        training_step(model, batch, optimizer)
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    peak = current
    for event in events:
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    return peak


def training_step(model: nn.Module, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", IN_TURN)
def test_agrees_with_a_tracked_real_step(small_models: dict[str, str], family: str, method: str) -> None:
    recipe = small_recipe(small_models[family], method)
    assert predicted_peak(recipe) == pytest.approx(tracked_peak(recipe), rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"recompute": ("block",)},
        pytest.param({"checkpointing": True}, marks=pytest.mark.integration),
    ],
)
def test_blocks_computed_again_agree_with_a_tracked_real_step(
    small_models: dict[str, str], changes: dict[str, object]
) -> None:
    kept = small_recipe(small_models["llama"], "lora-fa")
    recipe = replace(kept, **changes)  # type: ignore[arg-type]
    assert predicted_peak(recipe) == pytest.approx(tracked_peak(recipe), rel=0.01)
    assert predicted_peak(recipe) < predicted_peak(kept) / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.integration
def test_agrees_with_the_profiler(small_models: dict[str, str], family: str, method: str) -> None:
    recipe = small_recipe(small_models[family], method)
    assert predicted_peak(recipe) == pytest.approx(profiled_peak(recipe), rel=0.04)


@pytest.mark.integration
def test_cuda_semantics_agree_with_a_real_step(small_models: dict[str, str]) -> None:
    recipe = small_recipe(small_models["roberta"], "lora", device="cuda")
    assert predicted_peak(recipe) == pytest.approx(tracked_peak(recipe), rel=0.01)


def test_without_padding_there_is_no_mask(small_models: dict[str, str]) -> None:
    """transformers reads from real positions that no sequences are packed; it makes a mask of fake ones by itself."""
    recipe = small_recipe(small_models["llama"], "lora-fa", attention="flash")
    assert predicted_peak(recipe) == tracked_peak(recipe)
    made = [
        storage.op for storage in at_full_depth(replace(recipe, device="cuda", dtype="bf16")).trace.storages
    ]
    assert any("flash_attention" in op for op in made) and not any("efficient_attention" in op for op in made)


def test_grouped_queries_have_fewer_keys_unless_they_are_repeated(small_models: dict[str, str]) -> None:
    llama = f"{small_models['llama']}?num_key_value_heads=2"  # of four
    recipe = Recipe(llama, "lora", batch_size=2, source_length=96, attention="flash")
    grouped, repeated = estimate(recipe), estimate(replace(recipe, repeat_heads=True))
    config = load_config(llama)
    more = (
        2 * 2 * (2 * 96) * config.hidden_size // 2 * config.num_hidden_layers
    )  # keys and values, two bytes each
    assert repeated.by_phase["forward"] - grouped.by_phase["forward"] == pytest.approx(more, rel=0.05)


def test_grouped_queries_in_float32_have_no_fused_kernel(small_models: dict[str, str]) -> None:
    llama = f"{small_models['llama']}?num_key_value_heads=2"
    recipe = Recipe(llama, "lora", source_length=96, dtype="fp32", attention="flash")
    made = {storage.op for storage in at_full_depth(recipe).trace.storages}
    assert any("softmax" in op for op in made) and not any("efficient_attention" in op for op in made)


def test_outputs_that_a_loop_keeps_are_there_in_backward(small_models: dict[str, str]) -> None:
    recipe = Recipe(f"{small_models['llama']}?vocab_size=4096", batch_size=4, source_length=96)
    dropped, kept, replaced = (
        estimate(replace(recipe, outputs_until=until)) for until in ("loss", "backward", "next")
    )
    logits = 2 * 4 * 96 * 4096
    for held in (kept, replaced):
        assert held.by_phase["backward"] - dropped.by_phase["backward"] == pytest.approx(logits, rel=1e-3)
    assert replaced.by_phase["optimizer"] - kept.by_phase["optimizer"] == pytest.approx(logits, rel=1e-3)


def test_what_a_kernel_allocates_is_there_while_it_runs() -> None:
    """CUDA's softmax multiplies gradient and output before it goes backward."""
    x = torch.zeros(8, 512, requires_grad=True)

    def peak(tracker: StorageTracker) -> int:
        with tracker:
            tracker.enter("forward")
            y = x.softmax(-1)
            gradient = torch.ones_like(y)
            tracker.enter("backward")
            torch.autograd.grad(y, x, gradient)
        return tracker.trace.timeline().peak

    assert peak(StorageTracker(CUDA_TEMPORARIES)) - peak(StorageTracker()) == x.nbytes
