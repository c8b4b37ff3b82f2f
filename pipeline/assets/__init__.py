"""Models and data: an id of the hub becomes the hub's repository, or a folder of a mirror laid out as the hub is."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import AssetError

Kind = Literal["models", "datasets"]
PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Source:
    """Where `from_pretrained` or `load_dataset` finds a repository.

    Attributes:
        path: The hub id, or the mirror's folder.
        revision: The hub's commit or branch; None for a folder.
        repository: The hub id that was asked for.
        commit: The commit that the revision stands for, where it is known.
        about: What a mirrored repository says of itself: `stand_in`, where it is not the original, `baselines`, …
        version: Changes with a mirrored repository's files. `load_dataset` knows a folder by its name alone and would
            serve an old copy from its cache, so caches of a folder's content must be named after this.
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


def locate(kind: Kind, repository: str, revision: str, mirror: str | Path | None) -> Source:
    """Finds a repository on the hub, or in the mirror when there is one.

    Raises:
        AssetError: The mirror does not hold the repository.
    """
    if mirror is None:
        return Source(repository, revision, repository, commit=_hub_commit(kind, repository, revision))
    folder = Path(mirror, kind, repository)
    if not folder.is_dir():
        raise AssetError(
            f"the mirror {mirror} has no {kind}/{repository}. `snakemake --cores 1 mirror` builds the mini mirror; "
            "to use another, give profile.mirror=DIR, laid out as DIR/{models,datasets}/<organisation>/<name>."
        )
    about = provenance(folder)
    return Source(str(folder), None, repository, about.get("commit"), about, _version(folder))


def provenance(folder: Path) -> dict[str, Any]:
    """Returns what a mirrored repository says of its origin; empty where it says nothing."""
    file = folder / PROVENANCE
    return json.loads(file.read_text()) if file.is_file() else {}


def _version(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _hub_commit(kind: Kind, repository: str, revision: str) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if os.environ.get("HF_HUB_OFFLINE"):
        return None
    try:
        return HfApi().repo_info(repository, revision=revision, repo_type=kind.removesuffix("s")).sha
    except OfflineModeIsEnabled:
        return None
    except (HfHubHTTPError, OSError) as error:
        raise AssetError(
            f"the Hugging Face hub has not answered for {repository} ({type(error).__name__}). Check the network "
            "and the access rights (`hf auth login`), or give profile.mirror=DIR with a copy of the repository."
        ) from error
