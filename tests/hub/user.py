"""Somebody with a home of their own, who runs commands with the loopback hub."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline import worker
from pipeline.results import records
from pipeline.results.records import EvaluationRecord, Record
from tests.hub.server import Hub

ROOT = Path(__file__).parents[2]
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
EXPERIMENTS = (
    "profile.experiments=[search,search_translation,table2,table3,table4,rebuttal_sni,instructions_split]"
)
# The paper profile with little of everything: a step or two on the CPU, one seed, one learning rate.
SMALL = [
    "budget.epochs=null",
    "budget.max_steps=2",
    "budget.evaluations=1",
    "budget.batch_size=4",
    "profile.gpus=0",
    "profile.threads=1",
    "profile.tracking=off",
    "profile.seeds=[0]",
    "profile.grids.search_seeds=[0]",
    "profile.grids.decoder_seeds=[0]",
    "profile.grids.lr=[1e-3]",
    "profile.grids.lr_full_ft=[1e-3]",
    "profile.grids.lr_translation=[1e-3]",
    "profile.instructions.held_out=4",
    "profile.instructions.sample=16",
    "profile.grids.compared_lr=[1e-3]",
    "profile.grids.compared_lr_full_ft=[1e-3]",
]


class User:
    """A home, and the environment of what is run there.

    Attributes:
        home: Results, caches and the hub's cache are in it.
        variables: Of the environment, beside those of this process.
    """

    def __init__(self, home: Path, hub: Hub, **variables: str):
        self.home = home
        shutil.copytree(ROOT / "results/paper", home / "results/paper")  # the published numbers
        (home / "cache").mkdir()
        (home / "cache/plans").symlink_to(hub.plans)
        self.variables = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(home / "huggingface"),
            "LORAFA_CACHE": "cache",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(ROOT),
            **variables,
        }

    def environment(self, **variables: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in TOKENS}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**inherited, "PATH": path, **self.variables, **variables}

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(**variables)
        return subprocess.run(
            command, cwd=self.home, env=environment, capture_output=True, text=True, timeout=3600
        )

    def python(self, module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a module; in a fork of the worker where LORAFA_WORKER names one that has the same hub."""
        alike = worker.SOCKET in self.variables and not {"HF_ENDPOINT", "HF_HUB_OFFLINE"} & variables.keys()
        start = ["pipeline.worker", "run", module] if alike else [module]
        return self.run(sys.executable, "-m", *start, *arguments, **variables)

    def fetch(self, to: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.python("pipeline.assets", "fetch", "--to", str(to), *arguments, **variables)

    def snakemake(self, *targets: str, overrides: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Makes tables or runs of the paper profile, cut to size."""
        words = " ".join([*SMALL, EXPERIMENTS, *overrides])
        command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", *targets]
        return self.run(*command, "--config", "profile=paper", f"overrides={words}")

    def records(self) -> dict[str, Record]:
        """Returns every run's record, by the run's path."""
        folder = self.home / "results/paper/runs"
        found = (path.parent for path in folder.rglob(records.NAME))
        return {path.relative_to(folder).as_posix(): records.read(path) for path in found}

    def evaluations(self) -> dict[str, EvaluationRecord]:
        """Returns every scored run's evaluation, by the run's path."""
        folder = self.home / "results/paper/runs"
        found = (path.parent for path in folder.rglob(records.EVALUATION))
        return {path.relative_to(folder).as_posix(): records.read_evaluation(path) for path in found}


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """Returns the one line in which a command says why it refused, having checked that there is no more to it."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = re.findall(r"^error: (.*)$", result.stderr, re.MULTILINE)
    return line
