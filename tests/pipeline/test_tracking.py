import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.evaluate import evaluate
from pipeline.results import records
from pipeline.tracking import live, runs
from pipeline.train import train
from tests.pipeline.costs.steps import in_step, kill

SECRETS = {"WANDB_API_KEY": "0123456789abcdef" * 3, "HF_TOKEN": "hf_ABCDEFGHIJKLMNOP"}


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "results"))


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def tracked_run(compose, results):
    """A run of the tiny mirror with its directory; what is tracked is in `results`."""

    def make(tracking: str, *overrides: str):
        run = compose(f"profile.tracking={tracking}", f"profile.results={results}", *overrides)
        name = f"model={run.model.name}/method={run.method.name}/task={run.task.name}/lr={run.lr}"
        return run, results / "runs" / name / f"seed={run.seed}"

    return make


def read_back(folder: Path) -> SimpleNamespace:
    """Reads a run from W&B's own files."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    log = subprocess.run([*command, str(folder)], check=True, capture_output=True, text=True)
    entries = [json.loads(line) for line in log.stdout.splitlines()]
    summary = subprocess.run([*command, "--summary", str(folder)], check=True, capture_output=True, text=True)
    history: dict[int, dict] = {}
    for entry in entries:
        if entry["type"] == "history":
            item = entry["history"]["item"]
            history.setdefault(item["_step"], {}).update(item)
    return SimpleNamespace(
        run=next(entry["run"] for entry in entries if entry["type"] == "run"),
        history=[history[step] for step in sorted(history)],
        artifacts=[entry["artifact"] for entry in entries if entry["type"] == "artifact"],
        **json.loads(summary.stdout),
    )


def only_run(results: Path, job_type: str = "train") -> SimpleNamespace:
    (folder,) = results.glob(f"wandb/*run-*-{job_type}-*")
    return read_back(folder)


def metrics(found: SimpleNamespace) -> list[dict]:
    """The history without what depends on the clock or the machine."""
    ignored = re.compile(r"train/seconds|.*_per_second|memory/|_")
    return [{key: value for key, value in row.items() if not ignored.match(key)} for row in found.history]


@pytest.mark.integration
def test_a_record_becomes_a_run(tracked_run, results):
    run, directory = tracked_run("after", "method=lora", "task=mnli", "budget.evaluations=2")
    record = train(run, directory, [])
    assert not (results / "wandb").exists()
    job = runs.Job(directory, "train", record.run_info.config_hash)
    assert not job.is_written(results)
    runs.write(job, results, tags=["table2"])
    assert job.is_written(results)

    found = only_run(results)
    group = f"model=minilm/method=lora/task=mnli/lr={run.lr}"
    assert found.run["run_group"] == group
    assert found.run["display_name"] == f"minilm lora mnli lr {run.lr} seed 0"
    assert (found.run["run_id"], found.run["job_type"]) == (job.id, "train")
    assert job.id.startswith(f"minilm-lora-mnli-{run.lr}-0-train-")
    assert found.run["tags"] == ["mini", "minilm", "lora", "mnli", "table2"]
    config, info = found.run["config"]["update"], record.train_info
    assert config["model"]["name"] == "minilm" and config["budget"]["max_steps"] == 6
    assert (config["lr"], config["seed"], config["contender"]) == (run.lr, 0, "MiniLM (Lo)")
    assert [row["train/loss"] for row in found.history] == [entry.loss for entry in info.losses]
    assert [row["step"] for row in found.history] == [1, 2, 3, 4, 5, 6]
    assert found.history[-1]["epoch"] == pytest.approx(info.last.epoch)
    assert found.history[2]["validation/matched"] == info.evaluations[0].others["validation_matched"]
    assert all(row["train/examples_per_second"] > 0 for row in found.history)
    summary = found.summary
    assert summary["validation/score"]["max"] == summary["best/score"] == info.best.score
    assert summary["memory/saved_for_backward_gib"] == info.saved_for_backward_bytes / 2**30
    assert summary["memory/peak_resident_gib"] == info.peak_memory_bytes["resident"] / 2**30
    assert summary["evaluations"]["nrows"] == 2
    adapter = next(artifact for artifact in found.artifacts if artifact["type"] == "adapter")
    lineage = json.loads(adapter["metadata"])
    assert lineage["base_model"]["repository"] == run.model.repository
    assert lineage["data"]["repository"] == run.task.repository


@pytest.mark.integration
def test_a_changed_record_is_written_anew(tracked_run, results):
    run, directory = tracked_run("after")
    record = train(run, directory, [])
    job = runs.Job(directory, "train", record.run_info.config_hash)
    runs.write(job, results)
    record.train_info.status = "diverged"
    records.write(job.directory, record)
    assert not job.is_written(results)
    runs.write(job, results)
    assert only_run(results).summary["status"] == "diverged"


@pytest.mark.integration
def test_live_and_afterwards_are_the_same_and_training_does_not_notice(tracked_run, results, tmp_path):
    run, directory = tracked_run("live", "budget.evaluations=2")
    record = train(run, directory, [])
    logged = only_run(results)
    job = runs.Job(directory, "train", record.run_info.config_hash)
    assert job.is_written(results)
    runs.write(job, results)
    assert metrics(logged) == metrics(only_run(results))
    assert logged.history[0]["memory/peak_resident_gib"] > 0
    untracked = train(tracked_run("off", "budget.evaluations=2")[0], tmp_path / "off/runs/seed=0", [])
    for key in ("losses", "evaluations", "best"):
        assert getattr(untracked.train_info, key) == getattr(record.train_info, key)
    assert untracked.run_info.config_hash == record.run_info.config_hash


@pytest.mark.integration
def test_an_interrupted_run_goes_on_as_the_same_run(tracked_run, results):
    run, directory = tracked_run("live", "budget.evaluations=2")
    with in_step(4, kill), pytest.raises(KeyboardInterrupt):
        train(run, directory, [])
    first = only_run(results)
    assert (len(first.history), first.exit_code) == (4, 1)
    record = train(run, directory, [])
    second = only_run(results)
    assert second.run["run_id"] == first.run["run_id"]
    assert [row["train/loss"] for row in second.history] == [entry.loss for entry in record.train_info.losses]
    assert second.summary["resumed_from_step"] == 3


@pytest.mark.integration
def test_runs_that_share_a_process_do_not_share_a_run(tracked_run, results):
    import wandb

    for seed in (0, 1):
        run, directory = tracked_run("live", f"seed={seed}")
        train(run, directory, [])
        assert wandb.run is None
    found = [read_back(folder) for folder in sorted(results.glob("wandb/offline-run-*"))]
    assert [entry.run["config"]["update"]["seed"] for entry in found] == [0, 1]
    assert len({entry.run["run_group"] for entry in found}) == 1
    assert all(len(entry.history) == 6 for entry in found)


@pytest.mark.integration
def test_an_evaluation_is_a_run_of_the_same_group(tracked_run, results):
    run, directory = tracked_run("live", "task=stsb")
    train(run, directory, [])
    evaluation = evaluate(run, directory, [])
    found = only_run(results, "evaluate")
    assert found.run["job_type"] == "evaluate"
    assert found.run["run_group"] == only_run(results).run["run_group"]
    assert found.summary["score/stsb"] == evaluation.evaluation.scores["score"]


def test_a_run_that_diverged_is_logged_as_such(tracked_run, results):
    run, directory = tracked_run("live", "method=full-ft", "lr=1e30", "trainer.warmup_ratio=0")
    train(run, directory, [])
    assert only_run(results).summary["status"] == "diverged"


@pytest.mark.parametrize("broken", ["start", "log_history", "conclude"])
def test_a_failure_is_one_warning_and_training_goes_on(tracked_run, monkeypatch, capfd, broken):
    def fail(*args, **kwargs):
        raise OSError("nobody\nthere")

    monkeypatch.setattr(runs, broken, fail)
    run, directory = tracked_run("live")
    assert train(run, directory, []).train_info.status == "done"
    warnings = [line for line in capfd.readouterr().err.splitlines() if "W&B" in line]
    assert len(warnings) == 1 and "warning: W&B: OSError: nobody; " in warnings[0]


def test_a_key_that_w_and_b_does_not_accept_means_offline(tracked_run, results, monkeypatch, capfd):
    import wandb

    wandb.teardown()  # or it would remember with which account, or without one, it was asked first
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert live.mode(results) == "offline"
    assert capfd.readouterr().err.count("\n") == 1


def test_tokens_get_nowhere(tracked_run, results, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    run, directory = tracked_run("live")
    train(run, directory, [])
    evaluate(run, directory, [])
    written = [path.read_bytes() for path in results.rglob("*") if path.is_file()]
    assert len(written) > 10
    for value in SECRETS.values():
        assert not any(value.encode() in content for content in written)


def test_tracking_is_no_part_of_a_run_s_identity(compose):
    identities = [compose(f"profile.tracking={when}").identity() for when in ("live", "after", "off")]
    assert identities[0] == identities[1] == identities[2]


def test_rows_without_evaluations_or_losses():
    history = records.History(losses=[records.Loss(2, None)])
    assert runs.rows(history, batch_size=4) == [{"step": 2}]
    history.training_seconds = [records.Seconds(2, 1.0), records.Seconds(6, 2.0)]
    first, second = runs.rows(history, batch_size=4, steps_per_epoch=4)
    assert (first["train/steps_per_second"], second["train/steps_per_second"]) == (2, 4)
    assert (second["train/examples_per_second"], second["epoch"]) == (16, 1.5)
    assert not any(math.isnan(value) for value in second.values())
