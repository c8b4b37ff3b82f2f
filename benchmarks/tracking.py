"""What logging to W&B while it trains adds to a run: the same run with `tracking: live` and without, taking turns.

python -m benchmarks.tracking --rounds 5 method=lora-fa task=sst2
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

SETTINGS = ("off", "live")


def seconds(overrides: list[str], tracking: str) -> dict[str, float]:
    """Train a run in a process of its own and a new folder of results, and return its seconds of wall and CPU time.

    The CPU time, of the process and W&B's service, is the one to go by on a machine that is busy otherwise.

    Raises:
        SystemExit: The run failed; its error is printed.
    """
    with TemporaryDirectory(prefix="lorafa-") as folder:
        command = [sys.executable, "-m", "pipeline.train", *overrides]
        command += [f"profile.results={folder}", f"profile.tracking={tracking}"]
        environment = {**os.environ, "WANDB_MODE": "offline"}
        start, used = time.perf_counter(), _cpu_seconds()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603 - our own
        elapsed = {"wall": time.perf_counter() - start, "CPU": _cpu_seconds() - used}
        if done.returncode:
            sys.exit(done.stderr.splitlines()[-1])
        written = list(Path(folder).glob("wandb/*run-*"))
    if bool(written) != (tracking == "live"):
        sys.exit(f"tracking={tracking} left {len(written)} runs of W&B")
    return elapsed


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs with each setting")
    parser.add_argument("overrides", nargs="*", help="which run, as for python -m pipeline.train")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    times: dict[str, list[dict[str, float]]] = {tracking: [] for tracking in SETTINGS}
    for turn in range(arguments.rounds):
        for tracking in SETTINGS if turn % 2 == 0 else reversed(SETTINGS):
            times[tracking].append(seconds(arguments.overrides, tracking))
    print(
        f"{'seconds':<8}{'off':>8}{'live':>8}{'added':>8}{'ratio':>8}   medians of {arguments.rounds} pairs"
    )
    for kind in ("wall", "CPU"):
        off, live = ([each[kind] for each in times[tracking]] for tracking in SETTINGS)
        pairs = list(zip(off, live, strict=True))
        added = statistics.median(b - a for a, b in pairs)
        ratio = statistics.median(b / a for a, b in pairs)
        medians = statistics.median(off), statistics.median(live)
        print(f"{kind:<8}{medians[0]:8.2f}{medians[1]:8.2f}{added:8.2f}{ratio:8.3f}")


if __name__ == "__main__":
    main()
