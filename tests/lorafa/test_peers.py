"""`python -m benchmarks.peers`: its methods, estimates beside the estimator's, and its loss beside the model's."""

import json

import pytest
import torch

from benchmarks import peers
from benchmarks.gpu.plan import TINY
from benchmarks.rungs import KINDS
from lorafa.memory.estimate import estimate
from lorafa.memory.geometry import BUILT_IN
from lorafa.memory.recipe import Recipe


def test_every_kind_of_recomputation_is_a_peer():
    assert {f"LoRA-FA, {kind}" for kind in KINDS} <= set(peers.PEERS)
    assert peers.PEERS["LoRA-FA"].exact and not peers.PEERS["PEFT VeLoRA, half"].exact


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("PEFT LoRA, half", {"method": "lora"}),
        ("LoRA-FA, free", {"method": "lora-fa", "recompute": ("norm", "activation", "dropout", "loss")}),
    ],
)
def test_estimates_are_the_estimators(name, recipe, tmp_path):
    path = tmp_path / "llama.json"
    path.write_text(
        json.dumps(BUILT_IN["llama-7b"] | TINY["llama"] | {"hidden_size": 64, "num_hidden_layers": 6})
    )
    common = {"rank": peers.RANK, "source_length": peers.TOKENS, "attention": "flash"}
    expected = estimate(Recipe(str(path), **common, **recipe))
    assert peers.estimate(peers.PEERS[name], str(path)).peak == pytest.approx(expected.peak, rel=0.01)


@pytest.mark.integration
def test_a_chunked_loss_is_the_models():
    model = peers.small_llama(torch.float32)
    ids = torch.randint(0, 4000, (2, 150))
    made, refused = peers.contenders(["PEFT LoRA, half", "PEFT LoRA, half, chunked loss"], model)
    assert not refused
    whole, chunked = (contender.model(input_ids=ids, labels=ids).loss for contender in made.values())
    torch.testing.assert_close(chunked, whole)
