"""profiles/slurm on a real Slurm: the same tables, what jobs ask for, preemption, lost nodes, and asking for more."""

import getpass
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.results import records

pytestmark = pytest.mark.slurm

PATIENCE = 300  # seconds; a busy machine takes minutes to start what takes seconds
LONG = 1200  # steps of a run that lasts long enough for something to happen to it


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Waits until a condition holds, and returns what it says."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE} s"
        time.sleep(0.2)
    return value


def training(run: Path) -> dict[str, Any]:
    return json.loads((run / records.NAME).read_text())["train_info"]


def assert_same(run: Path, undisturbed: Path) -> None:
    """Asserts that a run which was interrupted came to what it would have come to."""
    one, other = training(run), training(undisturbed)
    for key in ("status", "evaluations", "best", "last", "steps", "tokens", "trainable_parameters"):
        assert one[key] == other[key], key
    # Losses are means over some steps, for the one that an interruption divides over the steps after it.
    pairs = zip(one["losses"], other["losses"], strict=True)
    differing = [entry["step"] for entry, expected in pairs if entry != expected]
    after = next(entry["step"] for entry in one["losses"] if entry["step"] > one["resumed_from_step"])
    assert differing in ([], [after])


@contextmanager
def running(project, *arguments: str) -> Iterator[subprocess.Popen]:
    """Snakemake in the background; it has ended well at the end of the block."""
    log = project.folder / "snakemake.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            project.submitted(project.record, *arguments),
            **project.surroundings,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
            assert process.wait(timeout=2 * PATIENCE) == 0, log.read_text()
        finally:
            project.cluster.run("scancel", "--user", getpass.getuser())
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, make_project) -> Path:
    """The long run, done here."""
    project = make_project(tmp_path_factory.mktemp("undisturbed"), LONG)
    run = [
        "profile=smoke",
        *project.overrides,
        "model=minilm",
        "method=lora-fa",
        "task=mrpc",
        "+task.held_out=0.1",
        "lr=1e-3",
        "seed=0",
    ]
    command = [sys.executable, "-m", "pipeline.train", *run]
    subprocess.run(command, **project.surroundings, check=True, capture_output=True)
    return project.run


def test_a_table_is_the_same_as_on_this_machine(make_project, tmp_path, cluster):
    here, there = (make_project(tmp_path / name, 8) for name in ("here", "there"))
    gpu = ["--set-resources", "train:gpu=1", "train:constraint='gpu80gb'"]
    result = subprocess.run(
        there.submitted("tables", *gpu), **there.surroundings, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    jobs = cluster.jobs()
    assert [len(cluster.jobs(rule)) for rule in ("train", "evaluate")] == [4, 2], "and no job for tables"
    assert len(jobs) == 6 and all(job["JobState"] == "COMPLETED" for job in jobs)
    for job in jobs:
        assert (job["MinMemoryNode"], job["TimeLimit"], job["Requeue"]) == ("4000M", "01:00:00", "1")
    for job in cluster.jobs("train"):
        assert (job["TresPerJob"], job["Features"], job["NodeList"]) == ("gres:gpu:1", "gpu80gb", "two")
    assert all("TresPerJob" not in job for job in cluster.jobs("evaluate"))

    subprocess.run(here.command(), **here.surroundings, check=True, capture_output=True)
    for table in ("search", "table2"):
        for ending in ("md", "csv", "tex", "html"):
            file = f"results/smoke/tables/{table}.{ending}"
            assert (there.folder / file).read_bytes() == (here.folder / file).read_bytes(), file


def test_a_preempted_run_is_requeued_and_goes_on_from_where_it_was(
    make_project, tmp_path, cluster, undisturbed
):
    project = make_project(tmp_path, LONG)
    with running(project):
        saved = wait_for(project.checkpoints, "a checkpoint")
        job = cluster.jobs("train")[0]
        urgent = ["sbatch", "--parsable", "--partition=urgent", "--exclusive", "--output=/dev/null"]
        cluster.run(*urgent, f"--nodelist={job['NodeList']}", "--wrap=sleep 1")
        wait_for(lambda: cluster.jobs("train")[0]["Restarts"] == "1", "the requeued job")
    assert [job["JobId"]] == [found["JobId"] for found in cluster.jobs("train")][:1], "the same job"
    assert training(project.run)["resumed_from_step"] > saved[-1], "SIGTERM has saved a checkpoint"
    assert_same(project.run, undisturbed)


def test_a_signal_before_the_time_is_up_is_a_checkpoint_and_another_attempt(
    make_project, tmp_path, cluster, undisturbed
):
    project = make_project(tmp_path, LONG)
    with running(project):
        saved = wait_for(project.checkpoints, "a checkpoint")
        first = cluster.jobs("train")[0]
        cluster.run("scancel", "--signal=TERM", first["JobId"])  # to the job's steps, as --signal does it
    second = cluster.jobs("train")[0]
    assert int(second["JobId"]) > int(first["JobId"])
    assert (first["TimeLimit"], second["TimeLimit"]) == ("01:00:00", "02:00:00")
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("4000M", "8000M")
    assert training(project.run)["resumed_from_step"] > saved[-1]
    assert_same(project.run, undisturbed)


def test_a_run_whose_node_is_lost_goes_on_from_its_last_checkpoint(
    make_project, tmp_path, cluster, undisturbed
):
    project = make_project(tmp_path, LONG)
    with running(project):
        saved = wait_for(project.checkpoints, "a checkpoint")
        job = cluster.jobs("train")[0]
        assert cluster.script("lose", job["NodeList"]).returncode == 0
        wait_for(lambda: cluster.jobs("train")[0]["Restarts"] == "1", "the job on another node")
    assert cluster.script("boot", job["NodeList"]).returncode == 0
    last = cluster.jobs("train")[0]
    assert (last["JobId"], last["JobState"]) == (job["JobId"], "COMPLETED")
    assert last["NodeList"] != job["NodeList"]
    assert training(project.run)["resumed_from_step"] in (saved[-1], saved[-1] + saved[0])
    assert_same(project.run, undisturbed)


def test_a_job_that_needs_more_memory_than_it_asked_for_gets_more(make_project, tmp_path, cluster):
    project = make_project(tmp_path, 8)
    with running(project, "--set-resources", "train:mem_mb=400 * attempt ** 2"):
        pass
    asked = [job for job in cluster.jobs("train") if job["WorkDir"] == str(project.folder)]
    assert [job["MinMemoryNode"] for job in asked][-2:] == ["1600M", "400M"]
    assert [job["JobState"] for job in asked][-2:] == ["COMPLETED", "FAILED"]
    assert training(project.run)["status"] == records.DONE
