"""Training steps of full-size models with random weights on this machine's GPU: memory and time beside the estimates.

Nothing is downloaded. The results are one JSON file, whole at any time; the same command goes on where it stopped.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.measure import caught, device_of, largest_batch, measure
from benchmarks.gpu.plan import CARDS, TINY_CARDS, Group, groups, largest_batches, tiny, tiny_group
from benchmarks.gpu.record import Results, file_name, lines, setting
from lorafa.memory import fit
from lorafa.memory.recipe import Recipe

ROUNDS = 2  # of turns in a group
STEPS = 3  # timed, each time that it is a method's turn


class OutOfTime(Exception):  # noqa: N818 - not an error
    """The minutes that were given are over."""


class Clock:
    """How much time is left."""

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    def check(self) -> None:
        """Raise `OutOfTime` once it is over."""
        if time.monotonic() > self._end:
            raise OutOfTime


def run(results: Results, todo: list[Group], limits: list[tuple[Recipe, int]], clock: Clock) -> None:
    """Measure what the results do not have yet, until all is measured or the time is over.

    Args:
        results: Take every measurement in at once.
        todo: Groups of steps, most important first.
        limits: Steps and bytes of cards whose largest batch is searched, after the second group.
        clock: Says when the time is over.
    """
    open_groups = [group for group in todo if not set(group.recipes) <= results.steps.keys()]
    results.not_measured = [group.name for group in open_groups] + ["largest batches"] * bool(limits)
    try:
        for number, group in enumerate(open_groups):
            if number == 2:
                _search(results, limits, clock)
            _take_turns(results, group, clock)
            results.not_measured.remove(group.name)
        _search(results, limits, clock)
    except OutOfTime:
        pass
    results.write()


def _take_turns(results: Results, group: Group, clock: Clock) -> None:
    """Measure a group in rounds, forwards and backwards, so that a drift of the clock's rate favours none."""
    builds = group.builds()
    for turn in range(ROUNDS):
        for build in builds if turn % 2 == 0 else reversed(builds):
            clock.check()
            for recipe, found in measure(build, STEPS):
                results.add(group.name, recipe, found)
                clock.check()


def _search(results: Results, limits: list[tuple[Recipe, int]], clock: Clock) -> None:
    for recipe, card in limits:
        if (recipe, card) in results.limits:
            continue
        clock.check()
        with caught() as failure:
            guess = fit.largest_batch(recipe, card) if recipe.device == "cuda" else 1
            results.limits[recipe, card] = largest_batch(recipe, card, guess, clock.check)
        if failure == ["out_of_memory"]:  # not even the weights
            results.limits[recipe, card] = 0
        results.write()
    if "largest batches" in results.not_measured:
        results.not_measured.remove("largest batches")


def _predict(path: Path) -> None:
    """Estimate in a process of its own, which no GPU's memory is in the way of."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--predict", str(path)]
    subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})  # noqa: S603 - our own


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=8, help="for measuring; estimating comes after (default 8)"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models of the same families: tries the benchmark out"
    )
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="measure only these groups of steps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: results/gpu/<card>.json")
    parser.add_argument(
        "--predict", type=Path, metavar="FILE", help="only estimate the steps of a file; needs no GPU"
    )
    options = parser.parse_args()
    if options.predict and not options.predict.is_file():
        parser.error(f"--predict {options.predict}: no such file")
    if options.predict:
        return options
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: --device cpu --tiny tries the benchmark out")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu is for --tiny models alone")
    if unknown := set(options.groups or []) - {*(group.name for group in groups()), "largest batches"}:
        names = ", ".join(repr(group.name) for group in groups())
        parser.error(f"--groups must be of {names}, 'largest batches', not {', '.join(map(repr, unknown))}")
    return options


def _results(path: Path, device: str) -> Results:
    """The results to go on with."""
    here = setting(device_of(device))
    if not path.exists():
        return Results(path, here)
    results = Results.read(path)
    if results.setting != here:
        sys.exit(
            f"error: {path} is of another card, driver, version or commit: move it away, or choose another --out"
        )
    return results


def main() -> None:
    """Run from the command line."""
    options = _parse()
    if options.predict:
        results = Results.read(options.predict)
        results.predict(processes=os.cpu_count() or 1)
        return
    folder = Path("benchmarks/results" if options.tiny else "results/gpu")
    path = options.out or folder / file_name(device_of(options.device)["name"])
    with TemporaryDirectory() as models:
        todo, searched = groups(), [(recipe, card) for card in CARDS for recipe in largest_batches()]
        if options.tiny:
            todo = [tiny_group(group, Path(models)) for group in todo]
            searched = [
                (tiny(recipe, Path(models)), card) for card in TINY_CARDS for recipe in largest_batches()
            ]
        if options.groups:
            todo = [group for group in todo if group.name in options.groups]
            searched = searched if "largest batches" in options.groups else []
        results = _results(path, options.device)
        run(results, todo, searched, Clock(options.minutes))
        _predict(path)
    print("\n".join(lines(Results.read(path))))
    print(path)


if __name__ == "__main__":
    main()
