import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from pipeline.config.compose import compose_run
from pipeline.errors import ConfigError
from pipeline.results import records
from pipeline.train import train
from pipeline.training import fit, trainer

METHODS = ["full-ft", "prompt-tuning", "lora", "lora-qv", "lora-fa"]


def results(record: records.Record) -> dict:
    """What of a record must be the same for the same configuration on the same machine."""
    return {
        key: getattr(record.train_info, key)
        for key in ("status", "evaluations", "best", "losses", "steps", "tokens")
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_records(compose, tmp_path, method):
    run = compose(f"method={method}", "task=sst2")
    record = train(run, tmp_path, ["seed=0"])
    assert records.read(tmp_path) == record
    info = record.train_info
    assert info.status == "done"
    assert [entry.step for entry in info.evaluations] == [3, 6]
    assert info.best.score == max(entry.score for entry in info.evaluations)
    assert info.peak_memory_bytes["resident"] > 0 and info.tokens_per_second > 0
    assert record.run_info.config["method"]["name"] == method
    assert record.meta_info.packages["torch"] == torch.__version__
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("task", ["stsb", "mnli", "cola"])
def test_every_kind_of_task_trains(compose, tmp_path, task):
    info = train(compose(f"task={task}"), tmp_path, []).train_info
    splits = [value for key, value in info.best.others.items() if key.startswith("validation")]
    assert info.best.score == pytest.approx(sum(splits) / len(splits))
    assert len(splits) == (2 if task == "mnli" else 1)


@pytest.mark.integration
def test_trainable_parameters_follow_the_formulas(compose, tmp_path):
    d, ffn, layers, r, tokens = 32, 64, 2, 8, 5
    head = d * d + d + 2 * d + 2
    inputs, outputs = 5 * d + ffn, 5 * d + ffn  # q, k, v, o, up and down
    expected = {
        "prompt-tuning": tokens * d + head,
        "lora": layers * r * (inputs + outputs) + head,
        "lora-qv": layers * r * 4 * d + head,
        "lora-fa": layers * r * outputs + head,
    }
    for method, count in expected.items():
        info = train(compose(f"method={method}"), tmp_path / method, []).train_info
        assert info.trainable_parameters == count, method


@pytest.mark.integration
def test_same_seed_same_metrics_and_another_seed_others(compose, tmp_path):
    one, same, other = (
        results(train(compose("method=lora-fa", f"seed={seed}"), tmp_path / name, []))
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one == same
    assert one["losses"] != other["losses"]


@pytest.fixture
def without_dropout(monkeypatch):
    """Passes draw masks of their own, as other seeds would."""
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, X: X)
    monkeypatch.setattr(F, "dropout", lambda X, *_args, **_options: X)
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda *args, **options: attention(*args, **{**options, "dropout_p": 0.0}),
    )


@pytest.mark.parametrize(
    "words", [("task=sst2",), ("model=t5-mini", "task=wmt16-en-ro"), ("model=smollm2-135m", "task=alpaca")]
)
def test_micro_batches_have_the_losses_of_the_batch(compose, without_dropout, tmp_path, words):
    """Texts differ in length: the mean of the passes' means would be another loss."""
    words = (
        *words,
        "method=lora-fa",
        "model.frozen_dtype=float32",
        "budget.max_steps=3",
        "budget.evaluations=1",
    )
    whole = train(compose(*words), tmp_path / "whole", []).train_info
    parts = train(compose(*words, "budget.micro_batch=2"), tmp_path / "parts", []).train_info
    assert parts.steps == whole.steps == 3
    for one, other in zip(whole.losses, parts.losses, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert parts.saved_for_backward_bytes < whole.saved_for_backward_bytes / 2


@pytest.mark.parametrize("method", ["lora-fa", "full-ft"])
def test_checkpointing_has_the_losses_of_a_run_without(compose, tmp_path, method):
    """With dropout: what is computed again draws the masks of the first time."""
    words = (f"method={method}", "task=sst2", "model.frozen_dtype=float32")
    once = train(compose(*words), tmp_path / "once", []).train_info
    again = train(compose(*words, "trainer.checkpointing=true"), tmp_path / "again", []).train_info
    assert [one.loss for one in again.losses] == pytest.approx([one.loss for one in once.losses], rel=1e-6)
    assert again.best.score == once.best.score
    assert again.saved_for_backward_bytes < once.saved_for_backward_bytes / 2


def test_tf32_is_what_a_run_asks_for(compose, tmp_path):
    matmul = torch.backends.cuda.matmul
    for asked, precision in ((True, "tf32"), (False, "ieee")):  # one process may train both
        run = compose("task=sst2", f"trainer.tf32={str(asked).lower()}", "budget.max_steps=2")
        train(run, tmp_path / precision, [])
        assert matmul.fp32_precision == precision
        assert run.identity()["trainer"].get("tf32", False) == asked


@pytest.mark.integration
def test_a_budget_of_memory_decides_what_is_recomputed(compose, tmp_path, capsys, monkeypatch):
    """A model as small as this needs the same with and without: what it takes is made up."""
    monkeypatch.setattr("lorafa.memory.budget.safe", lambda recipe: 2**29 if recipe.recompute else 2**30)
    words = (
        "model=smollm2-135m",
        "task=alpaca",
        "method=lora-fa",
        "budget.max_steps=1",
        "budget.evaluations=1",
    )
    assert train(compose(*words, "method.memory_budget=600MiB"), tmp_path, []).train_info.steps == 1
    assert "8 × 128 tokens: recompute norm, activation, loss; 0.5 of 0.6 GiB" in capsys.readouterr().out
    saved = json.loads(Path(tmp_path, records.SAVED_MODEL, "lorafa_config.json").read_text())
    assert saved["recompute"] == ["activation", "loss", "norm"]
    with pytest.raises(ConfigError, match=r"method\.memory_budget: .* needs at least 0\.5 GiB"):
        train(compose(*words, "method.memory_budget=100MiB"), tmp_path / "little", [])


def test_a_micro_batch_divides_the_batch():
    with pytest.raises(ConfigError, match=r"budget\.micro_batch: must divide budget.batch_size"):
        compose_run(["budget.micro_batch=3"])


def test_a_finished_run_is_left_alone_and_a_changed_one_is_not(compose, tmp_path, capsys):
    first = train(compose(), tmp_path, [])
    assert train(compose(), tmp_path, []) == first
    assert "already done" in capsys.readouterr().out
    changed = train(compose("alpha=16"), tmp_path, [])
    assert changed.run_info.config_hash != first.run_info.config_hash


def test_frozen_weights_do_not_move_and_a_is_saved(compose, tmp_path, tiny_mirror):
    train(compose("method=lora-fa"), tmp_path, [])
    saved = load_file(tmp_path / "model/adapter_model.safetensors")
    a = {name: value for name, value in saved.items() if "lora_A" in name}
    b = {name: value for name, value in saved.items() if "lora_B" in name}
    assert len(a) == len(b) == 12
    assert all(value.abs().sum() > 0 for value in b.values())
    again = fit.fit(compose("method=lora-fa", "lr=1e-9"), tmp_path / "again", "hash")
    assert again.info.status == "done"
    untrained = load_file(tmp_path / "again/model/adapter_model.safetensors")
    for name, value in a.items():
        torch.testing.assert_close(untrained[name], value, rtol=0, atol=0)
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_mirror / "models/lorafa/all-MiniLM-L6-v2-roberta", num_labels=2
    )
    PeftModel.from_pretrained(base, str(tmp_path / "model"))


