"""The results: one JSON file, rewritten whole after each measurement, and the table that is made of it."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lorafa
from benchmarks.gpu.measure import Measurement
from lorafa.memory.estimate import estimate_all
from lorafa.memory.fit import largest_batch
from lorafa.memory.flops import training_flops
from lorafa.memory.recipe import Recipe, RecipeError

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "peft", "accelerate")
GIB = 2**30
# What makes two runs the same experiment, so that the second may go on where the first stopped.
SETTING = ("device", "driver", "versions", "commit")


@dataclass
class Results:
    """What a run of the benchmark has found so far; `as_json` says what the file has.

    Attributes:
        path: The file.
        setting: The card, its driver, the versions and the commit.
        steps: By recipe: its groups' name and measurement.
        limits: By recipe and bytes of a card: the largest batch that fitted.
        predicted: By recipe: the estimator's numbers.
        not_measured: What there was no time for.
    """

    path: Path
    setting: dict[str, Any]
    steps: dict[Recipe, tuple[str, Measurement]] = field(default_factory=dict)
    limits: dict[tuple[Recipe, int], int] = field(default_factory=dict)
    predicted: dict[Recipe, dict[str, int]] = field(default_factory=dict)
    predicted_limits: dict[tuple[Recipe, int], int] = field(default_factory=dict)
    not_measured: list[str] = field(default_factory=list)

    def add(self, group: str, recipe: Recipe, found: Measurement) -> None:
        """Take a measurement in: its times are added to earlier ones, its peaks replace them."""
        if recipe in self.steps:
            group, before = self.steps[recipe]
            found = replace(found, seconds=before.seconds + found.seconds)
        self.steps[recipe] = group, found
        self.write()

    def predict(self, processes: int = 1) -> None:
        """Have the estimator say what every step takes: needs no GPU."""
        asked = [
            recipe for recipe, (_, found) in self.steps.items() if not found.status.startswith("refused")
        ]
        for recipe, estimate in estimate_all(asked, processes).items():
            self.predicted[recipe] = {
                "allocated_bytes": estimate.peak,
                "reserved_bytes": estimate.reserved,
                "flops": training_flops(recipe),
            }
        for recipe, card in self.limits:
            if recipe.device == "cpu":  # which has no context to leave room for
                continue
            self.predicted_limits[recipe, card] = largest_batch(recipe, card)
        self.write()

    def as_json(self) -> dict[str, Any]:
        """Plain values: settings, `steps` and `largest_batches` with what was estimated beside, and what is missing."""
        steps = [
            {
                "group": group,
                "recipe": asdict(recipe),
                **asdict(found),
                "predicted": self.predicted.get(recipe),
            }
            for recipe, (group, found) in self.steps.items()
        ]
        limits = [
            {
                "recipe": asdict(recipe),
                "card_bytes": card,
                "largest_batch": found,
                "predicted": self.predicted_limits.get((recipe, card)),
            }
            for (recipe, card), found in self.limits.items()
        ]
        return self.setting | {"steps": steps, "largest_batches": limits, "not_measured": self.not_measured}

    def write(self) -> None:
        """Replace the file in one step: a reader, and a stop, find it whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        temporary.replace(self.path)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """What a file has."""
        content = json.loads(path.read_text())
        results = cls(path, {name: content[name] for name in SETTING})
        results.not_measured = content["not_measured"]
        for step in content["steps"]:
            recipe = Recipe.from_json(step["recipe"])
            times = tuple(step["seconds"])
            found = Measurement(step["status"], step["allocated_bytes"], step["reserved_bytes"], times)
            results.steps[recipe] = step["group"], found
            if step["predicted"]:
                results.predicted[recipe] = step["predicted"]
        for limit in content["largest_batches"]:
            key = Recipe.from_json(limit["recipe"]), limit["card_bytes"]
            results.limits[key] = limit["largest_batch"]
            if limit["predicted"] is not None:
                results.predicted_limits[key] = limit["predicted"]
        return results


