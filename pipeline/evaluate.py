"""Scores a finished run: `python -m pipeline.evaluate model=minilm method=lora-fa task=sst2 seed=0`.

Takes the arguments of `python -m pipeline.train` and loads what that run saved. Writes `evaluation.json` beside its
record, and `predictions.parquet` with a row for each example. Nothing is trained, and what training has already
predicted with the weights that it saved (for GLUE) is not predicted again. A run that diverged or ran out of
memory has no scores; its evaluation says so.
"""

import shlex
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import pipeline.config.paths  # noqa: F401 - registers the resolvers that name a run's directory
from pipeline import assets, files
from pipeline.assets import needs
from pipeline.cli import job
from pipeline.config.compose import CONF, run_directory, validate
from pipeline.config.schema import RunConfig
from pipeline.errors import RecordError
from pipeline.results import records
from pipeline.tracking.live import tracked
from pipeline.training import sweep

if TYPE_CHECKING:
    from pipeline import tasks
    from pipeline.assets import Source


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
@sweep.one_run
def _hydra_main(cfg: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    run = validate(cfg, dict(hydra_config.runtime.choices), list(hydra_config.overrides.task))
    evaluate(run, run_directory(run), list(hydra_config.overrides.task))


def evaluate(run: RunConfig, directory: Path, overrides: list[str]) -> records.EvaluationRecord:
    """Scores the run in a directory and returns its evaluation.

    Raises:
        RecordError: The run is not finished, has another configuration, or its weights are missing.
    """
    first = f"run `python -m pipeline.train {shlex.join(overrides)}` first"
    if not (directory / records.NAME).is_file():
        raise RecordError(f"{directory} has not been trained: {first}")
    record = records.read(directory)
    if record.run_info.config_hash != files.fingerprint(run.identity()):
        raise RecordError(f"{directory} was trained with another configuration: {first}")
    config_hash = files.fingerprint(run.evaluation_identity())
    command = shlex.join(["python", "-m", "pipeline.evaluate", *overrides])
    trained = record.train_info
    if trained.done:
        assets.require(needs.of_run(run).values(), run.profile.mirror)
    with tracked(run, directory, "evaluate", config_hash) as tracker:
        start = time.monotonic()
        if trained.done:
            info, meta = _score(run, directory)
        else:
            info, meta = (
                records.Evaluation(status=trained.status, problem=trained.problem),
                records.MetaInfo(),
            )
        info.wall_time_seconds = round(time.monotonic() - start, 3)
        from pipeline.results import provenance

        evaluation = records.EvaluationRecord(provenance.run_info(run, config_hash, command), info, meta)
        records.write(directory, evaluation)
        tracker.conclude(evaluation)
    print(_summary(directory, info), flush=True)
    return evaluation


def _score(run: RunConfig, directory: Path) -> tuple[records.Evaluation, records.MetaInfo]:
    """Scores a run, writes its predictions, and returns what to record and what it rests on."""
    import torch

    from pipeline.results import provenance
    from pipeline.tasks import evaluation_sources
    from pipeline.training import gpus, peak_memory

    torch.set_num_threads(run.profile.threads)
    gpus.multiply_in(tf32=run.trainer.tf32)
    folder = directory / records.SAVED_MODEL
    if run.method.kind != "untuned" and not folder.is_dir():
        raise RecordError(f"{folder} is gone: delete {directory / records.NAME} to train the run again")
    sources = evaluation_sources(run)
    base = sources["model"]
    weights = records.fingerprint_of_weights(directory)
    checkpoint = files.fingerprint([base.repository, base.version or base.commit, weights])
    peak_memory.reset_peak()
    with gpus.reserved(min(1, run.profile.gpus)):
        try:
            result = _result(run, directory, sources, weights, checkpoint)
        except Exception as error:
            if not peak_memory.is_out_of_memory(error):
                raise
            problem = str(error).splitlines()[0]
            info = records.Evaluation(status=records.OUT_OF_MEMORY, problem=problem)
            return info, provenance.meta_info(sources)
    files.write_table(directory / records.PREDICTIONS, result.predictions)
    info = records.Evaluation(
        status=records.DONE,
        scores=result.scores,
        details=result.details,
        checkpoint=checkpoint,
        peak_memory_bytes=peak_memory.peak(),
    )
    return info, provenance.meta_info(sources)


def _result(
    run: RunConfig, directory: Path, sources: "dict[str, Source]", weights: str, checkpoint: str
) -> "tasks.Evaluation":
    """Scores what training has predicted with the weights that it saved; without that, has them predict."""
    import pandas as pd
    import torch

    from pipeline import methods
    from pipeline.tasks import kind_of

    kind, validated = kind_of(run), records.validated(directory, weights)
    if validated.is_file():
        return kind.score_validated(run, pd.read_parquet(validated))
    tokenizer = kind.load_tokenizer(sources["model"])
    model = methods.load(run, sources["model"], directory / records.SAVED_MODEL)
    if run.profile.gpus:
        model.to(torch.device("cuda"))  # type: ignore[arg-type]
    autocast = methods.autocast_dtype(run)
    precision = torch.autocast(next(model.parameters()).device.type, autocast) if autocast else nullcontext()
    with torch.inference_mode(), precision:
        return kind.evaluate(run, sources, model, tokenizer, checkpoint)


def _summary(directory: Path, info: records.Evaluation) -> str:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in info.scores.items()) or info.status
    name = str(directory).rsplit("/runs/", 1)[-1]
    return f"{name}: evaluated in {info.wall_time_seconds:.0f} s: {scores}"


def _status(run: RunConfig, directory: Path) -> str | None:
    try:
        evaluation = records.read_evaluation(directory)
    except RecordError:
        return None
    current = evaluation.run_info.config_hash == files.fingerprint(run.evaluation_identity())
    return evaluation.evaluation.status if current else None


@job
def main() -> None:
    """Runs the command line."""
    sweep.start(_hydra_main, _status)


if __name__ == "__main__":
    main()
