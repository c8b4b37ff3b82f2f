"""README and docs/ name only files, modules, targets and settings that exist."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.config import compose_run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(prefix: str) -> list[str]:
    """Every command in the pages that starts with the prefix, in a code block or in code font."""
    found: list[str] = []
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            found += [line.split("#")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
        found += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return sorted({command for command in found if command.startswith(prefix)})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("command", commands("python -m "))
def test_modules_exist(command):
    assert find_spec(command.split()[2]) is not None


@pytest.mark.parametrize("command", commands("make "))
def test_make_targets_exist(command):
    makefile = (ROOT / "Makefile").read_text()
    for target in [word for word in command.split()[1:] if "=" not in word]:
        assert re.search(rf"^([\w ]+ )?{target}( [\w ]+)?:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", commands("snakemake "))
def test_snakemake_targets_and_profiles_exist(command):
    rules = "".join(path.read_text() for path in (ROOT / "pipeline/rules").glob("*.smk"))
    words = shlex.split(command)[1:]
    for word in words:
        if word.startswith("profile="):
            assert (ROOT / f"conf/profile/{word.removeprefix('profile=')}.yaml").exists()
    targets = re.findall(r"\b(tables|figures|mirror|dashboard)\b", command)
    assert targets
    for target in targets:
        assert f"rule {target}:" in rules


@pytest.mark.parametrize("command", commands("python -m pipeline.train "))
def test_overrides_compose(command):
    overrides = [word for word in shlex.split(command)[3:] if "=" in word]
    compose_run([override.split(",")[0] for override in overrides])
