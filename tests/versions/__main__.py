"""Runs the library's tests on the oldest versions that pyproject.toml allows, and on the newest. `make test-versions`.

Each set has an environment of its own in build/versions, without what the pipeline needs besides. PyPI's torch for
Linux comes with gigabytes for GPUs: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu has it without them.
"""

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "versions"
TOOLS = ("pytest", "pytest-xdist")
SHOWN = ("torch", "transformers", "peft")
LATER = "integration or slow or distributed"
# Estimates of DeBERTa, Whisper and Wav2Vec2 need the transformers of requirements.lock.
LEFT_OUT = "tests/lorafa/memory/test_families.py"


def oldest(dependency: str) -> str:
    """Pins a dependency to the lowest version that its range has."""
    requirement = Requirement(dependency)
    (lowest,) = (part.version for part in requirement.specifier if part.operator == ">=")
    return f"{requirement.name}=={lowest}"


SETS: dict[str, Callable[[str], str]] = {"oldest": oldest, "newest": str}


def main(chosen: list[str]) -> int:
    """Tries the sets that are named, or all, and returns how many failed."""
    if unknown := set(chosen) - SETS.keys():
        sys.exit(f"error: {', '.join(sorted(unknown))}: there are {' and '.join(SETS)}")
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return sum(_fails(name, [*map(SETS[name], dependencies)]) for name in chosen or SETS)


def _fails(name: str, requirements: list[str]) -> bool:
    """Whether the tests fail with some requirements, or these cannot be had together."""
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        venv.create(FOLDER / name, with_pip=True)
    print(f"{name}: {', '.join(requirements)}", flush=True)
    if subprocess.run([python, "-m", "pip", "install", "--upgrade", *requirements, *TOOLS]).returncode:
        return True
    asked = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {SHOWN}), sep=', ')"
    subprocess.run([python, "-c", asked], check=True)
    tests = ["-m", "pytest", "tests/lorafa", f"--ignore={LEFT_OUT}", "-m", f"not ({LATER})"]
    return (
        subprocess.run([python, *tests], cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}).returncode != 0
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
