"""A plan's runs with their costs, added up for each experiment and for all of them."""

import gc
import json
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lorafa.memory.margin import CONTEXT, safe
from pipeline import files, status
from pipeline.config.plan import Plan, PlannedRun
from pipeline.costs.cards import Gpu
from pipeline.costs.cost import Cost, cached_file, measured, planned_cost
from pipeline.costs.downloads import Download, download
from pipeline.costs.shapes import Shape, shape_of

# What decides nothing about the cost.
WITHOUT_COST = ("seed", "lr", "alpha")


@dataclass(frozen=True)
class Priced:
    """A run, what it costs, and whether it is scored."""

    run: PlannedRun
    cost: Cost
    shape: Shape
    scored: bool

    @property
    def flops(self) -> float:
        """Operations of all that is done of it."""
        return self.cost.training_flops + (self.cost.evaluation_flops if self.scored else 0)

    @property
    def device_bytes(self) -> int:
        """Most bytes of the device."""
        return self.cost.device_bytes if self.scored else self.cost.training_bytes

    @property
    def safe_bytes(self) -> int:
        """The same with the estimate's margin, on a GPU."""
        return safe(self.device_bytes - CONTEXT) if self.shape.device == "cuda" else self.device_bytes

    def seconds(self, gpu: Gpu, utilisation: float) -> float:
        """Returns how long it takes on a GPU."""
        scoring = self.cost.seconds(gpu, "evaluation", utilisation) if self.scored else 0.0
        return self.cost.seconds(gpu, "training", utilisation) + scoring


@dataclass(frozen=True)
class Line:
    """Some runs together; the bytes of disk are what they keep, and `checkpoint_bytes` those of the largest run."""

    runs: int
    steps: int
    flops: float
    seconds: dict[str, float]
    device_bytes: int
    safe_bytes: int
    host_bytes: int
    disk_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class Misfit:
    """Runs that do not fit a GPU.

    Attributes:
        gpu: Its name.
        model, method: Of the runs.
        batch_size: Theirs.
        length: Tokens of their sequences, source and target.
        runs: How many.
        device_bytes: What the largest of them takes, by the estimate.
        safe_bytes: The same with the estimate's margin: what it is to fit with.
        remedies: Settings that make the largest fit, and the bytes that it then takes.
    """

    gpu: str
    model: str
    method: str
    batch_size: int
    length: int
    runs: int
    device_bytes: int
    safe_bytes: int
    remedies: list[tuple[str, int]]


