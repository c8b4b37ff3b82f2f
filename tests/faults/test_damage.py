"""A checkpoint whose bytes have changed: the run goes on from the one before, and ends as if nothing had happened."""

import os

import pytest

from pipeline.training import fit
from tests.pipeline.costs.steps import in_step, kill

KEYS = ("status", "losses", "evaluations", "best", "steps", "tokens")


@pytest.mark.parametrize(
    ("file", "cut"),
    [
        ("optimizer.pt", True),
        ("adapter_model.safetensors", False),
        ("trainer_state.json", True),
        ("rng_state.pth", False),
    ],
)
def test_the_checkpoint_before_is_taken(compose_tiny, tmp_path, capsys, file, cut):
    run = compose_tiny("task=sst2", "profile.budgets.minilm.evaluations=3")
    whole = fit.fit(run, tmp_path / "whole", "hash").info
    with in_step(5, kill), pytest.raises(KeyboardInterrupt):
        fit.fit(run, tmp_path / "run", "hash")
    newest = tmp_path / "run/checkpoints/hash/checkpoint-4"
    damaged = newest / file
    if cut:
        os.truncate(damaged, damaged.stat().st_size // 2)
    else:
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
    resumed = fit.fit(run, tmp_path / "run", "hash").info
    assert f"{newest}: passed over, has a damaged {file}" in capsys.readouterr().err
    assert resumed["resumed_from_step"] == 2
    assert {key: resumed[key] for key in KEYS} == {key: whole[key] for key in KEYS}
