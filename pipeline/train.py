"""Trains one run and writes its record: `python -m pipeline.train model=minilm method=lora-fa task=sst2 seed=0`.

The run's directory follows from its configuration (pipeline/config/paths.py). A run that was interrupted goes on from
its last checkpoint; a run that is done is left alone, one that another process trains is waited for. With `-m` and
comma-separated values, trains every combination.
"""

import math
import shlex
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import pipeline.config.paths  # noqa: F401 - registers the resolvers that name a run's directory
from pipeline import assets, files
from pipeline.assets import needs
from pipeline.cli import job
from pipeline.config.compose import CONF, run_directory, validate
from pipeline.config.schema import RunConfig
from pipeline.errors import ProcessError
from pipeline.results import locks, records
from pipeline.training import sweep


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
@sweep.one_run
def _hydra_main(cfg: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    run = validate(cfg, dict(hydra_config.runtime.choices), list(hydra_config.overrides.task))
    record = train(run, run_directory(run), list(hydra_config.overrides.task))
    return score(run, record)


def score(run: RunConfig, record: records.Record) -> float | None:
    """Returns what a Hydra sweeper compares runs by: the best score, the worst of all for a run that failed."""
    info = record.train_info
    if not info.done:
        return -math.inf if run.greater_is_better else math.inf
    return info.best.score if info.best else None


def train(run: RunConfig, directory: Path, overrides: list[str]) -> records.Record:
    """Trains a run in its directory, unless it is done, and returns its record."""
    config_hash = files.fingerprint(run.identity())
    with locks.held(directory):
        record = records.read_if_current(directory, config_hash)
        if record is None:
            return _train(run, directory, config_hash, overrides)
    print(f"{directory}: already done", flush=True)
    return record


def _train(run: RunConfig, directory: Path, config_hash: str, overrides: list[str]) -> records.Record:
    wanted = needs.of_run(run)
    assets.require([wanted["model"], wanted["data"]], run.profile.mirror)
    from pipeline.training import gpus
    from pipeline.training.fit import CHECKPOINTS

    command = shlex.join(["python", "-m", "pipeline.train", *overrides])
    compute = _compute if run.world_size == 1 else _compute_together
    with gpus.reserved(run.profile.gpus):
        record = compute(run, directory, config_hash, command)
    shutil.rmtree(directory / CHECKPOINTS, ignore_errors=True)
    print(_summary(directory, run, record.train_info), flush=True)
    return record


def _compute(run: RunConfig, directory: Path, config_hash: str, command: str) -> records.Record:
    """Trains a run in this process and writes its record; of several processes, the first one writes."""
    from pipeline.results import card, provenance
    from pipeline.tracking.live import tracked
    from pipeline.training import peak_memory
    from pipeline.training.distributed import group
    from pipeline.training.fit import fit

    peak_memory.release()
    if run.world_size > 1:
        group.join(cpu=run.profile.gpus == 0)
    with tracked(run, directory, "train", config_hash) if group.is_first() else nullcontext() as tracker:
        start = time.monotonic()
        result = fit(run, directory, config_hash, tracker)
        result.info.wall_time_seconds = round(time.monotonic() - start, 3)
        record = records.Record(
            run_info=provenance.run_info(run, config_hash, command),
            train_info=result.info,
            meta_info=provenance.meta_info(result.sources),
        )
        alone = result.info.status == records.OUT_OF_MEMORY  # the other processes do not know
        if group.is_first() or alone:
            card.write(directory, record)
            records.write(directory, record)
        if tracker is not None:
            tracker.conclude(record)
    if alone and group.size() > 1:
        raise ProcessError(str(result.info.problem))  # which ends the others
    return record


def _compute_together(run: RunConfig, directory: Path, config_hash: str, command: str) -> records.Record:
    """Trains a run in several processes."""
    from pipeline.training import checkpoints
    from pipeline.training.distributed.launch import launch
    from pipeline.training.fit import CHECKPOINTS
    from pipeline.training.interruption import Interrupted

    try:
        return launch(run.world_size, _compute, run, directory, config_hash, command)
    except Interrupted:
        start = checkpoints.start(directory / CHECKPOINTS / config_hash)
        raise Interrupted(f"interrupted; the same command goes on from {start}") from None
    except ProcessError:
        record = records.read_if_current(directory, config_hash)
        if record is None:
            raise
        return record


def _summary(directory: Path, run: RunConfig, info: records.TrainInfo) -> str:
    best = info.best
    result = f"{run.task.metric} {best.score:.4f} at step {best.step}" if best else info.status
    name = str(directory).rsplit("/runs/", 1)[-1]
    return f"{name}: {result}, {info.wall_time_seconds:.0f} s"


def _status(run: RunConfig, directory: Path) -> str | None:
    record = records.read_if_current(directory, files.fingerprint(run.identity()))
    return record.train_info.status if record else None


@job
def main() -> None:
    """Runs the command line."""
    sweep.start(_hydra_main, _status)


if __name__ == "__main__":
    main()
