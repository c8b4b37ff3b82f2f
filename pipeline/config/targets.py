"""What `snakemake tables`, `figures`, `rebuttal`, `questions` and `all` make, and in which order."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pipeline.config.experiment import Experiment
from pipeline.config.plan import Plan
from pipeline.errors import ConfigError, unknown

TARGETS = ("tables", "figures", "rebuttal", "questions", "all")

SECTIONS_OF = {"rebuttal": ("rebuttal", "reviewers"), "questions": ("questions",)}  # tables and figures alike

ROOT = Path(__file__).parents[2]
ESTIMATOR = (ROOT / "lorafa", ROOT / "pipeline/fullscale")  # the library, and what is estimated
PUBLISHED = (ROOT / "pipeline/published.py", ROOT / "results/published/gpu_memory.csv")
FIRST = 1000  # what needs no training: minutes, and a reader has something to read
QUICK = 200  # a table, a figure or a search's choice: seconds, once its runs are there


def experiments_of(plan: Plan, target: str) -> list[str]:
    """Returns the experiments that a target makes.

    The paper's figures are those experiments that are drawn; a table of a figure's numbers belongs to the figure. What
    reviewers asked for and the authors replied is the rebuttal's, tables and figures alike.

    Args:
        plan: The profile's plan.
        target: One of `TARGETS`.

    Raises:
        ConfigError: There is no such target.
    """
    if target not in TARGETS:
        raise ConfigError(unknown("target", target, TARGETS))
    return [name for name, experiment in plan.experiments.items() if _belongs(experiment, target)]


def _belongs(experiment: Experiment, target: str) -> bool:
    if target == "all":
        return True
    if target in SECTIONS_OF:
        return experiment.section in SECTIONS_OF[target]
    return experiment.section == "paper" and experiment.drawn == (target == "figures")


def files_of(plan: Plan, target: str) -> list[str]:
    """Returns the files of a target's tables and figures, of each the format that people read."""
    results, found = plan.profile.results, []
    for name in experiments_of(plan, target):
        if plan.experiments[name].tabled:
            found.append(f"{results}/tables/{name}.md")
        if plan.experiments[name].drawn:
            found.append(f"{results}/figures/{name}.svg")
    return found


@cache
def estimator(published: bool = False) -> str:
    """Returns a hash of what the memory estimates follow from: the code, and its rivals and their frameworks.

    Args:
        published: Whether what others have measured stands beside them.
    """
    digest = hashlib.sha256()
    sources = sorted(file for folder in ESTIMATOR for file in folder.rglob("*.py"))
    for source in (*sources, *(PUBLISHED if published else ())):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    for package in ("torch", "transformers", "peft"):
        digest.update(version(package).encode() + b"\0")
    return digest.hexdigest()[:16]


class Priorities:
    """Which jobs come first where several could: `Experiment.priority`, of several the highest.

    Args:
        plan: The profile's plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._runs: dict[str, int] = {}
        self._repositories: dict[str, int] = {}
        for name, runs in plan.candidates.items():
            for run in runs:
                priority = max(plan.experiments[name].priority, self._runs.get(run.directory, 0))
                self._runs[run.directory] = priority
        for directory, run in plan.runs.items():
            for repository in plan.mirrored([*run.repositories, *run.benchmarks]):
                self._raise(repository, self._runs[directory])

    def _raise(self, repository: str, priority: int) -> None:
        if priority > self._repositories.get(repository, -1):
            self._repositories[repository] = priority
            for needed in self._plan.mirror_needs(repository):
                self._raise(needed, priority)

    def run(self, name: str) -> int:
        """Returns that of training and scoring a run, by its path below `Plan.runs_folder`."""
        return self._runs.get(f"{self._plan.runs_folder}/{name}", 0)

    def repository(self, name: str) -> int:
        """Returns that of building a repository of the mirror: of the most urgent run that reads it."""
        return self._repositories.get(name, 0)

    def experiment(self, name: str) -> int:
        """Returns that of a table, a figure or the choice of a search."""
        described = self._plan.experiments[name]
        return (FIRST if described.estimated else QUICK) + described.priority
