"""Searches with Optuna: TPE proposes runs, those below the median of the others at the same step are stopped.

A trial is an ordinary run, trained by the ordinary command and read from its directory. So the tree of results is the
search's memory: the same search again goes through the same trials without training them again, and a run that was
stopped keeps its checkpoint, from which Snakemake or a sweep by hand completes it.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.table import Table

from pipeline import files
from pipeline.config.compose import compose_run
from pipeline.config.paths import run_dir, run_subdir, spell
from pipeline.errors import ConfigError, PipelineError
from pipeline.results.progress import Progress, State, progress

TRAIN = (sys.executable, "-m", "pipeline.worker", "run", "pipeline.train")
PAUSE = 0.3  # seconds between two looks at the runs' checkpoints


def search(overrides: Sequence[str], trials: int, jobs: int = 1, sampler_seed: int = 0) -> optuna.Study:
    """Searches for the best of the runs that overrides describe.

    Args:
        overrides: As for `pipeline.train`. Several values are searched (`rank=1,2,4`), and intervals on a
            logarithmic scale (`lr=interval(5e-5,5e-3)`, to two digits); the others are fixed.
        trials: How many runs to try.
        jobs: How many at a time.
        sampler_seed: Of the search; with the same one it proposes the same runs.

    Raises:
        ConfigError: There is nothing to search, or a value that cannot be used.
        PipelineError: A run broke off for a reason other than divergence or lack of memory.
    """
    fixed, space = parse(overrides)
    run, _ = compose_run(fixed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if run.greater_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=sampler_seed),
        pruner=optuna.pruners.MedianPruner(),
    )
    while len(study.trials) < trials:
        count = min(jobs, trials - len(study.trials))
        batch = [_Run(study.ask(space), fixed) for _ in range(count)]
        try:
            waiting = batch
            while waiting := [one for one in waiting if not one.ended()]:
                time.sleep(PAUSE)
        finally:
            for one in batch:
                one.stop()
        for one in batch:  # all at once and in one order, or the next proposals would depend on who was first
            one.tell(study)
    return study


def parse(overrides: Sequence[str]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """Returns the overrides that are fixed, and the space of the others.

    Raises:
        ConfigError: Nothing is left to search, or Hydra does not understand an override.
    """
    fixed: list[str] = []
    space: dict[str, BaseDistribution] = {}
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    for override in parsed:
        value = override.value()
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif isinstance(value, IntervalSweep):
            low, high = value.start or 0.0, value.end or 0.0
            if not 0 < low < high:
                raise ConfigError(f"{override.input_line}: an interval goes from above 0 to something larger")
            space[override.get_key_element()] = FloatDistribution(low, high, log=True)
        else:
            space[override.get_key_element()] = CategoricalDistribution(
                list(override.sweep_string_iterator())
            )
    if not space:
        raise ConfigError(
            "nothing to search: give several values, such as rank=1,2,4 or 'lr=interval(5e-5,5e-3)'"
        )
    return fixed, space


def table(study: optuna.Study) -> Table:
    """Returns the trials, best first, with what was stopped and what failed."""
    names = list(study.trials[0].params)
    result = Table("trial", *names, "outcome", "score", title=f"Optuna, {len(study.trials)} trials")
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1

    def rank(trial: FrozenTrial) -> tuple[bool, float]:
        return trial.state != TrialState.COMPLETE, sign * (trial.value or 0.0)

    for trial in sorted(study.trials, key=rank):
        score = "" if trial.value is None else f"{trial.value:.4f}"
        values = [_spelled(trial.params[name]) for name in names]
        result.add_row(str(trial.number), *values, trial.user_attrs["outcome"], score)
    return result


class _Run:
    """A trial's run: started when it has to be, followed by its checkpoints."""

    def __init__(self, trial: Trial, fixed: list[str]):
        self.trial = trial
        self.overrides = [*fixed, *(f"{key}={_spelled(value)}" for key, value in trial.params.items())]
        run, cfg = compose_run(self.overrides)
        self.metric = run.task.metric
        self.config_hash = files.fingerprint(run.identity())
        self.directory = Path(run_dir(cfg))
        self.log = Path(run.profile.results, "logs", f"{run_subdir(cfg).removeprefix('runs/')}.log")
        self.process: subprocess.Popen[Any] | None = None
        self.reported: set[int] = set()
        self.outcome = ""
        self.best: float | None = None

    def ended(self) -> bool:
        """Says whether the run has come to its end, or is stopped now."""
        exited = self.process is not None and self.process.poll() is not None
        found = progress(self.directory, self.config_hash)
        self._report(found)
        if found.state.ended:
            self.outcome, self.best = found.state.words, found.best(self.metric)
            return exited or self.process is None
        if exited:
            raise PipelineError(f"{self.directory}: {self._complaint()}")
        if found.scores and max(found.scores) < (found.steps or 0) and self.trial.should_prune():
            self.outcome = "stopped"
            return True
        if self.process is None:
            self.process = self._start()
        return False

    def stop(self) -> None:
        """Ends its process, which keeps its checkpoint."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def tell(self, study: optuna.Study) -> None:
        """Tells the outcome: to the sampler, what was stopped or failed is worse than all that was not."""
        self.trial.set_user_attr("outcome", self.outcome)
        self.trial.set_user_attr("directory", str(self.directory))
        if self.outcome == State.DONE and self.best is not None:
            study.tell(self.trial, self.best)
        else:
            study.tell(self.trial, state=TrialState.PRUNED)

    def _report(self, found: Progress) -> None:
        for step in sorted(found.scores.keys() - self.reported):
            self.trial.report(found.scores[step], step)
            self.reported.add(step)

    def _start(self) -> "subprocess.Popen[Any]":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            return subprocess.Popen([*TRAIN, *self.overrides], stderr=log)  # noqa: S603 - our own

    def _complaint(self) -> str:
        lines = self.log.read_text().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else f"broke off; {self.log} says why"


def _spelled(value: Any) -> str:
    return spell(float(f"{value:.2g}")) if isinstance(value, float) else str(value)
