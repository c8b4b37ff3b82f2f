"""pyproject.toml, environment.yml and requirements.lock agree."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.packages import imported, names

ROOT = Path(__file__).parents[1]
PYTHON = "3.11"


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    optional = project()["optional-dependencies"].values()
    texts = [text for group in (project()["dependencies"], *optional) for text in group]
    return [found for text in texts if (found := Requirement(text)).name != "lorafa"]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [
        re.fullmatch(r"([\w.-]+)==([\w.!]+)", line) for line in lines if line and not line.startswith("#")
    ]
    assert all(pins), "every line of the lock is an exact pin"
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


def test_the_lock_has_every_requirement_at_an_accepted_version():
    for requirement in requirements():
        version = locked()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_locked_versions_are_for_each_python_of_continuous_integration():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    pythons = workflow["jobs"]["run"]["strategy"]["matrix"]["python"]
    assert pythons == workflow["jobs"]["wheel"]["strategy"]["matrix"]["python"]
    asked = {package.name: package.metadata["Requires-Python"] or "" for package in distributions()}
    newest = [f"{python}.99" for python in pythons]
    assert not {
        name: text for name, text in asked.items() if not all(map(SpecifierSet(text).contains, newest))
    }


def test_environment_yml_pins_what_the_lock_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    pins = dict(pin.split("==") for pin in pip["pip"])
    assert python == f"python={PYTHON}"
    assert {canonicalize_name(name) for name in pins} == {canonicalize_name(r.name) for r in requirements()}
    assert {canonicalize_name(name): version for name, version in pins.items()}.items() <= locked().items()


def test_no_requirement_is_stated_twice():
    names = [canonicalize_name(requirement.name) for requirement in requirements()]
    assert len(names) == len(set(names))
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(PYTHON)


def test_what_the_pipeline_imports_comes_with_its_extra():
    extras, files = project()["optional-dependencies"], set((ROOT / "pipeline").rglob("*.py"))
    more = {"tune.py": "sweep", "dashboard.py": "dashboard"}  # which say so where it is missing
    enough = names([*project()["dependencies"], *extras["pipeline"]])
    assert imported(*(file for file in files if file.name not in more)) <= enough
    for file, extra in more.items():
        assert imported(ROOT / "pipeline" / file) <= enough | names(extras[extra])


def test_the_extra_for_development_has_all_but_the_audit():
    extras = project()["optional-dependencies"]
    (own,) = (found for text in extras["dev"] if (found := Requirement(text)).name == "lorafa")
    assert own.extras == extras.keys() - {"dev", "audit"}
