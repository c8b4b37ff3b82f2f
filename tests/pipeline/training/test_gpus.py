import multiprocessing
import os

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.training import gpus


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine that says it has three GPUs."""
    monkeypatch.setattr(gpus, "FOLDER", tmp_path / "locks")
    monkeypatch.setattr(gpus, "PAUSE", 0.01)
    for variable in (gpus.VISIBLE, gpus.ALLOCATION):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


def test_each_run_sees_its_own():
    with gpus.reserved(1) as one, gpus.reserved(0) as none:
        assert (one, none) == (["0"], [])
        assert os.environ[gpus.VISIBLE] == "0"
    assert gpus.VISIBLE not in os.environ


def _take(folder, queue, leave):
    gpus.FOLDER = folder
    with gpus.reserved(1) as held:
        queue.put(held)
        leave.wait()


def test_runs_at_the_same_time_take_different_ones(tmp_path):
    context = multiprocessing.get_context("fork")
    queue, leave = context.Queue(), context.Event()
    others = [context.Process(target=_take, args=(gpus.FOLDER, queue, leave)) for _ in range(2)]
    for process in others:
        process.start()
    taken = [queue.get(timeout=20)[0] for _ in others]
    with gpus.reserved(1) as held:
        assert sorted([*taken, *held]) == ["0", "1", "2"]
    leave.set()
    for process in others:
        process.join()
    with gpus.reserved(3) as held:
        assert held == ["0", "1", "2"]


def test_each_allocation_of_a_cluster_has_a_gpu_0_of_its_own(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "0")
    monkeypatch.setenv(gpus.ALLOCATION, "7")
    with gpus.reserved(1) as one:
        monkeypatch.setenv(gpus.ALLOCATION, "8")
        with gpus.reserved(1) as other:
            assert one == other == ["0"]


def test_only_what_is_visible_is_taken(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "2,GPU-5")
    with gpus.reserved(2) as held:
        assert held == ["2", "GPU-5"]
    assert os.environ[gpus.VISIBLE] == "2,GPU-5"


def test_too_few_are_refused(monkeypatch):
    monkeypatch.setenv(gpus.VISIBLE, "")
    with pytest.raises(ConfigError, match=r"profile\.gpus is 1, but 0 GPUs are visible"), gpus.reserved(1):
        pass
