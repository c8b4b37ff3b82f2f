"""What a mirror of conf/mirror consists of: repositories of the hub, and the packages that they are built from."""

import pkgutil
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.compose import CONF
from pipeline.errors import ConfigError

BUILDERS = [
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1] / "assets/builders")])
]


@dataclass
class Package:
    """One file of a package index.

    Attributes:
        name: Distribution name.
        version: Exact version.
        kind: "wheel" or "sdist".
        sha256: Hash of the file, hexadecimal.
        licence: What the package says of its contents.
    """

    name: str
    version: str
    kind: str
    sha256: str
    licence: str


@dataclass
class Repository:
    """One repository of a mirror.

    Attributes:
        builder: A module of pipeline/assets/builders.
        stand_in: What it is in place of the original, for the tables.
        packages: Packages that it is made of.
        needs: Other repositories of the mirror that it is made of.
        sizes: Numbers for the builder.
    """

    builder: str
    stand_in: str
    packages: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
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
        for package in set(repository.packages) - set(mirror.packages):
            raise ConfigError(f"conf/mirror/{name}.yaml: {key}: unknown package '{package}'")
        for needed in set(repository.needs) - set(mirror.repositories):
            raise ConfigError(f"conf/mirror/{name}.yaml: {key}: unknown repository '{needed}'")
        if repository.builder not in BUILDERS:
            raise ConfigError(f"conf/mirror/{name}.yaml: {key}: builder must be one of {', '.join(BUILDERS)}")
    return mirror
