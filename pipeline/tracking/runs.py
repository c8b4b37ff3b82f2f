"""A job's record as a run of Weights & Biases, the same whether it is written while the job computes or afterwards."""

import hashlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline import files
from pipeline.config.metrics import METRICS
from pipeline.results import records
from pipeline.results.records import FILES, JobType
from pipeline.tracking.artifacts import log_adapter

AnyRecord = records.Record | records.EvaluationRecord
READERS: dict[JobType, Callable[[Path], AnyRecord]] = {
    "train": records.read,
    "evaluate": records.read_evaluation,
}
UNNAMED = ("model", "method", "task")  # their values say which they are
GIB = 2**30
MARK = "record.sha256"  # in a folder of W&B's: of which record it is
INIT_TIMEOUT_SECONDS = 30.0  # a job does not wait longer for W&B's server


@dataclass(frozen=True)
class Job:
    """What W&B calls a job.

    Attributes:
        directory: The directory of the run of the pipeline, `.../runs/model=<m>/.../seed=<s>`.
        job_type: Training or scoring it.
        config_hash: As in the job's record.
    """

    directory: Path
    job_type: JobType
    config_hash: str

    @property
    def name(self) -> str:
        """The run's path below the profile's runs."""
        return self.directory.as_posix().rsplit("/runs/", 1)[-1]

    @property
    def title(self) -> str:
        """The run's values alone, as short as they tell runs apart: `minilm lora-fa sst2 rank 8 lr 3e-3 seed 0`."""
        parts = [part.partition("=") for part in self.name.split("/")]
        named = [value if key in UNNAMED else f"{key.rpartition('.')[2]} {value}" for key, _, value in parts]
        return " ".join(named)

    @property
    def group(self) -> str:
        """The run's path without the seed."""
        return self.name.rpartition("/seed=")[0]

    @property
    def id(self) -> str:
        """The same for the same configuration in the same place, so that a run that goes on stays one run.

        It begins with the values in the run's path: `wandb leet` lists runs by their ids.
        """
        values = "-".join(part.partition("=")[2] for part in self.name.split("/"))
        readable = re.sub(r"[^\w.-]", "", values)[:64]
        return f"{readable}-{self._place}-{self.config_hash}"

    @property
    def record(self) -> Path:
        """The file with the job's record."""
        return self.directory / FILES[self.job_type]

    @property
    def _place(self) -> str:
        return f"{self.job_type}-{files.fingerprint(self.name)[:8]}"

    def folders(self, results: Path) -> list[Path]:
        """Returns W&B's folders of this job, of its earlier configurations, too."""
        return sorted(results.glob(f"wandb/*run-*-{self._place}-*"))

    def is_written(self, results: Path) -> bool:
        """Says whether there is a run of W&B that holds the record as it is now."""
        content = self._content()
        return any(
            mark.read_text() == content
            for mark in (folder / MARK for folder in self.folders(results))
            if mark.is_file()
        )

    def mark_written(self, folder: Path) -> None:
        """Notes in W&B's folder of a finished run that it holds the record as it is now."""
        (folder / MARK).write_text(self._content())

    def _content(self) -> str:
        return hashlib.sha256(self.record.read_bytes()).hexdigest()


def library(results: Path) -> ModuleType:
    """Imports wandb, silent, and with its files in a profile's folder of results."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_DATA_DIR", str(results.absolute()))
    import wandb

    return wandb


def project(profile: str) -> str:
    """Returns the project of a profile's runs; WANDB_PROJECT names another."""
    return os.environ.get("WANDB_PROJECT") or f"lorafa-{profile}"


def start(
    job: Job, config: dict[str, Any], results: Path, mode: str, live: bool, tags: Iterable[str] = ()
) -> Any:
    """Starts a run of W&B and returns it, in place of what there is of the job.

    It is not `wandb.run`: runs that share a process do not see each other's.

    Args:
        job: What it shows.
        config: The job's configuration, as in its record.
        results: The profile's folder of results; W&B's files are in `wandb/` there.
        mode: `online` or `offline`.
        live: Whether the machine's use is of interest: the job is computing now, here.
        tags: Besides the names of profile, model, method and task.
    """
    wandb = library(results)
    model, method, task = (config[part] for part in ("model", "method", "task"))
    profile = config["profile"]["name"]
    names = [profile, model["name"], method["name"], task["name"], *tags]
    for folder in job.folders(results):  # an interrupted run logs again what its checkpoint remembers
        shutil.rmtree(folder)
    results.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project(profile),
        dir=str(results),
        id=job.id,
        name=job.title,
        group=job.group,
        job_type=job.job_type,
        tags=names,
        config={
            **config,
            "profile": profile,
            "config_hash": job.config_hash,
            "combination": combination(job.group),
            "contender": f"{model['short']} ({method['short']})",
        },
        mode=mode,
        reinit="create_new",
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(
            console="off",  # standard output, the repository and the environment are the job's own business
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_save_requirements=False,
            x_disable_meta=not live,
            x_disable_stats=not live,
            init_timeout=INIT_TIMEOUT_SECONDS,
        ),
    )
    if job.job_type == "train":
        _define_metrics(run, task["metric"])
    return run


def combination(group: str) -> str:
    """Returns a short name of a group for the filters of reports, in which an equals sign has a meaning."""
    return files.fingerprint(group)


