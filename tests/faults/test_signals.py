"""Ctrl-C in a running DAG: all of it stops within ten seconds, leaves nothing behind, and goes on when asked to."""

import os
import re
import signal
import time

import psutil

from tests.faults.dag import Dag, family, in_training, wait_for


def test_ctrl_c_stops_within_ten_seconds_and_the_same_command_goes_on(whole, tmp_path, tiny_overrides):
    dag = Dag(tmp_path, tiny_overrides)
    process = dag.start()
    wait_for(lambda: in_training(dag), 120, "no run began")
    members = family(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    _, left = psutil.wait_procs(members, timeout=10)
    seconds = time.monotonic() - began
    assert not left
    assert seconds < 10
    assert process.returncode != 0
    assert output.count("interrupted: ") == 1 and "failed" not in output
    assert re.search(r"are done and kept; the same command goes on, with .* running from step \d+", output)
    assert "Traceback" not in output
    assert not list(dag.folder.glob(".snakemake/locks/*"))
    assert not list(dag.folder.rglob("running")), "a run is still marked as being trained"
    dag.finish()
    assert dag.resumed()
    assert dag.tables() == whole.tables()
    assert dag.results() == whole.results()


def test_ctrl_c_before_the_first_job_is_one_line(tmp_path, tiny_overrides):
    dag = Dag(tmp_path, tiny_overrides)
    process = dag.start()
    wait_for(lambda: list(dag.folder.glob(".snakemake/locks/*")), 120, "the work never began")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.splitlines()[-1].startswith("interrupted: ") and "Traceback" not in output
    assert not list(dag.folder.glob(".snakemake/locks/*"))


def test_a_second_snakemake_is_refused_and_the_first_one_goes_on(whole, tmp_path, tiny_overrides):
    dag = Dag(tmp_path, tiny_overrides)
    first = dag.start()
    wait_for(lambda: in_training(dag), 120, "no run began")
    second = dag.snakemake()
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout + second.stderr
    assert "--unlock" in second.stdout + second.stderr
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 0, output
    assert dag.tables() == whole.tables()
    assert dag.results() == whole.results()
