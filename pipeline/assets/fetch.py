"""Fetches from the hub what a profile's runs read, as a mirror for machines without a network, and checks mirrors.

A mirror's `manifest.json` has the size and the sha256 of every file. It is one file, so that one copied hash of it
speaks for the whole mirror; each repository enters it when it is whole.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from tqdm import tqdm

from pipeline.assets import PROVENANCE, UNFINISHED, hub, needs
from pipeline.assets.needs import CARD, Need
from pipeline.config.compose import compose_experiments, compose_run
from pipeline.config.planner import make_plan
from pipeline.errors import AssetError, ConfigError
from pipeline.files import write_json

MANIFEST = "manifest.json"
HUB_NOTES = ".cache"  # what huggingface_hub keeps beside an unfinished download
SPARE = 2**28  # bytes of the disk that stay free
CHUNK = 2**24


@dataclass(frozen=True)
class Remote:
    """A repository of the hub as it is at this moment.

    Attributes:
        need: What is read of it.
        commit: What the revision stands for.
        hashes: File to its hash, as `hub.check_file` wants it.
        sizes: File to its bytes.
    """

    need: Need
    commit: str
    hashes: dict[str, str]
    sizes: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes of all files that are read."""
        return sum(self.sizes.values())


def needs_of(profile: str, overrides: Iterable[str] = ()) -> list[Need]:
    """Returns what the runs of a profile read of the hub, sorted by name.

    Raises:
        ConfigError: The configuration has a mistake, or the profile builds its own mirror.
    """
    overrides = list(overrides)
    _, settings, _ = compose_experiments([f"profile={profile}", *overrides])
    if settings.build_mirror is not None:
        raise ConfigError(
            f"profile {profile} is not made of the hub's repositories: `snakemake --cores 1 mirror` builds its own"
        )
    plan = make_plan(profile, overrides)
    one_of_each = {(run.model, run.task): run for run in plan.runs.values()}
    found = [
        need for run in one_of_each.values() for need in needs.of_run(compose_run(run.overrides)[0]).values()
    ]
    return sorted(set(found), key=lambda need: (need.name, need.subset or "", need.said_in))


def look_up(wanted: Iterable[Need]) -> list[Remote]:
    """Asks the hub for each repository's commit and files, and whether they may be read.

    Raises:
        AssetError: A repository is not there, is gated for this account, or has not what is wanted.
        ConfigError: A repository is wanted at two revisions.
    """
    by_name: dict[str, list[Need]] = {}
    for need in wanted:
        by_name.setdefault(need.name, []).append(need)
    remotes = []
    for name, parts in tqdm(by_name.items(), desc="looking up", unit="repository"):
        revisions = sorted({need.revision for need in parts})
        if len(revisions) > 1:
            raise ConfigError(
                f"{name} is wanted at revisions {' and '.join(revisions)}, but a mirror has one: see "
                f"{', '.join(sorted({need.said_in for need in parts}))}"
            )
        with hub.explained(parts[0]):
            remotes.append(hub.patiently(partial(_look_up, parts)))
    return remotes


def _look_up(parts: list[Need]) -> Remote:
    first, api = parts[0], HfApi()
    kind = first.kind.removesuffix("s")
    info = api.repo_info(first.repository, revision=first.revision, repo_type=kind, files_metadata=True)
    api.auth_check(first.repository, repo_type=kind)
    files = {file.rfilename: file for file in getattr(info, "siblings", None) or []}
    with tempfile.TemporaryDirectory() as folder:
        if first.kind == "datasets" and CARD in files:
            download = partial(snapshot_download, first.repository, repo_type=kind, revision=info.sha)
            download(allow_patterns=[CARD], local_dir=folder)
        names = [
            name
            for need in parts
            for name in hub.chosen(need, list(files), need.patterns(Path(folder, CARD)))
        ]
    hashes, sizes = {}, {}
    for name in sorted(set(names)):
        large = files[name].lfs
        hashes[name] = large.sha256 if large else str(files[name].blob_id)
        sizes[name] = files[name].size or 0
    return Remote(first, str(info.sha), hashes, sizes)


