"""What is installed: the library alone, with its types, its version and what it depends on; tests/wheel installs it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.version import Version

import lorafa
from tests.packages import imported, names

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]
NOT_CODE = shutil.ignore_patterns("__pycache__")


def test_the_version_is_in_one_place():
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert SETTINGS["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lorafa.__version__"}
    assert str(Version(lorafa.__version__)) == lorafa.__version__
    newest = re.search(r"^## (\S+?),? ", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == lorafa.__version__


def test_dependencies_are_what_the_library_imports():
    optional = names(PROJECT["optional-dependencies"]["quantization"])
    assert imported(*(ROOT / "lorafa").rglob("*.py")) - optional == names(PROJECT["dependencies"])


def test_what_is_optional_is_imported_in_one_module():
    optional = names(PROJECT["optional-dependencies"]["quantization"])
    users = [file.name for file in (ROOT / "lorafa").rglob("*.py") if imported(file) & optional]
    assert users == ["quantized.py"]


def test_the_package_says_that_it_has_types():
    assert (ROOT / "lorafa/py.typed").is_file()
    assert "py.typed" in SETTINGS["tool"]["setuptools"]["package-data"]["lorafa"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of what the wheel is built from, and of what it must not contain."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("lorafa", "pipeline", "conf", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_CODE)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, checkout)
    (file,) = folder.glob("*.whl")
    return file


def run(code: str, folder: Path, *path: Path) -> str:
    """What Python code prints in a folder, with the environment's packages but not its editable installs."""
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *installed])}
    command = [sys.executable, "-S", "-c", code]  # without `site`, no .pth file of the environment is read
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_the_wheel_is_the_library_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    information = f"lorafa-{lorafa.__version__}.dist-info"
    sources = (path for path in (ROOT / "lorafa").rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert {name.split("/")[0] for name in files} == {"lorafa", information}
    assert {name for name in files if name.startswith("lorafa/")} == {
        path.relative_to(ROOT).as_posix() for path in sources
    }
    assert "lorafa/py.typed" in files


@pytest.mark.integration
def test_the_wheel_says_what_it_is(wheel):
    information = f"lorafa-{lorafa.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(f"{information}/METADATA"))
        scripts = archive.read(f"{information}/entry_points.txt").decode()
        assert f"{information}/licenses/LICENSE" in archive.namelist()
    assert metadata["Version"] == lorafa.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    core = [text for text in metadata.get_all("Requires-Dist") if "extra ==" not in text]
    assert names(core) == names(PROJECT["dependencies"])
    assert metadata["Project-URL"] == "Paper, https://arxiv.org/abs/2308.03303"
    assert scripts.split() == ["[console_scripts]", "lorafa-memory", "=", "lorafa.memory.__main__:main"]


@pytest.mark.integration
def test_an_editable_install_has_the_pipeline_too(checkout, tmp_path):
    build = f"import os, setuptools.build_meta as b; os.chdir({str(checkout)!r}); b.build_editable({str(tmp_path)!r})"
    run(build, tmp_path)
    (file,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(file).extractall(tmp_path / "site")
    find = "import site; site.addsitedir('site'); import lorafa, pipeline as p; print(lorafa.__file__, p.__file__)"
    assert run(find, tmp_path).split() == [
        str(checkout / "lorafa/__init__.py"),
        str(checkout / "pipeline/__init__.py"),
    ]
