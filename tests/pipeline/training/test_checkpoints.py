import json
import os
import shutil

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from pipeline.training import checkpoints


def write(folder, step, best=None):
    """A checkpoint as the Trainer leaves it, before it is sealed."""
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "below").mkdir(parents=True)
    state = {"global_step": step, "best_model_checkpoint": best and str(folder / f"checkpoint-{best}")}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / "below/weights").write_bytes(bytes(range(100)))
    return checkpoint


def sealed(folder, *steps, best=None):
    for step in steps:
        checkpoints.seal(write(folder, step, best))
    return folder


def test_the_newest_by_its_steps_is_the_one_to_go_on_from(tmp_path):
    assert checkpoints.newest(sealed(tmp_path, 10, 9, 8)).name == "checkpoint-10"
    assert checkpoints.newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda it: (it / "below/weights").write_bytes(b"\0" * 100), "has a damaged below/weights"),
        (lambda it: os.truncate(it / "below/weights", 50), "has a damaged below/weights"),
        (lambda it: (it / "below/weights").unlink(), "has a damaged below/weights"),
        (lambda it: os.truncate(it / "sha256.json", 50), "has a damaged sha256.json"),
        (lambda it: (it / "sha256.json").unlink(), "was not written to its end"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, capsys, damage, problem):
    damage(sealed(tmp_path, 4, 8) / "checkpoint-8")
    assert checkpoints.newest(tmp_path).name == "checkpoint-4"
    assert capsys.readouterr().err == f"{tmp_path}/checkpoint-8: passed over, {problem}\n"
    assert os.listdir(tmp_path) == ["checkpoint-4"]


def test_where_the_best_one_is_damaged_those_that_refer_to_it_are_of_no_use(tmp_path, capsys):
    sealed(tmp_path, 2)
    sealed(tmp_path, 4, 6, best=4)
    (tmp_path / "checkpoint-4/below/weights").unlink()
    assert checkpoints.newest(tmp_path).name == "checkpoint-2"
    assert (
        "checkpoint-6: passed over, as the best one, checkpoint-4, has a damaged" in capsys.readouterr().err
    )


def test_two_are_kept_and_the_best_one_whatever_the_clock_says(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    state = TrainerState(best_model_checkpoint=str(tmp_path / "checkpoint-2"))
    for step in (2, 4, 6, 8):
        checkpoint = write(tmp_path, step, best=2)
        os.utime(checkpoint, (1e9 - 1000 * step,) * 2)  # a clock that runs backwards
        state.global_step = step
        checkpoints.Sealing().on_save(arguments, state, TrainerControl())
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-2", "checkpoint-8"]
    state.best_model_checkpoint = None
    shutil.rmtree(tmp_path / "checkpoint-2")
    for step in (9, 10):
        write(tmp_path, step)
        state.global_step = step
        checkpoints.Sealing().on_save(arguments, state, TrainerControl())
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-10", "checkpoint-9"]
