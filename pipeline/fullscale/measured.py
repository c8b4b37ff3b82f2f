"""What GPUs have measured of the recipes: results/gpu/<card>.json, which `python -m benchmarks.gpu` writes."""

from __future__ import annotations

import json
from pathlib import Path

from lorafa.memory.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "results/gpu"


def files() -> list[Path]:
    """The files, one a card; none where no GPU has run the benchmark."""
    return sorted(FOLDER.glob("*.json"))


def device_memory() -> dict[str, dict[Recipe, int]]:
    """Bytes that a step took of a card, by card and recipe: reserved memory and `OVERHEAD`, as the tables have it."""
    from pipeline.fullscale.recipes import OVERHEAD  # which composes conf/: a bare GPU machine has no Hydra

    found = {}
    for path in files():
        content = json.loads(path.read_text())
        found[str(content["device"]["name"])] = {
            Recipe.from_json(step["recipe"]): step["reserved_bytes"] + OVERHEAD
            for step in content["steps"]
            if step["status"] == "done"
        }
    return found
