"""Adapters as a run has them: MiSS beside LoRA-FA, how far a step of B goes, and an A that is drawn anew."""

import math

import pandas as pd
import pytest
from peft import PeftConfig

from pipeline import methods
from pipeline.evaluate import evaluate
from pipeline.models import encoder
from pipeline.results import records
from pipeline.tasks import training_sources
from pipeline.train import train

D, FFN, R = 32, 64, 8
WIDTH = (5 * D + FFN) / 6  # of the inputs, over q, k, v, o, up and down


def losses(record: records.Record) -> list[float]:
    return [entry.loss for entry in record.train_info.losses]


def test_miss_is_lora_fa_with_blocks_of_identities(compose, tmp_path):
    """PEFT's MiSS, with no scale and no A, learns what LoRA-FA learns with A = [I I ... I] and s = 1."""
    common = ("task=sst2", "lr=1e-2", f"rank={R}")
    miss = train(compose("method=miss", *common), tmp_path / "miss", [])
    shards = compose("method=lora-fa", "method.init_A=shards", f"alpha={R}", *common)
    ours = train(shards, tmp_path / "ours", [])
    assert losses(ours) == pytest.approx(losses(miss), rel=1e-5)
    assert losses(ours)[-1] != pytest.approx(losses(ours)[0], rel=1e-3)
    assert ours.train_info.trainable_parameters == miss.train_info.trainable_parameters
    scales = [record.train_info.update_scale for record in (ours, miss)]
    assert scales == pytest.approx([math.sqrt(WIDTH / R)] * 2)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method=lora-fa", "method.init_A=orthogonal"], 4),
        (["method=lora-fa", "method.init_A=orthogonal", "+method.rslora=true"], 4 * math.sqrt(R)),
        (["method=lora-fa", "method.init_A=ones", "alpha=8"], math.sqrt(WIDTH)),
        (["method=lora", "rank=64"], 2 / math.sqrt(3)),  # entries of variance 1 / (3 · in_features)
        (["method=full-ft"], 0),  # there is none
    ],
)
def test_how_far_a_step_of_b_moves_the_weights(compose, overrides, expected):
    run = compose(*overrides, "task=sst2")
    model = encoder.load(training_sources(run)["model"], 2, methods.base_dtype(run))
    scale = methods.update_scale(methods.apply(model, run)) or 0
    assert scale == pytest.approx(expected, rel=0.02 if "method=lora" in overrides else 1e-5)


def test_eva_starts_from_the_training_data(compose, tmp_path):
    run = compose("task=sst2", "method=lora-fa", "method.init_A=eva", "rank=4")
    info = train(run, tmp_path, []).train_info
    assert info.done and info.update_scale == pytest.approx(4, rel=1e-4)  # orthonormal rows


def test_a_run_that_draws_a_anew_is_scored_with_its_whole_chain(compose, tmp_path):
    overrides = ["task=sst2", "method=lora-fa", "rank=2", "+method.resample=2", "lr=1e-2"]
    run = compose(*overrides, "budget.evaluations=1")
    record = train(run, tmp_path, [])
    plain = train(compose(*overrides[:3]), tmp_path / "plain", [])
    for key in ("trainable_parameters", "saved_for_backward_bytes", "step_memory_bytes"):
        assert getattr(record.train_info, key) == getattr(plain.train_info, key), key
    assert PeftConfig.from_pretrained(str(tmp_path / records.SAVED_MODEL)).r == 3 * 2  # after steps 2 and 4
    weights = records.fingerprint_of_weights(tmp_path)
    kept = records.validated(tmp_path, weights)
    before = pd.read_parquet(kept)
    kept.unlink()
    evaluate(run, tmp_path, [])  # loads the chain
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / records.PREDICTIONS), before)
