"""The Hugging Face hub: a commit's files in the hub's cache, each checked against its hash, with errors that help.

What huggingface_hub does by itself: it caches, goes on with a file whose connection was cut, compares sizes, and turns
to its cache when the hub cannot be reached. What is added here is patience, hashes, and one line on what went wrong.
"""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import filter_repo_objects
from huggingface_hub.utils.sha import git_hash

from pipeline.assets.needs import CARD, WEIGHTS, Need
from pipeline.errors import AssetError, PipelineError, RecordError
from pipeline.files import read_json, sha256, write_json

Result = TypeVar("Result")

WAITS = (1.0, 4.0, 16.0, 32.0)  # seconds between attempts, unless the hub says how many
LONGEST_WAIT = 300.0  # the hub counts requests in windows of five minutes
BUSY = (408, 429, 500, 502, 503, 504)
HIDDEN = [".*"]
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
SHA256_DIGITS = 64
HASHES = {
    40: "git hash",
    SHA256_DIGITS: "sha256",
}  # what the hub knows a small file by, and a large one; by digits
FAILURES = (
    *(httpx2.HTTPError, OSError, EntryNotFoundError),
    *(RevisionResolutionError, HFValidationError),
)


class DamagedError(AssetError):
    """A file is not what the hub says it is."""


def snapshot(need: Need, cache: Path) -> Path:
    """Returns a folder with what is read of a repository, named by its commit, downloading what is not there yet.

    Args:
        need: The repository, and what is read of it.
        cache: Where it is noted which files have been checked; the files themselves are in the hub's own cache.

    Raises:
        AssetError: It cannot be had; the message says why, and what to do.
    """
    with explained(need):
        return patiently(lambda: _snapshot(need, cache))


def _snapshot(need: Need, cache: Path) -> Path:
    kind = need.kind.removesuffix("s")
    commit = HfApi().resolve_revision(need.repository, repo_type=kind, revision=need.revision)
    download = partial(snapshot_download, need.repository, repo_type=kind, revision=commit)
    card = Path(download(allow_patterns=[CARD]), CARD) if need.kind == "datasets" else Path(CARD)
    patterns = need.patterns(card)
    folder = Path(download(allow_patterns=patterns or None, ignore_patterns=HIDDEN))
    there = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    files = chosen(need, there, patterns)
    _check(folder, files, cache / "verified" / need.name / f"{folder.name}.json")
    return folder


def chosen(need: Need, names: list[str], patterns: list[str]) -> list[str]:
    """Returns those of a repository's files that are read.

    Raises:
        AssetError: There is nothing to read, or a model has no weights in safetensors.
    """
    files = sorted(filter_repo_objects(names, allow_patterns=patterns or None, ignore_patterns=HIDDEN))
    if need.kind == "models" and not any(filter_repo_objects(files, allow_patterns=list(WEIGHTS))):
        raise AssetError(
            f"{need.name} ({need.said_in}) has no weights in safetensors; pickle, which may run code, is never read"
        )
    if not set(files) - {CARD}:
        raise AssetError(f"{need.name} ({need.said_in}) has no file {' or '.join(patterns[1:]) or 'at all'}")
    return files


def patiently(call: Callable[[], Result]) -> Result:
    """Calls until it works, as long as what goes wrong may pass: a busy hub, a connection that broke, damaged bytes."""
    for wait in WAITS:
        try:
            return call()
        except (*FAILURES, DamagedError) as error:
            if not _may_pass(error):
                raise
            pause = min(_asked_to_wait(error) or wait, LONGEST_WAIT)
            print(f"{_in_short(error)}; again in {pause:.0f} s", file=sys.stderr, flush=True)
        time.sleep(pause)
    return call()


def check_file(name: str, file: Path, expected: str) -> None:
    """Compares a file with its hash on the hub: sha256 (64 digits) or, of small files, git's (40 digits).

    Raises:
        DamagedError: It is another. The file is deleted, so that the next attempt downloads it anew.
    """
    found = sha256(file) if len(expected) == SHA256_DIGITS else git_hash(file.read_bytes())
    if found != expected:
        file.unlink()
        raise DamagedError(
            f"{name} is damaged: its {HASHES[len(expected)]} is not {expected}, as the hub says"
        )


def _check(folder: Path, files: list[str], note: Path) -> None:
    """Compares files with their hashes, which the hub's cache has for names; those noted from before are spared.

    Raises:
        DamagedError: A file differs.
    """
    try:
        known = read_json(note)
    except RecordError:
        known = {}
    facts = {}
    for name in files:
        path = folder / name
        blob = path.resolve()
        if not path.is_symlink() or len(blob.name) not in HASHES:
            continue  # a file system without links, where the cache does not name hashes
        facts[name] = [blob.name, blob.stat().st_size, blob.stat().st_mtime_ns]
        if known.get(name) != facts[name]:
            check_file(name, blob, blob.name)
    if not facts.items() <= known.items():
        write_json(note, known | facts)