class Survey:
    """The costs of a target.

    Args:
        plan: The profile's plan.
        target: As for `pipeline.status`.
        gpus: To be planned for.
        utilisation: The share of their peak that they reach.
        processes: How many share the estimating.

    Raises:
        ConfigError: There is no such target.
        AssetError: The sizes of data or a model's configuration are not known.
    """

    def __init__(
        self, plan: Plan, target: str | None, gpus: list[Gpu], utilisation: float, processes: int = 1
    ) -> None:
        self.plan, self.gpus, self.utilisation, self.processes = plan, gpus, utilisation, processes
        names = status.chosen(plan, target)
        self.without_runs = [name for name in names if not plan.grids[name]]
        planned = {name: plan.expected(name) for name in names if plan.grids[name]}
        costs = self._costs(run for runs in planned.values() for run in runs)
        self.experiments = {
            name: [Priced(run, *costs[_key(run)], scored=plan.experiments[name].evaluated) for run in runs]
            for name, runs in planned.items()
        }

    @cached_property
    def runs(self) -> list[Priced]:
        """Every run once; one that several experiments share is scored where one of them scores it."""
        once: dict[str, Priced] = {}
        for priced in (one for runs in self.experiments.values() for one in runs):
            known = once.get(priced.run.directory)
            if known is None or priced.scored:
                once[priced.run.directory] = priced
        return list(once.values())

    def line(self, runs: Iterable[Priced]) -> Line:
        """Adds runs up."""
        runs = list({priced.run.directory: priced for priced in runs}.values())
        return Line(
            runs=len(runs),
            steps=sum(one.cost.steps for one in runs),
            flops=sum(one.flops for one in runs),
            seconds={gpu.name: sum(one.seconds(gpu, self.utilisation) for one in runs) for gpu in self.gpus},
            device_bytes=max(one.device_bytes for one in runs),
            safe_bytes=max(one.safe_bytes for one in runs),
            host_bytes=max(one.cost.host_bytes for one in runs),
            disk_bytes=sum(
                one.cost.saved_bytes + (one.cost.prediction_bytes if one.scored else 0) for one in runs
            ),
            checkpoint_bytes=max(one.cost.checkpoint_bytes for one in runs),
        )

    @cached_property
    def steps(self) -> dict[tuple[str, str, int, int], list[Priced]]:
        """The runs by what their steps are of: model, method, batch size and length."""
        groups: dict[tuple[str, str, int, int], list[Priced]] = {}
        for one in self.runs:
            length = one.shape.source_length + one.shape.target_length
            groups.setdefault((one.run.model, one.run.method, one.shape.batch_size, length), []).append(one)
        return groups

    def misfits(self) -> list[Misfit]:
        """Returns the runs that do not fit, those of a model, method, batch size and length together."""
        groups = self.steps
        largest = {key: max(runs, key=lambda one: one.device_bytes) for key, runs in groups.items()}
        too_large = [
            (gpu, key, one)
            for gpu in self.gpus
            for key, one in largest.items()
            if one.safe_bytes > gpu.memory
        ]
        self._seek_remedies((one.shape, gpu) for gpu, _, one in too_large)
        return [
            Misfit(
                gpu.name, *key, len(groups[key]), one.device_bytes, one.safe_bytes, self._remedies(one, gpu)
            )
            for gpu, key, one in too_large
        ]

    def downloads(self) -> list[Download]:
        """Returns the repositories that the runs read."""
        subsets: dict[str, set[str]] = {}
        parameters: dict[str, int] = {}
        for one in self.runs:
            model, data = one.run.repositories
            task = one.run.identity["task"]
            subsets.setdefault(model, set())
            subsets.setdefault(data, set()).add(task["subset"] or "default")
            parameters[model] = measured(one.shape, self.plan.profile.cache).parameters
            for benchmark in one.run.benchmarks if one.scored else []:
                subsets.setdefault(benchmark, set()).add("all")
        return [
            download(name, parts, parameters.get(name), self.plan.profile, name in self.plan.mirror)
            for name, parts in sorted(subsets.items())
        ]

    def _costs(self, runs: Iterable[PlannedRun]) -> dict[str, tuple[Cost, Shape]]:
        profile = self.plan.profile
        distinct = {_key(run): run for run in runs}
        shapes = {key: shape_of(run.identity, run.scoring, profile) for key, run in distinct.items()}
        new = [
            shape
            for shape in dict.fromkeys(shapes.values())
            if not cached_file(shape, profile.cache).is_file()
        ]
        if new:
            self._estimate(new)
        return {key: (planned_cost(run, profile), shapes[key]) for key, run in distinct.items()}

    def _estimate(self, shapes: list[Shape]) -> None:
        """Estimates shapes, and leaves the estimates on the disk; those of a model and method share recordings."""
        groups: dict[tuple[str, str], list[Shape]] = {}
        for shape in shapes:
            groups.setdefault((shape.model, shape.method), []).append(shape)
        self._spread(_measure_all, groups.values(), "estimating", "shape")

    def _seek_remedies(self, shapes: Iterable[tuple[Shape, Gpu]]) -> None:
        """Looks for what would make shapes fit, and leaves it on the disk; sizes of memory share recordings."""
        groups: dict[Shape, list[tuple[Shape, int]]] = {}
        for shape, gpu in shapes:
            if shape.trained and not _remedy_file(shape, gpu.memory, self.plan.profile.cache).is_file():
                groups.setdefault(shape, []).append((shape, gpu.memory))
        self._spread(_remedy_all, groups.values(), "making it fit", "shape")

    def _spread(
        self, function: Callable[[list[Any], str], int], groups: Collection[list[Any]], words: str, unit: str
    ) -> None:
        """Calls a function with each group and the cache, in processes; it returns how much it has done."""
        if not groups:
            return
        from pipeline.costs import measure  # noqa: F401 - torch, before processes fork

        gc.freeze()  # going through what imports made would be a third of an estimate's time
        folder = self.plan.profile.cache
        with tqdm(total=sum(map(len, groups)), desc=words, unit=unit) as progress:
            if self.processes == 1:
                for group in groups:
                    progress.update(function(group, folder))
                return
            with ProcessPoolExecutor(self.processes, mp_context=get_context("fork")) as pool:
                for done in as_completed([pool.submit(function, group, folder) for group in groups]):
                    progress.update(done.result())

    def _remedies(self, one: Priced, gpu: Gpu) -> list[tuple[str, int]]:
        """Returns what would make a run fit, as `_seek_remedies` has found it."""
        if not one.shape.trained:
            return []
        known = _remedy_file(one.shape, gpu.memory, self.plan.profile.cache)
        return [(setting, size) for setting, size in json.loads(known.read_text())]


def _measure_all(shapes: list[Shape], folder: str) -> int:
    for shape in shapes:
        measured(shape, folder)
    return len(shapes)


def _remedy_all(shapes: list[tuple[Shape, int]], folder: str) -> int:
    from pipeline.costs.measure import remedies

    for shape, memory in shapes:
        files.write_text(_remedy_file(shape, memory, folder), json.dumps(remedies(shape, memory)))
    return len(shapes)


def _remedy_file(shape: Shape, memory: int, folder: str) -> Path:
    return cached_file(shape, folder).with_suffix(f".{memory}.json")


def _key(run: PlannedRun) -> str:
    """Returns what a run's cost follows from, as JSON."""
    kept = {key: value for key, value in run.identity.items() if key not in WITHOUT_COST}
    return json.dumps([kept, run.scoring], sort_keys=True)
