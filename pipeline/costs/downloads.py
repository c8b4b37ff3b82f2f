"""What there is to download: the bytes of each repository that runs read."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.profile import Profile
from pipeline.costs.sizes import published

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
PUBLISHED, GEOMETRY, ON_DISK, BUILT = "published", "from its geometry", "on disk", "built by the DAG"


@dataclass(frozen=True)
class Download:
    """A repository.

    Attributes:
        repository: As `models/<id>` or `datasets/<id>`.
        size: Bytes; None where they are not known.
        at_least: Whether there are more than these.
        source: Where the number comes from.
    """

    repository: str
    size: int | None
    at_least: bool
    source: str

    @property
    def to_do(self) -> bool:
        """Whether it is yet to be downloaded."""
        return self.source in (PUBLISHED, GEOMETRY)


def download(
    repository: str, subsets: set[str], parameters: int | None, profile: Profile, built: bool
) -> Download:
    """Returns what is known of a repository.

    Args:
        repository: As `models/<id>` or `datasets/<id>`.
        subsets: Of a data set, those that are read.
        parameters: Of a model.
        profile: Says where a mirror is.
        built: Whether the DAG builds it from packages.
    """
    folder = _folder(repository, profile.mirror)
    if folder is not None:
        size = sum(
            file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()
        )
        return Download(repository, size, False, ON_DISK)
    if built:
        return Download(repository, None, False, BUILT)
    precision = published()["weights"].get(repository)
    if precision is not None and parameters is not None:
        return Download(repository, parameters * BYTES[precision], False, GEOMETRY)
    known = published()["bytes"].get(repository, {})
    sizes = [known.get(subset) for subset in sorted(subsets)]
    if not sizes or None in sizes:
        return Download(repository, None, False, PUBLISHED)
    texts = [str(size) for size in sizes]
    total = sum(int(text.removesuffix("+")) for text in texts)
    return Download(repository, total, any(text.endswith("+") for text in texts), PUBLISHED)


def _folder(repository: str, mirror: str | None) -> Path | None:
    """Returns where a repository is on this machine: in the mirror, or else in the hub's cache."""
    if mirror is not None:
        folder = Path(mirror, repository)
    else:
        hub = os.environ.get("HF_HUB_CACHE", os.environ.get("HF_HOME", "~/.cache/huggingface") + "/hub")
        folder = Path(hub, repository.replace("/", "--"), "blobs").expanduser()
    return folder if folder.is_dir() else None