def setting(device: dict[str, Any]) -> dict[str, Any]:
    """What the numbers depend on besides the recipes."""
    versions = {"python": platform.python_version(), "lorafa": lorafa.__version__}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return {
        "device": device,
        "driver": _output(query) if device["name"] != "cpu" else None,
        "versions": versions,
        "commit": os.environ.get("LORAFA_COMMIT") or _output(["git", "-C", str(ROOT), "rev-parse", "HEAD"]),
    }


def file_name(card: str) -> str:
    """The name of a card's file: NVIDIA H100 80GB HBM3 is nvidia-h100-80gb-hbm3.json."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ".json"


def _output(command: list[str]) -> str | None:
    """What a command prints, None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def lines(results: Results) -> Iterator[str]:
    """The table of the results, one line a step, beside PEFT's LoRA for the same step and the estimate."""
    heading = f"{'step':<64}{'GiB':>8}{'reserved':>10}{'estimated':>11}{'error %':>9}"
    yield heading + f"{'ms':>9}{'x LoRA':>8}{'GiB x LoRA':>12}{'tokens/s':>10}{'TFLOP/s':>9}"
    for recipe, (_, found) in results.steps.items():
        if found.status != "done":
            yield f"{_words(recipe):<64}{found.status}"
            continue
        yield _line(results, recipe, found)
    for (recipe, card), largest in results.limits.items():
        predicted = results.predicted_limits.get((recipe, card), "-")
        label = f"{_words(replace(recipe, batch_size=1))}, largest batch on {card / GIB:.3g} GiB"
        yield f"{label:<100}{largest}, estimated {predicted}"
    if results.not_measured:
        yield f"no time for: {', '.join(results.not_measured)}"


def _line(results: Results, recipe: Recipe, found: Measurement) -> str:
    assert found.allocated_bytes is not None
    predicted = results.predicted.get(recipe, {})
    lora = results.steps.get(_lora(recipe), ("", Measurement("none")))[1]
    seconds = statistics.median(found.seconds)
    estimated = predicted.get("allocated_bytes")
    cells = [
        (found.allocated_bytes / GIB, 8, ".3f"),
        (found.reserved_bytes and found.reserved_bytes / GIB, 10, ".3f"),
        (estimated and estimated / GIB, 11, ".3f"),
        (estimated and 100 * (estimated / found.allocated_bytes - 1), 9, "+.1f"),
        (seconds * 1000, 9, ".1f"),
        (lora.seconds and seconds / statistics.median(lora.seconds), 8, ".3f"),
        (lora.allocated_bytes and found.allocated_bytes / lora.allocated_bytes, 12, ".3f"),
        (recipe.batch_size * recipe.source_length / seconds, 10, ",.0f"),
        (predicted and predicted["flops"] / seconds / 1e12, 9, ".1f"),
    ]
    texts = (
        f"{'-' if value in (None, (), {}) else format(value, form):>{width}}" for value, width, form in cells
    )
    return f"{_words(recipe):<64}" + "".join(texts)


def _lora(recipe: Recipe) -> Recipe:
    try:
        return replace(recipe, method="lora", recompute=())
    except RecipeError:
        return recipe


def _words(recipe: Recipe) -> str:
    kinds = f" ({', '.join(recipe.recompute)})" if recipe.recompute else ""
    parts = [
        f"{Path(recipe.model).stem} {recipe.method}{kinds}",
        f"{recipe.batch_size} x {recipe.source_length}",
    ]
    parts += ["flash"] if recipe.attention == "flash" else []
    parts += [f"r {recipe.rank}"] if recipe.method not in ("full-ft", "prompt-tuning") else []
    parts += [f"{recipe.layer_fraction:.0%} of the layers"] if recipe.layer_fraction < 1 else []
    parts += ["checkpointed"] if recipe.checkpointing else []
    return ", ".join(parts)