@contextmanager
def explained(need: Need) -> Iterator[None]:
    """Turns what huggingface_hub raises into one line: what is wrong, with which repository, and what to do.

    Raises:
        AssetError: Always, where anything was raised.
    """
    try:
        yield
    except DamagedError as error:
        raise AssetError(
            f"{need.name} ({need.said_in}): {error}. It came so {len(WAITS) + 1} times: a proxy may alter it; "
            "try another network, or another HF_ENDPOINT"
        ) from error
    except PipelineError:
        raise
    except FAILURES as error:
        raise AssetError(_explain(need, error)) from error


def page(need: Need) -> str:
    """Returns the address of a repository's page, where its licence is."""
    folder = "" if need.kind == "models" else "datasets/"
    return f"https://huggingface.co/{folder}{need.repository}"


def _explain(need: Need, error: BaseException) -> str:
    what = f"{need.name} ({need.said_in})"
    mirror = "or give profile.mirror=DIR with a copy (`python -m pipeline.assets fetch --help`)"
    if _first(error, OfflineModeIsEnabled):
        return (
            f"{what} is not, or not whole, in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set: "
            f"run once without it, {mirror}"
        )
    if _first(error, GatedRepoError):
        return f"{what} is gated: accept its licence at {page(need)}, {_log_in()}"
    if _first(error, RevisionNotFoundError):
        return f"{what} has no revision {need.revision}: its commits are listed at {page(need)}/commits/main"
    if _first(error, RepositoryNotFoundError):
        return (
            f"{what} is not on the hub, or private: check `repository`; "
            "for a private one, log in with `hf auth login`, or set HF_TOKEN"
        )
    status = _status(error)
    if status in _BY_STATUS:
        return f"{what}: {_BY_STATUS[status]}"
    if status in BUSY:
        return (
            f"{what}: the hub is out of order ({status}, {len(WAITS) + 1} times; https://status.huggingface.co): "
            "run the same command again later; what is downloaded stays"
        )
    if _first(error, httpx2.TransportError):
        return f"{what}: {constants.ENDPOINT} cannot be reached ({_in_short(error)}): check the network, {mirror}"
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
        return (
            f"{what}: could not write {error.filename or constants.HF_HUB_CACHE}: {error.strerror}. "
            "Make room, or choose another folder (HF_HOME; for a mirror, --to)"
        )
    return f"{what}: {_in_short(error)}: check `repository` and `revision`, {mirror}"


_BY_STATUS = {
    401: "the hub does not know the token that you use: log in anew with `hf auth login`, or set HF_TOKEN",
    403: "the token that you use may not read it: give it the right to read gated repositories at "
    "https://huggingface.co/settings/tokens",
    429: "the hub takes no more requests from here for now (429): wait five minutes and run the same command again; "
    "who is logged in (`hf auth login`) may make more",
}


def _log_in() -> str:
    if get_token() is None:
        return "then log in with `hf auth login`, or set HF_TOKEN"
    return "with the account of the token that you use, which has no access yet (`hf auth whoami`)"


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, DamagedError) or "Consistency check failed" in str(error):
        return True
    broken = _first(error, httpx2.TransportError)
    refused = isinstance(broken, httpx2.ConnectError | httpx2.ProxyError)  # no network: waiting will not help
    return _status(error) in BUSY or (broken is not None and not refused)


def _asked_to_wait(error: BaseException) -> float | None:
    """Returns the seconds of a Retry-After header."""
    answer = _answer(error)
    seconds = answer.headers.get("Retry-After", "") if answer is not None else ""
    return float(seconds) if seconds.isdecimal() else None


def _status(error: BaseException) -> int | None:
    answer = _answer(error)
    return answer.status_code if answer is not None else None


def _answer(error: BaseException) -> httpx2.Response | None:
    """Returns what the hub answered, where it did."""
    found = _first(error, HfHubHTTPError)
    return found.response if isinstance(found, HfHubHTTPError) else None


def _first(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Returns the error itself or the first of its causes that is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _in_short(error: BaseException) -> str:
    """Returns a message in one line; where the hub answered, its status and what was asked for."""
    answer = _answer(error)
    if answer is not None:
        return f"{answer.status_code} {answer.reason_phrase} for {answer.request.url.path}"
    return " ".join(str(error).split()).rstrip(".:") or type(error).__name__
