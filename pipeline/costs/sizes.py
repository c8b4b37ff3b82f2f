"""How many examples a run trains and is scored on: counted where the data are on the machine, else as published."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.assets.needs import CARD, configurations, subjects
from pipeline.config.profile import Profile
from pipeline.errors import AssetError

PUBLISHED = "published"  # published.yaml
ON_DISK = "on disk"
SNI_TRAIN = SNI_TEST = 100  # of pipeline.data.natural_instructions, without importing datasets


@dataclass(frozen=True)
class Examples:
    """The examples of a run.

    Attributes:
        train: That an epoch has.
        validation: That each evaluation during training has.
        scored: That the finished run is scored on.
        subjects: Of the benchmark that it is scored on, with a prompt each; 0 without one.
        sources: Where the numbers come from: `PUBLISHED`, `ON_DISK`.
    """

    train: int
    validation: int
    scored: int
    subjects: int
    sources: frozenset[str]


class _Counts:
    """Counts splits, and remembers where from."""

    def __init__(self, mirror: str | None) -> None:
        self.mirror = mirror
        self.sources: set[str] = set()

    def __call__(self, source: Mapping[str, Any], subset: str | None, splits: list[str]) -> int:
        """Returns the examples of some splits together.

        Args:
            source: A task or a benchmark, whose repository it is, at its revision.
            subset: The configuration.
            splits: Of it.

        Raises:
            AssetError: Neither the machine nor published.yaml has them.
        """
        total = 0
        repository, revision = source["repository"], source["revision"]
        for split in splits:
            found = _on_disk(repository, revision, subset, self.mirror).get(split)
            self.sources.add(ON_DISK if found is not None else PUBLISHED)
            total += published_examples(repository, subset or "default", split) if found is None else found
        return total


@cache
def published() -> dict[str, Any]:
    """Returns published.yaml."""
    loaded = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("published.yaml")))
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def published_examples(repository: str, subset: str, split: str) -> int:
    """Returns the published number of examples.

    Raises:
        AssetError: published.yaml does not have it.
    """
    try:
        return published()["examples"][repository][subset][split]
    except KeyError:
        raise AssetError(
            f"datasets/{repository}, {subset}, {split}: its examples are neither on this machine nor in "
            "pipeline/costs/published.yaml. `snakemake --cores 1 mirror` builds mini's data; load others once."
        ) from None


@cache
def _on_disk(repository: str, revision: str, subset: str | None, mirror: str | None) -> dict[str, int]:
    """Returns the splits that are on the machine with their examples, counted by their Parquet files' footers."""
    from pyarrow.parquet import read_metadata

    folder = _folder(repository, revision, mirror)
    files = _files(folder, subset) if folder is not None else {}
    return {
        split: sum(read_metadata(file).num_rows for file in paths)
        for split, paths in files.items()
        if paths and all(file.suffix == ".parquet" for file in paths)
    }


def _folder(repository: str, revision: str, mirror: str | None) -> Path | None:
    """Returns a data set's folder, in the mirror where there is one, or else in the hub's cache."""
    if mirror is not None:
        folder = Path(mirror, "datasets", repository)
        return folder if folder.is_dir() else None
    from huggingface_hub import try_to_load_from_cache

    card = try_to_load_from_cache(repository, CARD, revision=revision, repo_type="dataset")
    return Path(card).parent if isinstance(card, str) else None


def _files(folder: Path, subset: str | None) -> dict[str, list[Path]]:
    """Returns the files of each split; empty where none of the configuration is there."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    listed = configurations(folder / CARD).get(subset or "")
    if listed is not None:
        return {
            split: [file for pattern in patterns for file in folder.glob(pattern)]
            for split, patterns in listed.items()
        }
    try:
        found = load_dataset_builder(str(folder), subset).config.data_files or {}
    except DatasetsError:
        return {}
    return {str(split): [Path(file) for file in paths] for split, paths in found.items()}


def examples_of(run: Mapping[str, Any], scoring: Mapping[str, Any], profile: Profile) -> Examples:
    """Returns how many examples a run has.

    Args:
        run: Its `RunConfig.identity()`.
        scoring: What it is scored on, `Scoring` as a dictionary.
        profile: Says where the data are.

    Raises:
        AssetError: It is not known.
    """
    task, count = run["task"], _Counts(profile.mirror)
    asked = 0
    if task["kind"] == "instructions":
        train, validation = _instructions(task, count)
        benchmark = scoring["benchmark"]
        if benchmark is None:
            scored = _held_out(task, count)
        else:
            scored, asked = _benchmark(benchmark, count)
    else:
        train = count(task, task["subset"], [task["train_split"]])
        if share := task.get("held_out"):
            validation = math.ceil(share * train)
            train -= validation
        else:
            validation = count(task, task["subset"], task["validation_splits"])
        scored = validation
        if task["kind"] == "translation":
            sizes = [count(task, task["subset"], [split]) for split in scoring["splits"]]
            limit = scoring["examples"]
            scored = sum(size if limit is None else min(size, limit) for size in sizes)
    return Examples(train, validation, scored, asked, frozenset(count.sources))


def _instructions(task: Mapping[str, Any], count: _Counts) -> tuple[int, int]:
    settings = task["instructions"]
    held_out = settings["held_out"]
    if settings["sample"] is not None:
        return settings["sample"], held_out
    if settings["format"] == "natural-instructions" and not settings["train_tasks"]:
        rows = SNI_TRAIN * _own_tasks(task["repository"], "train", count)
    elif settings["format"] == "natural-instructions":
        rows = sum(_instances(task["repository"], name, count) for name in settings["train_tasks"])
    else:
        rows = count(task, task["subset"], [task["train_split"]])
    return rows - held_out, held_out


def _held_out(task: Mapping[str, Any], count: _Counts) -> int:
    names = task["instructions"]["heldout_tasks"]
    if not names and not task["instructions"]["train_tasks"]:
        return SNI_TEST * _own_tasks(task["repository"], "test", count)
    return sum(min(SNI_TEST, _instances(task["repository"], name, count)) for name in names)


def _own_tasks(repository: str, part: str, count: _Counts) -> int:
    """Returns the tasks in a part of Super-NaturalInstructions' own split; each is taken to have all the instances."""
    count.sources.add(PUBLISHED)
    return published()["tasks"][repository][part]


def _instances(repository: str, name: str, count: _Counts) -> int:
    """Returns the instances of a task of Super-NaturalInstructions."""
    file = Path(count.mirror or "", "datasets", repository, "tasks", f"{name}.json")
    if count.mirror is not None and file.is_file():
        count.sources.add(ON_DISK)
        return len(json.loads(file.read_text(encoding="utf-8"))["Instances"])
    count.sources.add(PUBLISHED)
    return published_examples(repository, "task", "train")


def _benchmark(benchmark: Mapping[str, Any], count: _Counts) -> tuple[int, int]:
    """Returns the questions of a benchmark in MMLU's schema, and its subjects."""
    limit = benchmark["questions"]
    folder = Path(count.mirror or "", "datasets", benchmark["repository"])
    if count.mirror is not None and folder.is_dir():
        names = subjects(folder)
        sizes = [count(benchmark, name, ["test"]) for name in names]
        return sum(size if limit is None else min(size, limit) for size in sizes), len(names)
    questions, asked = count(benchmark, "all", ["test"]), published()["subjects"][benchmark["repository"]]
    return (questions if limit is None else min(questions, limit * asked)), asked