def write(job: Job, results: Path, tags: Iterable[str] = ()) -> None:
    """Writes a finished job's record as an offline run.

    Raises:
        RecordError: The record is missing, cut short or not a record.
    """
    record = READERS[job.job_type](job.directory)
    config = record.run_info.config
    run = start(job, config, results, "offline", live=False, tags=tags)
    try:
        if isinstance(record, records.Record):
            log_history(run, record.train_info, config["budget"]["batch_size"])
        conclude(run, job, record)
    finally:
        run.finish()
    job.mark_written(Path(run.settings.sync_dir))


def log_history(
    run: Any, history: records.History, batch_size: int, steps_per_epoch: float | None = None
) -> None:
    """Logs what W&B does not have yet of a training run's history; called again with a longer one, logs the rest.

    Args:
        run: The run of W&B.
        history: What was measured so far.
        batch_size: Examples in a step.
        steps_per_epoch: Taken from the evaluations where it is not given.
    """
    for row in rows(history, batch_size, steps_per_epoch):
        if row["step"] >= run.step:  # rows of one step are joined, those of earlier steps are there
            run.log(row, step=row["step"])


def rows(
    history: records.History, batch_size: int, steps_per_epoch: float | None = None
) -> list[dict[str, Any]]:
    """Returns a training run's history as a row of metrics for each step that there is something of.

    `train/seconds` is the time spent on steps so far; the rates are those since the row before. Arguments as for
    `log_history`.
    """
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for at in history.losses:
        found[at.step]["train/loss"] = at.loss
    for spent in history.training_seconds:
        found[spent.step]["train/seconds"] = spent.seconds
    for entry in history.evaluations:
        found[entry.step] |= {"validation/score": entry.score} | {
            f"validation/{key.removeprefix('validation_')}": value
            for key, value in entry.others.items()
            if key != "validation"  # a single split has the score itself
        }
        steps_per_epoch = steps_per_epoch or entry.step / entry.epoch
    result = []
    last_step, last_seconds = 0, 0.0
    for step, metrics in sorted(found.items()):
        seconds = metrics.get("train/seconds", 0.0)
        if step > last_step and seconds > last_seconds:
            rate = (step - last_step) / (seconds - last_seconds)
            metrics["train/steps_per_second"] = rate
            metrics["train/examples_per_second"] = rate * batch_size
            last_step, last_seconds = step, seconds
        epoch = step / steps_per_epoch if steps_per_epoch else None
        row = {"step": step, "epoch": epoch, **metrics}
        result.append({key: value for key, value in row.items() if value is not None})
    return result


def conclude(run: Any, job: Job, record: AnyRecord) -> None:
    """Adds what is known at a job's end: its summary, its table of metrics, and the adapter with its lineage.

    Args:
        run: The run of W&B.
        job: What it shows.
        record: The job's record.
    """
    from wandb import Table

    meta, info = record.meta_info, record.run_info
    facts: dict[str, Any] = {key: getattr(info, key) for key in ("git_commit", "git_dirty", "command")}
    if meta.machine:
        facts |= {"machine": records.as_json(meta.machine), "packages": meta.packages}
    run.config.update(facts)
    if isinstance(record, records.Record):
        summary = _training_summary(record.train_info)
        tables = {"evaluations": records.as_json(record.train_info.evaluations)}
    else:
        summary = _evaluation_summary(record.evaluation, info.task)
        scores = record.evaluation.scores.items()
        tables = {"scores": [{"metric": name, "value": value} for name, value in scores]}
    run.summary.update({key: value for key, value in summary.items() if value is not None})
    for name, entries in tables.items():
        if not entries:
            continue
        columns = list(entries[0])
        table = Table(columns=columns, data=[[entry[column] for column in columns] for entry in entries])
        run.summary[name] = table
    if isinstance(record, records.Record):
        log_adapter(run, job, record)


def _define_metrics(run: Any, metric: str) -> None:
    run.define_metric("step")
    run.define_metric("epoch", step_metric="step")
    run.define_metric("train/*", step_metric="step")
    run.define_metric("memory/*", step_metric="step")
    run.define_metric("validation/*", step_metric="epoch")
    best = "max" if METRICS[metric].greater_is_better else "min"
    run.define_metric("validation/score", step_metric="epoch", summary=best)
    run.define_metric("validation/loss", step_metric="epoch", summary="min")


def _training_summary(info: records.TrainInfo) -> dict[str, Any]:
    return {
        **_ended(info),
        "steps": info.steps,
        "tokens": info.tokens,
        "resumed_from_step": info.resumed_from_step,
        "best/score": info.best and info.best.score,
        "best/step": info.best and info.best.step,
        "parameters/trained": info.trainable_parameters,
        "parameters/all": info.total_parameters,
        "speed/step_seconds": info.step_time_seconds,
        "speed/tokens_per_second": info.tokens_per_second,
        "memory/saved_for_backward_gib": _gib(info.saved_for_backward_bytes),
        "memory/step_gib": _gib(info.step_memory_bytes),
    }


def _evaluation_summary(info: records.Evaluation, task: str) -> dict[str, Any]:
    return {
        **_ended(info),
        f"score/{task}": next(iter(info.scores.values()), None),  # the headline comes first
        **{f"scores/{name}": value for name, value in info.scores.items()},
    }


def _ended(info: records.Ended) -> dict[str, Any]:
    return {
        "status": info.status,
        "problem": info.problem,
        "speed/wall_seconds": info.wall_time_seconds,
        **peak_memory(info.peak_memory_bytes),
    }


def peak_memory(peaks: dict[str, int]) -> dict[str, float]:
    """Returns peaks in bytes, by kind, as metrics in GiB."""
    return {f"memory/peak_{kind}_gib": peak / GIB for kind, peak in peaks.items()}


def _gib(size: int | None) -> float | None:
    return None if size is None else size / GIB
