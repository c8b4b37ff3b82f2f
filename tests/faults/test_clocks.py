"""Clocks that are wrong: files that seem to be older or newer than they are change nothing."""

import os
import random
import time

import pytest

from tests.faults.dag import Dag


@pytest.mark.parametrize("hours", [-30, 30])
def test_files_of_another_time_are_not_made_again(whole, hours):
    rng = random.Random(hours)
    folder = whole.folder / "results"
    before = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    try:
        for path in before:
            moment = time.time() + 3600 * rng.uniform(min(0, hours), max(0, hours))
            os.utime(path, (moment, moment))
        assert whole.planned() == {}
    finally:
        for path, times in before.items():
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_clock_that_jumps_back_between_two_starts_costs_no_checkpoint(whole, tmp_path, tiny_overrides):
    from tests.faults.dag import in_training, wait_for

    dag = Dag(tmp_path, tiny_overrides)
    process = dag.start()
    wait_for(lambda: in_training(dag), 120, "no run began")
    os.killpg(process.pid, 2)
    process.communicate(timeout=60)
    for path in dag.folder.joinpath("results").rglob("*"):
        tomorrow = time.time() + 86400
        os.utime(path, (tomorrow, tomorrow))
    dag.finish()
    assert dag.resumed()
    assert dag.tables() == whole.tables()
    assert dag.results() == whole.results()
