"""Runs on models without dropout, so that one process and several compute the same."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def plain_overrides(
    tiny_mirror: Path, tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Overrides for runs in float32 on the tiny models, without dropout; the last batch of an epoch is incomplete."""
    root = tmp_path_factory.mktemp("plain") / "mirror"
    shutil.copytree(tiny_mirror, root)
    for file in root.glob("models/*/*/config.json"):
        config = json.loads(file.read_text())
        config |= {key: 0.0 for key in config if "dropout" in key and config[key]}
        file.write_text(json.dumps(config))
    others = [item for item in tiny_overrides if not item.startswith(("profile.mirror", "budget.batch_size"))]
    return [
        *others,
        f"profile.mirror={root}",
        "model.frozen_dtype=float32",
        "budget.batch_size=12",
        "budget.evaluations=2",
    ]
