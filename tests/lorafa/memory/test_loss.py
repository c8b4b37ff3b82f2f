"""The losses of older versions of transformers."""

from dataclasses import replace

import pytest
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

from lorafa.memory.estimate import estimate
from lorafa.memory.loss import loss_of_version, shifted_logits_loss
from lorafa.memory.recipe import Recipe, RecipeError

BATCH, LENGTH, VOCABULARY = 4, 96, 4096


@pytest.mark.parametrize(
    ("version", "loss"),
    [
        ("4.39.3", "float-logits"),
        ("4.45.2", "float-logits"),
        ("4.46.0", "shifted-logits"),
        ("4.48.1", "shifted-logits"),
        ("4.49.0", "shifted-labels"),
        ("5.13.1", "shifted-labels"),
        ("4.44.0.dev0", "float-logits"),
    ],
)
def test_a_version_has_a_loss(version: str, loss: str) -> None:
    assert loss_of_version(version) == loss


def test_it_is_the_same_loss() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 9, 11), torch.randint(0, 11, (2, 9))
    labels[0, 3:5] = -100
    torch.testing.assert_close(
        shifted_logits_loss(logits, labels, 11), ForCausalLMLoss(logits, labels, vocab_size=11)
    )


def test_each_keeps_its_copies_of_the_logits(small_models: dict[str, str]) -> None:
    """At the end of forward a logit takes 2 + 4 + 4 bytes today; 4 more once; and at first none of the 2."""
    recipe = Recipe(
        f"{small_models['llama']}?vocab_size={VOCABULARY}", batch_size=BATCH, source_length=LENGTH
    )
    forward = {
        loss: estimate(replace(recipe, loss=loss)).by_phase["forward"]
        for loss in ("shifted-labels", "shifted-logits", "float-logits")
    }
    copied = 4 * BATCH * (LENGTH - 1) * VOCABULARY
    in_half = 2 * BATCH * LENGTH * VOCABULARY
    assert forward["shifted-logits"] - forward["shifted-labels"] == pytest.approx(copied, rel=0.02)
    assert forward["shifted-logits"] - forward["float-logits"] == pytest.approx(in_half, rel=0.02)


def test_a_loss_in_chunks_is_of_today() -> None:
    with pytest.raises(RecipeError, match="loss shifted-logits is another"):
        Recipe("llama-7b", recompute=("loss",), loss="shifted-logits")
