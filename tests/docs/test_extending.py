"""docs/extending.md, followed to the letter in a copy of the repository."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tests.pipeline import tiny

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
BLOCKS = re.findall(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, _, text in BLOCKS if kind == "bash" for line in text.splitlines()]


def patched(text: str, diff: str) -> str:
    """Changes a file as a diff's hunks say, each of which must fit in exactly one place."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if not line.startswith("+"))
        after = "".join(line[1:] for line in lines if not line.startswith("-"))
        assert f"\n{text}".count(f"\n{before}") == 1, f"not found, or more than once: {before}"
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    """A copy of the repository in which everything on the page was done, but for its commands."""
    copy = tmp_path_factory.mktemp("extending") / "repository"
    for name in ("conf", "lorafa", "pipeline", "profiles"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, copy)
    mirror = copy / ".cache/mirror/mini"
    tiny.write_encoder(mirror / "models/lorafa/all-MiniLM-L6-v2-roberta")
    for kind, title, text in BLOCKS:
        if kind == "diff":
            (copy / title).write_text(patched((copy / title).read_text(), text))
        elif title:
            assert not (copy / title).exists(), f"{title} is not new"
            (copy / title).parent.mkdir(parents=True, exist_ok=True)
            (copy / title).write_text(text)
    return copy


def test_examples_are_short():
    assert all(len(text.splitlines()) < 30 for _, _, text in BLOCKS)


def test_the_commands_are_what_this_file_runs():
    assert [shlex.split(command)[0] for command in COMMANDS] == ["python", "hf", "snakemake"]


@pytest.mark.slow
def test_the_page_works(followed):
    train, download, make = map(shlex.split, COMMANDS)
    tiny.write_encoder(followed / download[download.index("--local-dir") + 1])
    environment = {**os.environ, "PYTHONPATH": str(followed), "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in environment.items() if not key.startswith("LORAFA_")}
    done = subprocess.run(make, cwd=followed, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(followed / "results/mine/tables/speed.csv")
    assert list(table.method) == ["lora-fa", "ia3"] and (table.speed > 0).all()
    assert "D-RoBERTa (IA3)" in (followed / "results/mine/tables/speed.md").read_text()
    # The page's other command is composed only: it trains what the table's runs have just trained, on another model.
    composed = subprocess.run(
        [*train, "--cfg", "job", "--resolve"], cwd=followed, env=environment, capture_output=True, text=True
    )
    assert composed.returncode == 0 and "kind: ia3" in composed.stdout, composed.stderr
