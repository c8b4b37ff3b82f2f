"""Two processes on the CPU (gloo) against one: the same numbers, the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from transformers import AutoModelForSequenceClassification

from pipeline import train
from pipeline.config.compose import compose_run
from pipeline.config.schema import RunConfig
from pipeline.errors import AssetError, ConfigError, ProcessError
from pipeline.results import records
from pipeline.training.distributed.launch import _explained, launch
from tests.pipeline.costs.steps import in_step
from tests.pipeline.training.distributed import jobs

CASES = {
    "lora-fa": ["method=lora-fa", "task=sst2"],
    "lora": ["method=lora", "task=sst2"],
    "prompt-tuning": ["method=prompt-tuning", "task=sst2"],
    "full-ft": ["method=full-ft", "task=sst2"],
    "regression": ["method=lora-fa", "task=stsb"],
    "translation": ["method=lora-fa", "model=t5-mini", "task=wmt16-en-ro"],
    "instructions": [
        "method=lora-fa",
        "model=smollm2-135m",
        "task=alpaca",
        "profile.instructions.held_out=20",
    ],
    "diverging": ["method=full-ft", "task=sst2", "lr=1e30", "trainer.warmup_ratio=0"],
}
RESUMED = ("lora-fa", "full-ft")  # which one process begins
TOGETHER = ["trainer=fsdp", "profile.processes=2"]
TOLERANCE = {"rel": 2e-5, "abs": 1e-4}  # of float32 sums in another order, after six steps


@dataclass
class Pair:
    """A run as one process and as two have made it."""

    one: dict[str, Any]
    two: dict[str, Any]
    folder: Path

    def saved(self, which: str) -> dict[str, torch.Tensor]:
        (file,) = (self.folder / which / "model").glob("*.safetensors")
        return load_file(file)


def composed(*overrides: str) -> RunConfig:
    return compose_run(overrides)[0]


class _KilledError(Exception):
    pass


def train_and_die(run: RunConfig, folder: Path) -> None:
    """Trains as far as the step after the first checkpoint."""

    def die():
        raise _KilledError

    with in_step(4, die), pytest.raises(_KilledError):
        train.train(run, folder, [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def pairs(plain_overrides: list[str], folder: Path) -> dict[str, Pair]:
    cases, runs = [], []
    for name, overrides in CASES.items():
        run = composed(*plain_overrides, *overrides)
        runs.append(train.train(run, folder / name / "one", []))
        cases.append((composed(*plain_overrides, *overrides, *TOGETHER), folder / name / "two"))
    for name in RESUMED:
        train_and_die(composed(*plain_overrides, *CASES[name]), folder / f"resumed {name}")
        cases.append((composed(*plain_overrides, *CASES[name], *TOGETHER), folder / f"resumed {name}"))
    jobs.llama().save_pretrained(folder / "llama")
    together = launch(2, jobs.everything, cases, folder)
    found = {
        name: Pair(one.train_info, two.train_info, folder / name)
        for name, one, two in zip(CASES, runs, together[: len(CASES)], strict=True)
    }
    resumed = zip(RESUMED, together[len(CASES) :], strict=True)
    return found | {
        f"resumed {name}": Pair(found[name].one, info.train_info, folder / name) for name, info in resumed
    }


def assert_same(one: records.TrainInfo, two: records.TrainInfo) -> None:
    for key in ("status", "problem", "steps", "trainable_parameters", "total_parameters"):
        assert getattr(one, key) == getattr(two, key), key
    for key in ("losses", "evaluations"):
        expected, found = (records.as_json(getattr(info, key)) for info in (one, two))
        assert len(expected) == len(found)
        for each, other in zip(expected, found, strict=True):
            assert other == pytest.approx(each, **TOLERANCE), key


@pytest.mark.distributed
@pytest.mark.parametrize("name", [*CASES, *(f"resumed {name}" for name in RESUMED)])
def test_two_processes_have_the_losses_and_scores_of_one(pairs, name):
    one, two = pairs[name].one, pairs[name].two
    if name == "regression":  # what fills its last batch of validation cannot be left out of the loss
        for info in (one, two):
            info.evaluations = [
                records.Score(entry.step, entry.epoch, entry.score) for entry in info.evaluations
            ]
    assert_same(one, two)


@pytest.mark.distributed
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_of_one_process_goes_on_in_two(pairs, name):
    assert pairs[f"resumed {name}"].two.resumed_from_step == 3
    assert pairs[f"resumed {name}"].one.resumed_from_step is None


@pytest.mark.distributed
def test_the_optimizer_of_weights_in_parts_is_saved_whole(pairs, folder):
    (one,) = (folder / "resumed full-ft").rglob("checkpoint-3/optimizer.pt")
    (two,) = (folder / "full-ft/two").rglob("checkpoint-3/optimizer.pt")
    whole, gathered = (torch.load(file, weights_only=True)["state"] for file in (one, two))
    assert whole.keys() == gathered.keys()
    for index, state in whole.items():
        for name, value in state.items():
            torch.testing.assert_close(gathered[index][name], value, rtol=1e-3, atol=1e-7)


@pytest.mark.distributed
def test_divergence_in_two_processes_is_the_same_result(pairs):
    assert pairs["diverging"].two.status == "diverged"


@pytest.mark.distributed
@pytest.mark.parametrize(
    "name", ["lora-fa", "lora", "prompt-tuning", "translation", "instructions", "full-ft"]
)
def test_checkpoints_have_the_same_format_and_weights(pairs, name):
    one, two = pairs[name].saved("one"), pairs[name].saved("two")
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert (value.shape, value.dtype) == (two[key].shape, two[key].dtype)
        exact = {"rtol": 0, "atol": 0} if "lora_A" in key and name != "lora" else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(two[key], value, **exact)


@pytest.mark.distributed
def test_plain_peft_loads_what_two_processes_saved(pairs, tiny_mirror):
    folder = pairs["lora-fa"].folder
    tokens = torch.randint(5, 20, (3, 8), generator=torch.Generator().manual_seed(0))
    logits = []
    for which in ("one", "two"):
        base = AutoModelForSequenceClassification.from_pretrained(
            tiny_mirror / "models/lorafa/all-MiniLM-L6-v2-roberta", num_labels=2
        )
        logits.append(PeftModel.from_pretrained(base, str(folder / which / "model")).eval()(tokens).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-4)


@pytest.mark.distributed
def test_each_process_has_half_of_what_is_frozen_and_all_of_the_adapters(pairs, folder):
    ranks = [json.loads((folder / f"shards.{rank}.json").read_text()) for rank in range(2)]
    sharded = {name for name, (is_sharded, _, _) in ranks[0].items() if is_sharded}
    # What is adapted, its A included, is whole; what is the base model's, with the head before training, is not.
    assert sharded == {name for name in ranks[0] if "lora_" not in name and "modules_to_save" not in name}
    for name in ranks[0]:
        (_, first, whole), (_, second, _) = ranks[0][name], ranks[1][name]
        assert first + second == (whole if name in sharded else 2 * whole), name
    total = sum(whole for name, (_, _, whole) in ranks[0].items() if name in sharded)
    for rank in ranks:
        assert sum(rank[name][1] for name in sharded) == pytest.approx(total / 2, rel=0.01)


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["plain", "recompute", "nf4, recompute"])
def test_sharding_with_recomputation_and_four_bits_has_the_gradients_of_the_whole_model(pairs, folder, name):
    for rank in range(2):
        found = json.loads((folder / f"distances.{rank}.json").read_text())[name]
        assert found["gradient"] < 1e-6 < 1e-3 < found["largest"]
        assert found["kept"] == found["whole"] / 2


@pytest.mark.distributed
def test_communication_is_what_the_formulas_say(pairs):
    d, ffn, layers, r, size, tokens = 32, 64, 2, 8, 4, 5
    head = d * d + d + 2 * d + 2
    inputs = outputs = layers * (5 * d + ffn)  # q, k, v, o, up and down
    reduced = {
        "lora": r * (inputs + outputs) + head,
        "lora-fa": r * outputs + head,
        "prompt-tuning": tokens * d + head,
    }
    for name, elements in reduced.items():
        assert pairs[name].two.communication["gradient_bytes"] == size * elements, name
    assert 2 * (reduced["lora-fa"] - head) == reduced["lora"] - head
    layer = 4 * (d * d + d) + 2 * d * ffn + ffn + d + 2 * 2 * d
    total = pairs["lora-fa"].two.total_parameters - r * (inputs + outputs) - head
    gathered = 2 * layers * layer + (
        total - layers * layer
    )  # the layers in forward and backward, the rest once
    for name in reduced:
        assert pairs[name].two.communication["weight_bytes"] == size * gathered
        assert pairs[name].two.communication["processes"] == 2
        assert pairs[name].one.communication is None
    everything = pairs[
        "full-ft"
    ].two  # nothing is frozen: all of it is in parts, and the layers are gathered twice
    assert everything.communication["gradient_bytes"] == size * everything.trainable_parameters
    assert everything.communication["weight_bytes"] == size * (
        everything.trainable_parameters + layers * layer
    )


@pytest.mark.distributed
def test_sharded_weights_do_not_count_as_saved_for_backward(pairs, folder):
    whole, sharded = json.loads((folder / "saved.0.json").read_text())
    assert whole <= sharded <= whole + 16  # a counter of FSDP's


@pytest.mark.distributed
def test_the_memory_of_a_step_has_half_of_the_frozen_weights(pairs):
    for name in ("lora", "lora-fa"):
        one, two = pairs[name].one, pairs[name].two
        weights = [info.step_memory_bytes - info.saved_for_backward_bytes for info in (one, two)]
        frozen = 4 * (one.total_parameters - one.trainable_parameters)
        adapters = 4 * 8 * 2 * 224 if name == "lora-fa" else 0  # A, which is not shared
        assert weights[0] - weights[1] == pytest.approx((frozen - adapters) / 2, rel=0.01)


@pytest.mark.distributed
def test_full_fine_tuning_has_half_of_its_weights_gradients_and_states(pairs):
    infos = pairs["full-ft"].one, pairs["full-ft"].two
    weights = [info.step_memory_bytes - info.saved_for_backward_bytes for info in infos]
    assert weights[0] == pytest.approx(4 * 4 * infos[0].trainable_parameters, rel=0.01)
    assert weights[1] == pytest.approx(weights[0] / 2, rel=0.01)
    assert infos[1].saved_for_backward_bytes < 0.6 * infos[0].saved_for_backward_bytes  # of half of the batch


@pytest.mark.distributed
def test_too_little_memory_in_one_process_is_the_runs_result(plain_overrides, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_compute", jobs.out_of_memory)
    run = composed(*plain_overrides, "task=sst2", *TOGETHER)
    info = train.train(run, tmp_path, []).train_info
    assert (info.status, info.steps) == ("out_of_memory", 4)
    assert [entry.step for entry in info.evaluations] == [3]
    assert "out of memory" in info.problem


@pytest.mark.distributed
def test_a_failure_in_one_process_ends_all_with_one_line(capfd):
    with pytest.raises(
        ProcessError, match=r"^process 1 of 2 ended with ValueError: no such shape; the same command"
    ):
        launch(2, jobs.fail)
    assert "in fail" in capfd.readouterr().err  # its traceback


def test_an_error_of_the_users_is_told_as_by_one_process(tmp_path):
    files = []
    for rank, message in enumerate(
        ["RuntimeError: Connection closed by peer", "AssetError: the mirror has no glue"]
    ):
        files.append(tmp_path / f"{rank}.json")
        told = {"message": message, "extraInfo": {"py_callstack": "", "timestamp": "1"}}
        files[-1].write_text(json.dumps({"message": told}))
    failures = {rank: ProcessFailure(rank, 100 + rank, 1, str(file)) for rank, file in enumerate(files)}
    error = _explained(ChildFailedError("train", failures), 2)
    assert (type(error), str(error)) == (AssetError, "the mirror has no glue")
    killed = {0: ProcessFailure(0, 100, -signal.SIGKILL, "")}
    assert str(_explained(ChildFailedError("train", killed), 2)).startswith(
        "process 0 of 2 ended with SIGKILL, as"
    )


@pytest.mark.distributed
def test_a_signal_saves_a_checkpoint_and_one_process_goes_on(plain_overrides, tmp_path):
    overrides = [*plain_overrides, "budget.max_steps=60", "task=sst2"]
    run = composed(*overrides)
    command = [sys.executable, "-m", "pipeline.train", *overrides, *TOGETHER, f"profile.results={tmp_path}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (seals := list(tmp_path.rglob("checkpoint-30/sha256.json"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL, errors
    directory = seals[0].parents[3]
    whole = train.train(run, tmp_path / "whole", []).train_info
    resumed = train.train(run, directory, []).train_info
    assert 30 <= resumed.resumed_from_step < 60
    assert f"error: interrupted; the same command goes on from step {resumed.resumed_from_step}\n" in errors
    assert_same(whole, resumed)


def test_the_number_of_processes_is_no_part_of_a_runs_identity():
    one, two = composed("task=sst2"), composed("task=sst2", *TOGETHER)
    assert one.identity() == two.identity()
    assert (one.world_size, two.world_size) == (1, 2)
    assert composed("task=sst2", "method=untuned", *TOGETHER).world_size == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["profile.gpus=4"], "command line: profile.gpus: more than one for a run takes trainer=fsdp, got 4"),
        (
            ["profile.processes=2"],
            "command line: profile.processes: more than one for a run takes trainer=fsdp",
        ),
        (
            ["trainer=fsdp", "profile.processes=3"],
            "budget.batch_size: each of the 3 processes takes its part: 16 cannot be divided by that",
        ),
        (["trainer=fsdp", "profile.gpus=2", "profile.processes=2"], "profile.processes: for the CPU only"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(overrides, message):
    with pytest.raises(ConfigError) as error:
        composed(*overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("task", "model", "recipe"),
    [
        ("sst2", "minilm", ("linear", 1.0)),
        ("alpaca", "smollm2-135m", ("constant_with_warmup", 0.3)),
        ("wmt16-en-ro", "t5-mini", ("linear", 1.0)),
    ],
)
def test_sharding_leaves_the_tasks_recipe_alone(task, model, recipe):
    run = composed(f"task={task}", f"model={model}", "trainer=fsdp")
    assert (run.trainer.schedule, run.trainer.max_grad_norm) == recipe
    assert run.trainer.sharding == "fsdp"
