"""Runs PEFT's tests of custom models on LoRA-FA: fetches the source of the installed PEFT. `make test-peft`."""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

# Of the sources on PyPI, by version.
SHA256 = {"0.21.2": "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e"}
MARKERS = (
    "[pytest]\nmarkers =\n  regression: of PEFT\n  single_gpu_tests: of PEFT\n  multi_gpu_tests: of PEFT\n"
)


def main() -> int:
    """Returns pytest's exit status."""
    installed = version("peft")
    if installed not in SHA256:
        sys.exit(f"error: the hash of peft {installed}'s source is not known: add it to {__file__}")
    with tempfile.TemporaryDirectory() as folder:
        fetch = [
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary=:all:",
            f"--dest={folder}",
            f"peft=={installed}",
        ]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
        archive = Path(folder, f"peft-{installed}.tar.gz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256[installed]:
            sys.exit(f"error: {archive.name} is not the one whose hash is in {__file__}")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        source = Path(folder, f"peft-{installed}")
        (source / "pytest.ini").write_text(MARKERS)
        (source / "tests/__init__.py").touch()
        tests = [
            str(source / "tests/test_custom_models.py"),
            "-c",
            str(source / "pytest.ini"),
            "-n",
            "logical",
        ]
        here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])}
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **here}
        pytest = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "plugin",
            "-W",
            "ignore",
            "-p",
            "no:cacheprovider",
        ]
        return subprocess.run([*pytest, *tests, *sys.argv[1:]], env=environment, cwd=source).returncode


if __name__ == "__main__":
    sys.exit(main())
