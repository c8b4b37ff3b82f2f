"""Sweeps, from made-up runs."""

import errno
import os
import sys
from types import SimpleNamespace

import pytest

from pipeline.errors import ConfigError, PipelineError
from pipeline.training import sweep


@pytest.fixture
def started(monkeypatch):
    """Starts a sweep whose runs are only asked for; returns how often Hydra was started."""
    count = []
    monkeypatch.setattr(sweep, "run_dir", lambda cfg: "here")
    monkeypatch.setenv(sweep.RUNS, "")

    def start(*overrides: str, status=lambda run, directory: "done") -> list:
        monkeypatch.setattr(sys, "argv", ["pipeline.train", "-m", *overrides])
        sweep.start(lambda: count.append(1), status)
        return count

    return start


def test_a_bad_value_is_refused_before_the_first_run(started):
    started("rank=1")
    with pytest.raises(ConfigError, match="rank: must be at least 1, got 0"):
        started("rank=1,0")
    assert started("rank=2") == [1, 1]


def test_the_end_says_how_many_failed_and_which(started, capsys):
    def status(run, directory):
        return None if run.rank == 2 else "out_of_memory" if run.rank == 4 else "done"

    with pytest.raises(PipelineError, match=r"failed, .*: rank=2 seed=0$"):
        started("rank=1,2,4", "seed=0", status=status)
    assert capsys.readouterr().err == "3 runs: 1 done, 1 failed, 1 out of memory\n"


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (PipelineError("no such data"), "no such data"),
        (FULL, "could not write model.safetensors: No space left"),
    ],
)
def test_a_run_that_fails_is_numbered_and_does_not_stop_the_others(monkeypatch, capsys, failure, words):
    job = SimpleNamespace(num=1)
    hydra = SimpleNamespace(mode=sweep.RunMode.MULTIRUN, job=job, overrides=SimpleNamespace(task=["rank=2"]))
    monkeypatch.setattr(sweep.HydraConfig, "get", lambda: hydra)
    monkeypatch.setenv(sweep.RUNS, "3")

    @sweep.one_run
    def run(cfg):
        raise failure

    assert run(None) is None
    number, line = capsys.readouterr().err.splitlines()
    assert number == "[2/3] rank=2" and line.startswith(f"failed: {words}")
    hydra.mode = sweep.RunMode.RUN
    with pytest.raises(SystemExit):
        run(None)
    (line,) = capsys.readouterr().err.splitlines()  # without Hydra's own
    assert line.startswith(f"error: {words}")
