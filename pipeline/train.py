"""Trains one run and writes its record: `python -m pipeline.train model=minilm method=lora-fa task=sst2 seed=0`.

The run's directory follows from its configuration (pipeline/runs.py). A run that was interrupted goes on from its last
checkpoint; a run that is done is left alone. With `-m` and comma-separated values, trains every combination.
"""

import shlex
import shutil
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import pipeline.runs  # noqa: F401 - registers the resolvers that name a run's directory
from pipeline import records
from pipeline.config import CONF, RunConfig, validate
from pipeline.job import job


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    run = validate(cfg, dict(hydra_config.runtime.choices), list(hydra_config.overrides.task))
    train(run, Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task))


def train(run: RunConfig, directory: Path, overrides: list[str]) -> dict[str, Any]:
    """Trains a run in its directory, unless it is done, and returns its record."""
    path = directory / records.NAME
    config_hash = records.fingerprint(run.identity())
    record = records.read_if_current(path, config_hash)
    if record is not None:
        print(f"{directory}: already done", flush=True)
        return record

    from pipeline import gpus, provenance
    from pipeline.training import fit

    start = time.monotonic()
    with gpus.reserved(run.profile.gpus):
        outcome = fit(run, directory, config_hash)
    outcome.info["wall_time_seconds"] = round(time.monotonic() - start, 3)
    command = shlex.join(["python", "-m", "pipeline.train", *overrides])
    record = {
        "run_info": provenance.run_info(run, config_hash, command),
        "train_info": outcome.info,
        "meta_info": provenance.meta_info(outcome.sources),
    }
    records.write(path, record)
    shutil.rmtree(outcome.checkpoints, ignore_errors=True)
    print(_summary(directory, run, record["train_info"]), flush=True)
    return record


def _summary(directory: Path, run: RunConfig, info: dict[str, Any]) -> str:
    best = info["best"]
    result = f"{run.task.metric} {best['score']:.4f} at step {best['step']}" if best else info["status"]
    name = str(directory).rsplit("/runs/", 1)[-1]
    return f"{name}: {result}, {info['wall_time_seconds']:.0f} s"


@job
def main() -> None:
    """Runs the command line."""
    _hydra_main()


if __name__ == "__main__":
    main()
