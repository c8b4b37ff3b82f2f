"""profiles/local-gpu where GPUs are pretended: PyTorch has none, and trains on the CPU."""

import fcntl
import subprocess
import time

import pytest
from snakemake.cli import parse_args

from pipeline.training.gpus import VISIBLE
from tests.pipeline.project import Project


@pytest.mark.parametrize(("visible", "count"), [("0,GPU-7,2", 3), ("", 0)])
def test_as_many_runs_at_a_time_as_there_are_gpus(monkeypatch, visible, count):
    monkeypatch.setenv(VISIBLE, visible)
    arguments = ["tables", "--workflow-profile", "profiles/local-gpu"]
    _, parsed = parse_args([*arguments, "--config", "profile=paper"])
    assert parsed.resources["gpu"] == count and parsed.keep_going and parsed.rerun_incomplete
    _, parsed = parse_args([*arguments, "--resources", "gpu=1", "--config", "profile=paper"])
    assert parsed.resources["gpu"] == 1


def held(folder) -> set[str]:
    """The GPUs that are taken at this moment."""
    found = set()
    for path in folder.iterdir() if folder.is_dir() else []:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.add(path.name)
    return found


@pytest.mark.slow
def test_runs_take_different_gpus_and_never_more_than_there_are(tmp_path, tiny_overrides):
    # The Trainer does not pretend to have bfloat16 on a GPU.
    project = Project(tmp_path / "project", [*tiny_overrides, "profile.gpus=1", "model.frozen_dtype=float32"])
    (tmp_path / "tmp").mkdir()
    surroundings = project.surroundings
    surroundings["env"] |= {VISIBLE: "3,5", "TMPDIR": str(tmp_path / "tmp")}
    surroundings["env"].pop("SLURM_JOB_ID", None)
    command = project.command(
        "--workflow-profile", "profiles/local-gpu", target="results/smoke/search/search.json"
    )
    process = subprocess.Popen(command, **surroundings, stderr=subprocess.PIPE, text=True)
    seen = [held(tmp_path / "tmp/lorafa-gpus")]
    while process.poll() is None:
        seen.append(held(tmp_path / "tmp/lorafa-gpus"))
        time.sleep(0.05)
    assert process.returncode == 0, process.stderr.read()
    assert set().union(*seen) == {"3", "5"} and {"3", "5"} in seen
    assert len(project.records) == 4
