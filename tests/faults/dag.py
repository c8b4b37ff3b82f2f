"""A DAG of small runs that are long enough to be disturbed, and what must be the same whatever happens to it."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.results import records
from tests.pipeline.project import Project

STEPS = 60
EVALUATIONS = 6


class Dag(Project):
    """The smoke profile in a folder of its own, with checkpoints after every tenth step of each run."""

    seconds: float  # that it took to run

    def __init__(self, folder: Path, overrides: list[str]):
        replaced = ("budget.max_steps", "profile.budgets.minilm.evaluations")
        kept = [item for item in overrides if not item.startswith(replaced)]
        super().__init__(folder, [*kept, f"budget.max_steps={STEPS}", f"budget.evaluations={EVALUATIONS}"])
        self.tables_folder = folder / "results/smoke/tables"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts Snakemake as a terminal would, in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            **self.surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> str:
        """Runs what is left to do, as a user would after a fault, and returns the output."""
        shutil.rmtree(self.folder / ".snakemake/locks", ignore_errors=True)
        result = self.snakemake()
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def tables(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.tables_folder.iterdir())}

    def results(self) -> dict[str, Any]:
        """What of the runs must not depend on what happened to them: how they went, and their weights."""
        found: dict[str, Any] = {}
        for path in self.records:
            info = records.read(path.parent).train_info
            name = str(path.parent.relative_to(self.folder))
            found[name] = {
                key: getattr(info, key)
                for key in ("status", "losses", "evaluations", "best", "steps", "tokens")
            }
            for weights in path.parent.rglob("*.safetensors"):
                found[f"{name}/{weights.name}"] = weights.read_bytes()
        return found

    def resumed(self) -> list[str]:
        """The runs that went on from a checkpoint."""
        return [
            str(path)
            for path in self.records
            if records.read(path.parent).train_info.resumed_from_step is not None
        ]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A process and all that it and they have started, outermost first."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def in_training(dag: "Dag") -> bool:
    """Whether a run has come as far as its first checkpoint."""
    return any(dag.folder.rglob("checkpoint-*/sha256.json"))


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
