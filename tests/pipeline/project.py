"""A copy of the project, with what it needs to run its DAG on the tiny mirror."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.results import records
from tests.pipeline.made_up import searched

ROOT = Path(__file__).parents[2]
PARTS = (
    "Snakefile",
    "conf",
    "lorafa",
    "pipeline",
    "profiles",
    "results/paper",
    "results/published",
    "environment.yml",
)
SECRETS = {"HF_TOKEN": "hf_CanaryCanaryCanaryCanaryCanary", "WANDB_API_KEY": "c4a7a92c" * 5}


class Project:
    """The smoke profile of two tables in a folder of its own, whose conf/ a test may edit."""

    def __init__(self, folder: Path, overrides: list[str]):
        self.folder = folder
        for part in PARTS:
            source, target = ROOT / part, folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        self.overrides = [
            *overrides,
            "profile.experiments=[search,table2]",
            "profile.glue_tasks=[sst2]",
            searched("1e-3"),
        ]

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), **self.surroundings, capture_output=True, text=True)

    def command(self, *arguments: str, target: str = "tables") -> list[str]:
        overrides = " ".join(self.overrides)
        command = ["snakemake", "--cores", "2", target, *arguments]
        return [*command, "--config", "profile=smoke", f"overrides={overrides}"]

    @property
    def surroundings(self) -> dict[str, Any]:
        """The folder and the environment of a process that belongs to this copy."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        cache = str(self.folder / ".cache")
        environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(self.folder),
            "LORAFA_CACHE": cache,
            **SECRETS,
        }
        return {"cwd": self.folder, "env": environment}

    def planned(self, *config: str) -> dict[str, int]:
        """How many jobs of each rule would run now, with more of Snakemake's `--config`."""
        command = [*self.command("-n"), *config]
        output = subprocess.run(command, **self.surroundings, capture_output=True, text=True).stdout
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}

    @property
    def table2_record(self) -> Path:
        return next(path for path in self.records if "task=sst2" in path.parts)

    @property
    def records(self) -> list[Path]:
        return sorted((self.folder / "results/smoke/runs").rglob(records.NAME))