def test_trained_weights_and_the_head_are_float32_over_a_bfloat16_encoder(compose, tmp_path):
    train(compose("method=lora"), tmp_path, [])
    saved = load_file(tmp_path / "model/adapter_model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}


def test_divergence_is_a_result(compose, tmp_path):
    info = train(compose("method=full-ft", "lr=1e30", "trainer.warmup_ratio=0"), tmp_path, []).train_info
    assert info.status == "diverged"
    assert info.problem.startswith("loss not finite at step ")
    assert info.best is None
    assert "NaN" not in (tmp_path / "metrics.json").read_text()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_a_result(compose, tmp_path, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(trainer.Seq2SeqTrainer, "training_step", full)
    info = train(compose(), tmp_path, []).train_info
    assert info.status == "out_of_memory"
    assert "memory" in info.problem


def test_out_of_memory_before_the_first_step_is_a_result(compose, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.Seq2SeqTrainer, "__init__", full)
    info = train(compose(), tmp_path, []).train_info
    assert (info.status, info.steps, info.best) == ("out_of_memory", 0, None)


def test_other_errors_are_not_swallowed(compose, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.Seq2SeqTrainer, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        train(compose(), tmp_path, [])
    assert not (tmp_path / "metrics.json").exists()


def test_a_run_that_ended_before_its_record_was_written_is_not_trained_on(compose, tmp_path, monkeypatch):
    run = compose("task=sst2")
    whole = fit.fit(run, tmp_path / "whole", "hash").info
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_check_frozen", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit.fit(run, tmp_path, "hash")
    ended = fit.fit(run, tmp_path, "hash").info
    assert ended.resumed_from_step == ended.steps == 6
    for key in ("losses", "evaluations", "best", "tokens", "step_memory_bytes"):
        assert getattr(ended, key) == getattr(whole, key), key
    weights = [
        load_file(folder / "model/adapter_model.safetensors") for folder in (tmp_path, tmp_path / "whole")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.integration
@pytest.mark.parametrize("method", [pytest.param("full-ft", marks=pytest.mark.slow), "lora-fa"])
def test_a_killed_run_goes_on_and_ends_with_the_same_metrics(tiny_overrides, tmp_path, method):
    overrides = [
        *(override for override in tiny_overrides if not override.startswith("budget.max_steps")),
        "budget.max_steps=40",
        f"method={method}",
        "task=sst2",
    ]
    run, _ = compose_run(overrides)
    command = [sys.executable, "-m", "pipeline.train", *overrides, f"profile.results={tmp_path}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (states := list(tmp_path.rglob("checkpoint-20/sha256.json"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    directory = states[0].parents[3]
    assert not (directory / "metrics.json").exists()
    resumed = train(run, directory, [])
    assert resumed.train_info.resumed_from_step == 20
    assert results(resumed) == results(train(run, tmp_path / "whole", []))
