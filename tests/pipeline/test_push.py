"""Model cards, and their way to the hub."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from pipeline import push
from pipeline.errors import RecordError
from pipeline.results import card, records

RECORD = {
    "run_info": {
        "config": {
            "method": {"name": "lora-fa", "label": "LoRA-FA", "kind": "lora-fa"},
            "model": {"name": "minilm"},
            "task": {"name": "sst2", "label": "SST-2", "kind": "classification"},
            **{"rank": 8, "alpha": 32.0, "seed": 1},
        },
        "config_hash": "abc",
        "git_commit": "0123456789abcdef",
        "git_dirty": False,
        "command": "python -m pipeline.train model=minilm",
    },
    "train_info": {
        **{
            "status": "done",
            "metric": "accuracy",
            "best": {"score": 0.857, "step": 40, "epoch": 1.0},
            "last": None,
        },
        **{"steps": 40, "trainable_parameters": 314498, "step_memory_bytes": 2**29},
    },
    "meta_info": {
        "packages": {"torch": "2.13.0"},
        "model": {
            **{"path": "/cache/models/some", "repository": "some/model", "commit": "abc"},
            "about": {"stand_in": "a small one", "packages": {"p": {"licence": "MIT"}}},
        },
        "data": {"path": "/cache/data", "repository": "some/data", "commit": None, "about": {}},
    },
}


@pytest.fixture
def run(tmp_path) -> Path:
    (tmp_path / records.NAME).write_text(json.dumps(RECORD))
    return tmp_path


def test_the_card_says_what_a_stranger_must_know(run):
    text = card.card(records.read(run))
    data = ModelCard(text).data
    assert (data.base_model, data.datasets, data.library_name) == ("some/model", ["some/data"], "peft")
    assert data.eval_results[0].metric_value == 0.857
    for words in (
        "Accuracy, % 85.7 on the validation data, seed 1",
        "0.50 GiB",
        "LoRA-FA, rank 8, α 32",
        "`python -m pipeline.train model=minilm`",
        "torch 2.13.0",
        "base model: MIT; data: as https://huggingface.co/some/data states",
        "> A stand-in: a small one.",
    ):
        assert words in text
    assert "/cache" not in text


def test_weights_and_card_are_uploaded_and_name_the_base_model_by_its_id(run, monkeypatch):
    model = run / "model"
    model.mkdir()
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "/cache/models/some", "r": 8}')
    (model / "adapter_model.safetensors").write_bytes(b"weights")
    (model / "validated-abc.parquet").write_bytes(b"predictions")
    sent = {}

    class Hub:
        def create_repo(self, repository, private, exist_ok):
            sent.update(repository=repository, private=private)

        def upload_folder(self, repo_id, folder_path, commit_message):
            sent.update({path.name: path.read_text() for path in Path(folder_path).iterdir()})
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push.push(run, "me/adapter") == "https://hub/commit"
    assert sent.keys() == {
        *("repository", "private", "README.md", "adapter_config.json", "adapter_model.safetensors")
    }
    assert json.loads(sent["adapter_config.json"]) == {"base_model_name_or_path": "some/model", "r": 8}
    assert sent["private"] and sent["README.md"] == card.card(records.read(run))
    assert "/cache" in (model / "adapter_config.json").read_text(), "the run's own folder stays as it is"


def test_a_run_without_weights_cannot_be_uploaded(run):
    with pytest.raises(RecordError, match="only a trained run can be uploaded"):
        push.push(run, "me/adapter")
