"""A Slurm of our own on this machine, and a copy of the project that uses it."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.results import records
from pipeline.training.checkpoints import SEAL, step_of
from tests.pipeline import tiny
from tests.pipeline.project import Project

SCRIPT = Path(__file__).with_name("cluster.sh")
PLUGIN = "snakemake_executor_plugin_slurm"
MISSING = os.EX_UNAVAILABLE  # what the script says where there is no Slurm


class Cluster:
    """Two nodes and a controller, as cluster.sh makes them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def script(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Its daemons keep what they are given as standard output, and a pipe would never end.
        with (self.folder / "script.log").open("w+") as log:
            result = subprocess.run(
                [SCRIPT, command, self.folder, *arguments], stdout=log, stderr=log, text=True
            )
            log.seek(0)
            result.stdout = log.read()
        return result

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """What `source FOLDER/env` makes of an environment."""
        path = f"{self.folder / 'bin'}:{base['PATH']}"
        return {**base, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def run(self, *command: str) -> str:
        environment = self.environment(os.environ)
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return result.stdout.strip()

    def jobs(self, rule: str = "") -> list[dict[str, str]]:
        """The jobs of a rule that Slurm remembers, the last first, as `scontrol show job` describes them."""
        lines = self.run("scontrol", "--oneliner", "show", "job").splitlines()
        found = [
            dict(re.findall(r"([\w/]+)=(\S*)", line)) for line in lines if f"Comment=rule_{rule}" in line
        ]
        return sorted(found, key=lambda job: int(job["JobId"]), reverse=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not importlib.util.find_spec(PLUGIN):
        pytest.skip(f'there is no {PLUGIN} here: `pip install -c requirements.lock -e ".[cluster]"`')
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    started = cluster.script("start")
    if started.returncode == MISSING:
        pytest.skip(f"there is no Slurm here: {started.stdout.strip()}")
    assert started.returncode == 0, started.stdout
    yield cluster
    cluster.script("stop")


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder and the GLUE of the tiny mirror."""
    root = tmp_path_factory.mktemp("mirror")
    tiny.write_encoder(root / "models/lorafa/all-MiniLM-L6-v2-roberta")
    tiny.write_glue(root / "datasets/nyu-mll/glue")
    return root


class ClusterProject(Project):
    """A copy of the project, with two methods, whose runs are jobs of the cluster."""

    def __init__(self, folder: Path, mirror: Path, cluster: Cluster, steps: int):
        mine = [f"profile.mirror={mirror}", "profile.build_mirror=null", "budget.batch_size=8"]
        super().__init__(folder, [*mine, "budget.evaluations=4", f"budget.max_steps={steps}"])
        self.cluster = cluster
        others = f"budget.batch_size=8/budget.evaluations=4/budget.max_steps={steps}/task.held_out=0.1"
        name = f"model=minilm/method=lora-fa/task=mrpc/rank=8/lr=1e-3/{others}/seed=0"
        self.run = folder / "results/smoke/runs" / name  # one of them
        for experiment in ("search", "table2"):
            file = folder / f"conf/experiment/{experiment}.yaml"
            text = re.sub(r"^methods: .*", "methods: [lora, lora-fa]", file.read_text(), flags=re.MULTILINE)
            file.write_text(text)

    def command(self, *arguments: str, target: str = "tables") -> list[str]:
        # The plugin has to be that of this Python, whichever `snakemake` is on the path.
        return [sys.executable, "-m", *super().command(*arguments, target=target)]

    def submitted(self, target: str, *arguments: str) -> list[str]:
        """The command by which the cluster does it, and is asked every few seconds how it goes."""
        profile = ["--workflow-profile", "profiles/slurm"]
        soon = ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5"]
        return self.command(*profile, *soon, *arguments, target=target)

    @property
    def record(self) -> str:
        """The record of its one run, as a target."""
        return str((self.run / records.NAME).relative_to(self.folder))

    @property
    def surroundings(self) -> dict[str, Any]:
        given = super().surroundings
        return {**given, "env": self.cluster.environment(given["env"])}

    def checkpoints(self) -> list[int]:
        """The steps of the run's checkpoints that are whole."""
        return sorted(step_of(seal.parent) for seal in self.run.glob(f"checkpoints/*/*/{SEAL}"))


@pytest.fixture(scope="session")
def make_project(mirror: Path, cluster: Cluster) -> Callable[[Path, int], ClusterProject]:
    """Makes a copy of the project in a folder, whose runs have so many steps."""
    return lambda folder, steps: ClusterProject(folder, mirror, cluster, steps)
