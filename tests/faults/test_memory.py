"""Memory that runs out for real: a step, or the scoring, asks the system for more than there is."""

import pytest
import torch

from pipeline.evaluate import evaluate
from pipeline.results import records
from pipeline.tasks import classification
from pipeline.train import train
from tests.pipeline.costs.steps import in_step


def greedy(*_arguments):
    torch.empty(2**47, dtype=torch.uint8)  # 128 TiB


@pytest.fixture
def run(compose_tiny):
    return compose_tiny("task=sst2")


def test_training_records_it_and_does_not_change_the_batch(run, tmp_path):
    with in_step(4, greedy):
        record = train(run, tmp_path, [])
    info = record.train_info
    assert (info.status, info.steps) == ("out_of_memory", 4)
    assert "can't allocate memory" in info.problem
    assert record.run_info.config["budget"]["batch_size"] == run.budget.batch_size == 8
    assert [entry.step for entry in info.evaluations] == [3]
    evaluation = evaluate(run, tmp_path, []).evaluation
    assert (evaluation["status"], evaluation["scores"]) == ("out_of_memory", {})


@pytest.mark.parametrize("place", [(classification, "evaluate"), (classification, "load_model")])
def test_scoring_records_it_and_the_run_is_kept(run, tmp_path, monkeypatch, place):
    trained = train(run, tmp_path, [])
    with monkeypatch.context() as patch:
        patch.setattr(*place, greedy)
        evaluation = evaluate(run, tmp_path, []).evaluation
    assert (evaluation["status"], evaluation["scores"]) == ("out_of_memory", {})
    assert "can't allocate memory" in evaluation["problem"]
    assert records.read(tmp_path) == trained
    assert evaluate(run, tmp_path, []).evaluation.status == "done", "scored anew when asked to"
