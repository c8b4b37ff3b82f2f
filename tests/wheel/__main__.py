"""Builds the wheel, installs it into an empty environment and tries it there: `make test-wheel`.

Takes Python, pip and a package index, of which PyTorch is most of what is downloaded.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("lorafa", "pyproject.toml", "README.md", "LICENSE")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Nothing but what is installed: no checkout on the path, no hub, nobody's settings of it.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}

        def run(*command: str | Path) -> None:
            print("+", *command, flush=True)
            subprocess.run(command, check=True, cwd=folder, env=environment)

        run(sys.executable, "-m", "venv", "alone")
        programs = folder / "alone/bin"
        run(programs / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir=.", copied(folder / "source"))
        (wheel,) = folder.glob("*.whl")
        run(programs / "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", wheel)
        run(programs / "pip", "check")
        run(programs / "python", "-I", ROOT / "tests/wheel/installed.py")
        run(programs / "lorafa-memory", "--model", "roberta-base", "--device-memory", "24GiB")


def copied(target: Path) -> Path:
    """Copies what the wheel is built from, as building leaves files beside it."""
    target.mkdir()
    for source in (ROOT / name for name in SOURCES):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, target / source.name)
    return target


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}")