def fetch(remote: Remote, mirror: Path) -> bool:
    """Downloads a repository into a mirror, or what is missing of it there; says whether there was anything to do.

    Raises:
        AssetError: It cannot be had, or what came is not what the hub says it is.
    """
    need = remote.need
    folder = mirror / need.name
    known = _read_manifest(mirror).get(need.name, {})
    kept = dict(known.get("files", {})) if known.get("commit") == remote.commit else {}
    missing = [name for name in remote.hashes if not _is_kept(folder / name, kept.get(name))]
    if not missing and PROVENANCE in kept and not (folder / UNFINISHED).exists():
        return False
    with hub.explained(need):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).touch()
        hub.patiently(lambda: _download(remote, folder, missing))
    for name in known.get("files", {}).keys() - kept.keys() - remote.hashes.keys():
        (folder / name).unlink(missing_ok=True)  # of an earlier commit
    about = {"repository": need.repository, "revision": need.revision, "commit": remote.commit}
    write_json(folder / PROVENANCE, about)
    shutil.rmtree(folder / HUB_NOTES, ignore_errors=True)
    files = kept | {name: _facts(folder / name, remote.hashes.get(name)) for name in [*missing, PROVENANCE]}
    everything = _read_manifest(mirror) | {need.name: {**about, "files": dict(sorted(files.items()))}}
    write_json(mirror / MANIFEST, {"repositories": dict(sorted(everything.items()))})
    (folder / UNFINISHED).unlink()
    return True


def _download(remote: Remote, folder: Path, names: list[str]) -> None:
    for name in names:
        if (folder / name).is_file():  # of an interrupted fetch or an earlier commit, or damaged since
            with suppress(hub.DamagedError):
                hub.check_file(name, folder / name, remote.hashes[name])
    if names:
        snapshot_download(
            remote.need.repository,
            repo_type=remote.need.kind.removesuffix("s"),
            revision=remote.commit,
            local_dir=folder,
            allow_patterns=[escape(name) for name in names],
        )
    for name in names:
        hub.check_file(name, folder / name, remote.hashes[name])


def check_space(remotes: Iterable[Remote], mirror: Path) -> None:
    """Compares what is still to be downloaded with the room on the disk.

    Raises:
        AssetError: There is too little.
    """
    there = next(folder for folder in (mirror, *mirror.absolute().parents) if folder.is_dir())
    sizes = ((remote, name, size) for remote in remotes for name, size in remote.sizes.items())
    needed = sum(
        size for remote, name, size in sizes if not _has_size(mirror / remote.need.name / name, size)
    )
    free = shutil.disk_usage(there).free
    if needed + SPARE > free:
        raise AssetError(
            f"{mirror}: {readable(needed)} are still to be downloaded, but {there} has {readable(free)} free: "
            "make room, choose another folder by --to, or fetch less (`profile.experiments=[table2]`)"
        )


def verify(mirror: Path) -> list[tuple[str, str]]:
    """Compares every file of a mirror with its manifest.

    Returns:
        What is wrong: "missing", "altered" or "extra", with the file's path in the mirror.

    Raises:
        AssetError: The folder has no manifest.
    """
    manifest = _read_manifest(mirror)
    if not manifest:
        raise AssetError(
            f"{mirror / MANIFEST} does not exist, or names no repository: `python -m pipeline.assets fetch` writes it"
        )
    expected = {
        f"{name}/{file}": facts for name, entry in manifest.items() for file, facts in entry["files"].items()
    }
    found = {
        path.relative_to(mirror).as_posix()
        for kind in ("models", "datasets")
        for path in mirror.joinpath(kind).rglob("*")
        if path.is_file()
    }
    problems = [("missing", name) for name in sorted(expected.keys() - found)]
    there = sorted(expected.keys() & found)
    problems += [
        ("altered", name)
        for name in tqdm(there, desc="verifying", unit="file")
        if not _is_kept(mirror / name, expected[name])
    ]
    return problems + [("extra", name) for name in sorted(found - expected.keys())]


def readable(size: int) -> str:
    """Returns bytes in the unit that suits them, GiB = 2³⁰."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:,.1f} {unit}"
    return f"{size} bytes"


def _read_manifest(mirror: Path) -> dict[str, Any]:
    path = mirror / MANIFEST
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())["repositories"]
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(
            f"{path} is damaged ({error}): delete it; `fetch` then checks and lists all files anew"
        ) from error


def _facts(file: Path, checked: str | None) -> dict[str, Any]:
    """Returns what the manifest says of a file; a sha256 that it was compared with is not computed again."""
    known = checked if checked and len(checked) == hub.SHA256_DIGITS else _sha256(file)
    return {"size": file.stat().st_size, "sha256": known}


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _is_kept(file: Path, facts: dict[str, Any] | None) -> bool:
    return facts is not None and _has_size(file, facts["size"]) and _sha256(file) == facts["sha256"]


def _sha256(file: Path) -> str:
    """Returns a file's hash, with a progress bar for one that takes seconds."""
    digest = hashlib.sha256()
    with (
        file.open("rb") as stream,
        tqdm(
            total=file.stat().st_size, desc=file.name, unit="B", unit_scale=True, leave=False, delay=2
        ) as bar,
    ):
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
