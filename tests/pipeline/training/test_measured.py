"""What training measures of itself: time without evaluation, and the memory that a step keeps."""

import json

import pytest

from pipeline.results.records import TrainInfo
from pipeline.train import train
from pipeline.training import fit
from tests.pipeline.costs.steps import in_step, kill


def seconds(info: TrainInfo) -> dict[int, float]:
    return {entry.step: entry.seconds for entry in info.training_seconds}


def test_every_loss_and_evaluation_has_its_time(compose, tmp_path):
    info = train(compose("task=sst2"), tmp_path, []).train_info
    times = seconds(info)
    assert {entry.step for entry in (*info.losses, *info.evaluations)} <= set(times)
    assert list(times.values()) == sorted(times.values()) and 0 < times[6] < info.wall_time_seconds


@pytest.mark.parametrize("method", ["full-ft", "lora", "lora-fa"])
def test_the_memory_of_a_step_is_the_sum_of_its_parts(compose, tmp_path, method):
    run = compose(f"method={method}", "task=sst2", "model.frozen_dtype=float32")
    info = train(run, tmp_path, []).train_info
    trained = 4 * info.trainable_parameters
    weights = 4 * info.total_parameters
    adam = 2 * trained
    counters = info.step_memory_bytes - info.saved_for_backward_bytes - weights - trained - adam
    assert 0 < counters < 4 * 200, "one float a parameter tensor"


def test_lora_fa_saves_less_than_lora_and_lora_less_than_full_parameters(compose, tmp_path):
    saved = {
        method: train(compose(f"method={method}", "task=sst2"), tmp_path / method, []).train_info
        for method in ("full-ft", "lora", "lora-fa")
    }
    assert saved["lora-fa"].saved_for_backward_bytes < saved["lora"].saved_for_backward_bytes
    assert saved["lora-fa"].step_memory_bytes < saved["lora"].step_memory_bytes
    assert saved["lora"].step_memory_bytes < saved["full-ft"].step_memory_bytes


def test_a_resumed_run_goes_on_counting(compose, tmp_path):
    with in_step(4, kill), pytest.raises(KeyboardInterrupt):
        train(compose("task=sst2"), tmp_path, [])
    (path,) = tmp_path.rglob("checkpoint-3/trainer_state.json")
    history = json.loads(path.read_text())["log_history"]
    info = train(compose("task=sst2"), tmp_path, []).train_info
    assert info.resumed_from_step == 3
    assert seconds(info)[3] == history[-1]["seconds"] < seconds(info)[4]
    assert info.saved_for_backward_bytes == history[0]["saved_for_backward_bytes"]


def test_metering_changes_no_result(compose, tmp_path, monkeypatch):
    run = compose("method=lora", "task=sst2", "method.dropout=0.1")
    metered = train(run, tmp_path / "metered", []).train_info
    monkeypatch.setattr(fit.WatchfulTrainer, "_saved_for_backward", 0)
    plain = train(run, tmp_path / "plain", []).train_info
    assert metered.losses == plain.losses
    assert metered.evaluations == plain.evaluations
