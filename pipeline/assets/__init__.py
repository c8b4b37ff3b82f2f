"""Models and data: what a run needs of the hub becomes a folder of the hub's cache or of a mirror."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.assets.needs import Need
from pipeline.errors import AssetError

PROVENANCE = "provenance.json"
UNFINISHED = ".unfinished"  # in a repository of a mirror while it is being fetched


@dataclass(frozen=True)
class Source:
    """Where `from_pretrained` or `load_dataset` finds a repository.

    Attributes:
        path: The folder, in the hub's cache or in a mirror.
        revision: The hub's commit or branch that was asked for; None for a mirror's folder.
        repository: The hub id that was asked for.
        commit: The commit that the revision stands for, where it is known.
        about: What a mirrored repository says of itself: `stand_in`, where it is not the original, `baselines`, …
        version: Changes with the folder's files. `load_dataset` knows a folder by its name alone and would serve an old
            copy from its cache, so caches of a folder's content must be named after this.
    """

    path: str
    revision: str | None
    repository: str
    commit: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    version: str | None = None

    def record(self) -> dict[str, Any]:
        """Returns the source for a run's record."""
        return asdict(self)


def locate(need: Need, mirror: str | Path | None, cache: Path = Path(".cache")) -> Source:
    """Finds a repository on the hub, or in the mirror when there is one.

    Args:
        need: The repository, and what is read of it.
        mirror: The mirror's folder; None for the hub.
        cache: Where it is noted what has been checked.

    Raises:
        AssetError: The mirror does not hold the repository, or not whole; or the hub does not give it.
    """
    if mirror is None:
        from pipeline.assets import hub

        downloaded = hub.snapshot(need, cache)
        commit = downloaded.name
        return Source(str(downloaded), need.revision, need.repository, commit, version=commit)
    folder = in_mirror(need.name, mirror)
    about = provenance(folder)
    return Source(str(folder), None, need.repository, about.get("commit"), about, _version(folder))


def require(needs: Iterable[Need], mirror: str | Path | None) -> None:
    """Makes sure that a mirror, where there is one, holds what is needed, before anything that takes seconds.

    Raises:
        AssetError: It does not.
    """
    if mirror is not None:
        for need in needs:
            in_mirror(need.name, mirror)


def in_mirror(name: str, mirror: str | Path) -> Path:
    """Returns the folder of a repository, given as `models/<id>` or `datasets/<id>`, in a mirror.

    Raises:
        AssetError: The mirror does not hold the repository, or not whole.
    """
    folder = Path(mirror, name)
    if not folder.is_dir():
        raise AssetError(
            f"the mirror {mirror} has no {name}. `snakemake --cores 1 mirror` builds the mini mirror and "
            "`python -m pipeline.assets fetch` one of the hub; to use another, give profile.mirror=DIR, laid out as "
            "DIR/{models,datasets}/<organisation>/<name>."
        )
    if (folder / UNFINISHED).exists():
        raise AssetError(
            f"{folder} is not whole: fetching it was interrupted. Run the same `python -m pipeline.assets fetch` again"
        )
    return folder


def provenance(folder: Path) -> dict[str, Any]:
    """Returns what a mirrored repository says of its origin; empty where it says nothing."""
    file = folder / PROVENANCE
    return json.loads(file.read_text()) if file.is_file() else {}


@contextmanager
def loading(source: Source) -> Iterator[None]:
    """Turns what `from_pretrained` raises over a folder that lacks a file, or has a damaged one, into one line.

    Raises:
        AssetError: In place of that.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        problem = " ".join(str(error).split())
        raise AssetError(
            f"{source.repository} cannot be loaded from {source.path}: {problem}. `python -m pipeline.assets verify "
            "DIR` tells whether a mirror is whole"
        ) from error


def _version(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
