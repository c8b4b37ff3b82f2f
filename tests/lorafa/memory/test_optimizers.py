"""Optimizers as far as memory goes: the bytes that each keeps for an element."""

from dataclasses import replace

import pytest
import torch

from lorafa.memory.estimate import Estimate, estimate
from lorafa.memory.optimizers import InPlace, new_optimizer
from lorafa.memory.recipe import Optimizer, Recipe


def kept_bytes(name: Optimizer, count: int, dtype: torch.dtype = torch.float32) -> int:
    """What a step of the optimizer leaves behind for a matrix of so many elements."""
    parameter = torch.nn.Parameter(torch.zeros(2, count // 2, dtype=dtype))
    optimizer = new_optimizer([parameter], name, multi_tensor=False)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [v for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor) and v.ndim]
    return sum(state.nbytes for state in states)


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [
        ("adamw", 8 * 2**18),
        ("adamw-fused", 8 * 2**18),
        ("adamw-8bit", 2 * 2**18 + 8 * 2**10),  # a byte for each state, and a float32 for 256 of them
        ("adamw-paged", 0),
        ("adamw-8bit-paged", 8 * 2**10),
        ("sgd", 0),
        ("muon", 4 * 2**18),
    ],
)
def test_states(name: Optimizer, nbytes: int) -> None:
    assert kept_bytes(name, 2**18) == nbytes


def test_bitsandbytes_keeps_small_tensors_in_32_bits_on_the_device() -> None:
    assert kept_bytes("adamw-8bit", 4094) == kept_bytes("adamw-paged", 4094, torch.bfloat16) == 8 * 4094


def test_fused_adamw_keeps_what_pytorchs_keeps_and_makes_nothing_else() -> None:
    assert kept_bytes("adamw-fused", 64, torch.bfloat16) == kept_bytes("adamw", 64, torch.bfloat16)
    assert isinstance(new_optimizer([torch.nn.Parameter(torch.zeros(2))], "adamw-fused", True), InPlace)


@pytest.fixture(scope="module")
def plain(small_models: dict[str, str]) -> Recipe:
    return Recipe(small_models["llama"], "full-ft", batch_size=2, source_length=8, dtype="fp32")


@pytest.fixture(scope="module")
def result(plain: Recipe) -> Estimate:
    return estimate(plain)


def test_a_fused_optimizer_has_no_temporaries(plain: Recipe, result: Estimate) -> None:
    fused = estimate(replace(plain, optimizer="adamw-fused"))
    assert fused.by_phase["optimizer"] < result.by_phase["optimizer"]
    assert fused.by_phase["forward"] == result.by_phase["forward"]


def test_muon_leaves_vectors_to_adamw(plain: Recipe, result: Estimate) -> None:
    muon = estimate(replace(plain, optimizer="muon"))
    assert 0.5 < muon.breakdown["optimizer"] / result.breakdown["optimizer"] < 0.6


def test_gradients_of_several_batches_are_there_during_forward(plain: Recipe, result: Estimate) -> None:
    accumulated = estimate(replace(plain, accumulation=4))
    more = accumulated.by_phase["forward"] - result.by_phase["forward"]
    assert more == pytest.approx(result.breakdown["weights"], rel=0.02)  # which has buffers, too
    assert estimate(replace(plain, accumulation=8)).peak == accumulated.peak


def test_packed_sequences_are_one_row(plain: Recipe) -> None:
    packed = estimate(replace(plain, dtype="bf16", attention="flash", packed=True))
    assert (
        packed.peak
        == estimate(replace(plain, dtype="bf16", attention="flash", batch_size=1, source_length=16)).peak
    )


def test_ranks_share_states_gradients_and_weights(plain: Recipe, result: Estimate) -> None:
    second, third = (estimate(replace(plain, shards=4, sharding=stage)) for stage in ("zero-2", "zero-3"))
    whole = result.breakdown
    assert second.breakdown["optimizer"] == pytest.approx(whole["optimizer"] / 4, rel=0.1)
    assert second.breakdown["weights"] == whole["weights"]
    assert third.breakdown["weights"] < whole["weights"]
    assert third.peak < second.peak < result.peak


def test_the_host_keeps_what_is_offloaded(plain: Recipe, result: Estimate) -> None:
    states, everything = (estimate(replace(plain, offload=what)) for what in ("optimizer", "all"))
    assert states.breakdown["optimizer"] < 0.1 * result.breakdown["optimizer"]
    assert everything.breakdown["weights"] < states.breakdown["weights"] == result.breakdown["weights"]
