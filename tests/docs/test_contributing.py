"""What contributors' tools are told: hooks, workflows, the citation."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text())


def test_hooks_are_programs_of_the_environment():
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    programs = {shlex.split(hook["entry"])[0] for hook in repository["hooks"]}
    development = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][
        "dev"
    ]
    assert programs <= {re.match(r"[\w-]+", text)[0] for text in development}


def test_the_hook_of_snakefmt_looks_at_what_make_format_does():
    (hook,) = [
        hook for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"] if hook["id"] == "snakefmt"
    ]
    rules = [ROOT / "Snakefile", *(ROOT / "pipeline/rules").iterdir()]
    assert all(re.search(hook["files"], path.relative_to(ROOT).as_posix()) for path in rules)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_by_commit(file):
    used = re.findall(r"uses: (.+)", file.read_text())
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action) for action in used), used


def test_continuous_integration_begins_with_the_oldest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pythons = read(".github/workflows/ci.yml")["jobs"]["run"]["strategy"]["matrix"]["python"]
    assert project["requires-python"] == f">={pythons[0]}"


def test_the_citation_names_the_software_and_the_paper():
    citation = read("CITATION.cff")
    assert (
        citation["type"] == "software" and "version" not in citation
    )  # lorafa.__version__ is the only place
    (paper,) = citation["references"]
    assert paper["title"] in " ".join((ROOT / "README.md").read_text().split())
    assert paper["url"] == "https://arxiv.org/abs/2308.03303"
