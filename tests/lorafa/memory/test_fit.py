"""What fits: confirmed by running the full depth through an allocator of that capacity."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from lorafa.memory.__main__ import device_bytes, main
from lorafa.memory.allocator import OutOfMemoryError, replay
from lorafa.memory.estimate import at_full_depth
from lorafa.memory.fit import _largest, cheapest_change, fit, largest_batch, needed, safe
from lorafa.memory.margin import CONTEXT, MARGIN
from lorafa.memory.recipe import Recipe, RecipeError

GIB = 2**30


def runs_on(recipe: Recipe, device_memory: int) -> bool:
    """Run every block, and replay the step on a device that has no more memory."""
    trace = at_full_depth(recipe, shortcut=False).trace
    try:
        return (1 + MARGIN) * replay(trace).peak_reserved + CONTEXT <= device_memory
    except OutOfMemoryError:
        return False


@pytest.mark.integration
def test_llama_on_24_gib() -> None:
    recipe = Recipe("llama-7b", "lora-fa", rank=64, source_length=512, batch_size=1)
    largest = largest_batch(recipe, 24 * GIB)
    assert largest > 1
    assert runs_on(replace(recipe, batch_size=largest), 24 * GIB)
    assert not runs_on(replace(recipe, batch_size=largest + 1), 24 * GIB)


@pytest.mark.integration
def test_fit_says_what_the_estimator_says(small_models: dict[str, str]) -> None:
    recipe = Recipe(small_models["roberta"], "lora", batch_size=2, source_length=64)
    device_memory = safe(recipe) + 2**24
    found = fit(recipe, device_memory)
    assert found.fits
    assert found.safe - CONTEXT == pytest.approx((1 + MARGIN) * (found.needed - CONTEXT))
    assert safe(replace(recipe, batch_size=found.largest_batch)) <= device_memory
    assert safe(replace(recipe, batch_size=found.largest_batch + 1)) > device_memory
    assert found.largest_length in (64, 128)
    assert not fit(recipe, needed(recipe)).fits  # only perhaps


@pytest.mark.slow
def test_a_change_is_found_and_fits(small_models: dict[str, str]) -> None:
    recipe = Recipe(small_models["llama"], "lora", batch_size=64, source_length=128, attention="eager")
    tight = safe(recipe) - 2**21
    change = cheapest_change(recipe, tight)
    assert change is not None
    assert change.needed < change.safe <= tight
    assert cheapest_change(recipe, CONTEXT) is None


@pytest.mark.parametrize("start", [1, 40, 3000])
@pytest.mark.parametrize(
    "need",
    [
        lambda n: 10 * n,
        lambda n: max(4000, 7 * n + n * n // 90),
        lambda n: 10**6 + n,
        lambda n: 50 * (n > 600),
    ],
    ids=["affine", "convex", "too large", "steps"],
)
def test_the_largest_step_is_found_in_a_few_tries(need: Callable[[int], int], start: int) -> None:
    for memory in (49, 12345):
        tried: dict[int, int] = {}
        found = _largest(need, memory, 5000, start, tried)
        assert found == sum(need(n) <= memory for n in range(1, 5001))
        assert len(tried) <= 30
        assert _largest(need, 2 * memory, 5000, start, tried) >= found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank must be at least 1"),
        ({"method": "dora"}, "method must be one of"),
        ({"method": "lora", "recompute": ("norm",)}, "recompute belongs to"),
        ({"recompute": ("everything",)}, "recompute must be of"),
        ({"adapter_dropout": 1.0}, "adapter_dropout must be in"),
        ({"layer_fraction": 0.0}, "layer_fraction must be in"),
        ({"method": "full-ft", "quantization": "nf4"}, "cannot be trained"),
        ({"method": "full-ft", "shards": 2}, "choose zero-2 or zero-3"),
        ({"optimizer": "lion"}, "optimizer must be one of adamw, adamw-fused"),
        ({"accumulation": 0}, "accumulation must be at least 1"),
        ({"packed": True}, "packed rows need attention flash"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe("llama-7b", **changes)


def test_sizes() -> None:
    assert device_bytes("24GiB") == 24 * GIB
    assert device_bytes("80 GB") == 80 * 10**9


@pytest.mark.slow
def test_command_line_as_json(small_models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--model",
        small_models["roberta"],
        "--rank",
        "4",
        "--batch",
        "2",
        "--length",
        "64",
        "--json",
    ]
    assert main([*arguments, "--device-memory", "730MiB"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["reserved"] >= printed["peak"] > 0
    assert sum(printed["breakdown"].values()) == printed["reserved"]
    assert printed["methods"]["lora"]["largest_batch"] >= 1


def test_command_line_as_a_table(small_models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", small_models["t5"], "--length", "32"]) == 0
    printed = capsys.readouterr().out
    assert "activations" in printed
    assert "reserved" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "absent.json"],
        ["--model", "llama-7b", "--rank", "0"],
        ["--model", "llama-7b", "--device-memory", "a lot"],
        ["--model", "llama-7b", "--target-modules", "nonsense"],
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m lorafa.memory: error: ")
