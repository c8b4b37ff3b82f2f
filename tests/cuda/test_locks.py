"""Runs that share a machine's GPUs: each has one for itself, and one more waits."""

import subprocess
import sys
from select import select

import torch

RUN = """
import sys
from pipeline.training.gpus import reserved

with reserved(1) as held:
    import torch

    print(held[0], torch.cuda.device_count(), torch.ones(2, device="cuda").sum().item(), flush=True)
    sys.stdin.read()
"""


def test_each_run_has_a_gpu_for_itself_and_one_more_waits():
    count = torch.cuda.device_count()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(count + 1)
    ]
    try:
        said = {}
        while len(said) < count:
            ready, _, _ = select([run.stdout for run in runs if run not in said], [], [], 120)
            assert ready, "no run has got a GPU in two minutes"
            said |= {run: run.stdout.readline().split() for run in runs if run.stdout in ready}
        assert len({held for held, *_ in said.values()}) == count
        assert all(rest == ["1", "2.0"] for _, *rest in said.values())
        (waiting,) = (run for run in runs if run not in said)
        assert not select([waiting.stdout], [], [], 3)[0]
        done = next(iter(said))
        done.communicate(timeout=60)
        assert waiting.stdout.readline().split() == [said[done][0], "1", "2.0"]
    finally:
        for run in runs:
            run.kill()
            run.wait()
