"""What a run came to: its record, `metrics.json`, its evaluation, `evaluation.json`, and what lies beside them."""

import hashlib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_type_hints

from pipeline.config import paths
from pipeline.errors import RecordError
from pipeline.files import read_json, sha256, write_json

NAME, EVALUATION = paths.RECORD, paths.EVALUATION
PREDICTIONS = "predictions.parquet"
SAVED_MODEL = "model"
DONE = "done"
DIVERGED = "diverged"
OUT_OF_MEMORY = "out_of_memory"
JobType = Literal["train", "evaluate"]
FILES = {"train": NAME, "evaluate": EVALUATION}  # what a job writes
# Of both files. Those without a number are of format 1.
FORMAT = 1
T = TypeVar("T")


@dataclass
class RunInfo:
    """What was run.

    Attributes:
        config: The resolved configuration, a `RunConfig` as a dictionary.
        config_hash: Of what determines the result: `RunConfig.identity()`, or `evaluation_identity()`.
        git_commit: Of the code; None outside of a repository.
        git_dirty: Whether there were changes besides.
        command: What a person types for the same.
    """

    config: dict[str, Any]
    config_hash: str
    git_commit: str | None
    git_dirty: bool
    command: str

    @property
    def model(self) -> str:
        """The name of its model."""
        return str(self.config["model"]["name"])

    @property
    def method(self) -> str:
        """The name of its method."""
        return str(self.config["method"]["name"])

    @property
    def task(self) -> str:
        """The name of its task."""
        return str(self.config["task"]["name"])


@dataclass
class Score:
    """An evaluation during training.

    Attributes:
        step: After which.
        epoch: At that step.
        score: Of the task's metric; None where it was not finite.
        others: What was measured besides; in the file it stands beside the rest.
    """

    step: int
    epoch: float
    score: float | None
    others: dict[str, float | None] = field(default_factory=dict)


@dataclass
class Loss:
    """The training loss at a step; None where it was not finite."""

    step: int
    loss: float | None


@dataclass
class Seconds:
    """What all steps up to one have taken, without evaluations."""

    step: int
    seconds: float


@dataclass(kw_only=True)
class History:
    """What was measured while a run trained."""

    evaluations: list[Score] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    training_seconds: list[Seconds] = field(default_factory=list)


@dataclass(kw_only=True)
class Ended:
    """How a training or a scoring ended.

    Attributes:
        status: DONE, DIVERGED or OUT_OF_MEMORY.
        problem: Why it is not DONE.
        wall_time_seconds: What it took in all.
        peak_memory_bytes: By kind of memory.
    """

    status: str
    problem: str | None = None
    wall_time_seconds: float = 0.0
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether it came to its regular end."""
        return self.status == DONE


@dataclass(kw_only=True)
class TrainInfo(Ended, History):
    """What a training came to; numbers are None where nothing was trained, or not to the end.

    Attributes:
        metric: The task's, of which the scores are.
        best: The evaluation whose weights are kept.
        last: The last evaluation.
        steps: Of the optimizer.
        trainable_parameters: How many train.
        total_parameters: How many there are.
        tokens: Seen, without padding.
        step_time_seconds: The median.
        tokens_per_second: At the median step's time.
        saved_for_backward_bytes: Activations that the first step kept.
        step_memory_bytes: These, with weights, gradients and the optimizer's state.
        resumed_from_step: Where the last start went on.
        communication: Bytes of a step between several processes.
        selection: Which rows of the data were used.
        update_scale: s·‖a‖ of the adapters at the start (`pipeline.methods.update_scale`).
    """

    metric: str
    best: Score | None
    last: Score | None
    steps: int
    trainable_parameters: int
    total_parameters: int | None = None
    tokens: int | None = None
    step_time_seconds: float | None = None
    tokens_per_second: float | None = None
    saved_for_backward_bytes: int | None = None
    step_memory_bytes: int | None = None
    resumed_from_step: int | None = None
    communication: dict[str, Any] | None = None
    selection: dict[str, Any] | None = None
    update_scale: float | None = None


@dataclass(kw_only=True)
class Evaluation(Ended):
    """What a scoring came to.

    Attributes:
        scores: By name; the headline comes first.
        details: What they are made of.
        checkpoint: A hash of the weights that were scored.
    """

    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None


@dataclass
class Machine:
    """What a job ran on."""

    platform: str
    python: str
    processor: str
    cores: int | None
    torch_threads: int | None = None
    gpus: list[str] = field(default_factory=list)


@dataclass
class Material:
    """A repository that a job read.

    Attributes:
        repository: Its id on the hub.
        path: Where it was read from.
        revision: What the configuration asked for.
        commit: What that was, on the hub.
        version: A hash of its contents, in a mirror of our own.
        about: What it says of itself; `stand_in`, where it is not what its name says.
    """

    repository: str
    path: str | None = None
    revision: str | None = None
    commit: str | None = None
    version: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def stand_in(self) -> str | None:
        """What it really is, where it stands in for what its name says."""
        return self.about.get("stand_in")

    @property
    def read(self) -> str:
        """What says which files were read: a commit of the hub, or a version of the mirror's contents."""
        return self.commit or self.version or self.revision or "of no known revision"


@dataclass
class MetaInfo:
    """What a job ran on and with; empty where it had nothing to do."""

    packages: dict[str, str | None] = field(default_factory=dict)
    machine: Machine | None = None
    model: Material | None = None
    data: Material | None = None
    benchmark: Material | None = None

    @property
    def materials(self) -> list[Material]:
        """The repositories that it read."""
        return [material for material in (self.model, self.data, self.benchmark) if material]


@dataclass
class Record:
    """`metrics.json`, which training writes."""

    run_info: RunInfo
    train_info: TrainInfo
    meta_info: MetaInfo


@dataclass
class EvaluationRecord:
    """`evaluation.json`, which scoring writes."""

    run_info: RunInfo
    evaluation: Evaluation
    meta_info: MetaInfo


def read(directory: str | Path) -> Record:
    """Reads the record of the run in a directory.

    Raises:
        RecordError: It is missing, cut short, of another format or not a record.
    """
    return _read(Path(directory, NAME), Record)


def read_evaluation(directory: str | Path) -> EvaluationRecord:
    """Reads the evaluation of the run in a directory.

    Raises:
        RecordError: As for `read`.
    """
    return _read(Path(directory, EVALUATION), EvaluationRecord)


def read_ended(directory: str | Path, job: str) -> TrainInfo | Evaluation | None:
    """Returns how a run's training or scoring ended; None where there is nothing, or nothing that can be read."""
    try:
        return read(directory).train_info if job == "train" else read_evaluation(directory).evaluation
    except RecordError:
        return None


def read_if_current(directory: str | Path, config_hash: str) -> Record | None:
    """Returns the record of a finished run with this configuration, or None when it is to be run (again)."""
    try:
        record = read(directory)
    except RecordError:
        return None
    return record if record.run_info.config_hash == config_hash else None


def write(directory: str | Path, record: Record | EvaluationRecord) -> None:
    """Writes a record or an evaluation into a run's directory, whole or not at all."""
    name = NAME if isinstance(record, Record) else EVALUATION
    write_json(Path(directory, name), {"format": FORMAT, **as_json(record)})


def as_json(record: Any) -> Any:
    """Returns a record, or a part of one, as it is in the file."""
    if isinstance(record, Score):
        return {"step": record.step, "epoch": record.epoch, "score": record.score, **record.others}
    if is_dataclass(record):
        return {item.name: as_json(getattr(record, item.name)) for item in fields(record)}
    return [as_json(item) for item in record] if isinstance(record, list) else record


def fingerprint_of_weights(directory: Path) -> str:
    """Returns a hash of the weights that the training of a run saved, if it saved any."""
    digest = hashlib.sha256()
    for file in sorted((directory / SAVED_MODEL).glob("*.safetensors")):
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


def validated(directory: Path, weights: str) -> Path:
    """Returns where a run's training leaves what it predicted with the weights of this fingerprint, and no others."""
    return directory / SAVED_MODEL / f"validated-{weights}.parquet"


def _read(path: Path, kind: type[T]) -> T:
    data = read_json(path, list(_parts(cast(Any, kind))))
    if (found := data.get("format", FORMAT)) != FORMAT:
        raise RecordError(
            f"{path} is of format {found}, and this version reads format {FORMAT}: use the version that wrote it, or "
            "delete it and run again to redo this one run"
        )
    try:
        typed: T = _typed(kind, data)
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{path} is not a run's record ({error}): delete it and run again to redo this one run"
        ) from error
    return typed


def _typed(kind: Any, data: dict[str, Any]) -> Any:
    """Makes a dataclass, and those in it, of what `as_json` made of one; keys that it does not know are left out.

    Raises:
        KeyError: A field that has no default is missing.
    """
    values: dict[str, Any] = {}
    for item in fields(kind):
        if item.name in data or (item.default is MISSING and item.default_factory is MISSING):
            values[item.name] = _value(_parts(kind)[item.name], data[item.name])
    if kind is Score:
        values["others"] = {key: value for key, value in data.items() if key not in values}
    return kind(**values)


def _value(kind: Any, value: Any) -> Any:
    if kind is None or value is None:
        return value
    return [_typed(kind, item) for item in value] if isinstance(value, list) else _typed(kind, value)


@cache
def _parts(kind: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass, each with the dataclass that it holds, if it does, alone or in a list."""
    hints = get_type_hints(kind)
    parts = {name: (hint, *get_args(hint)) for name, hint in hints.items()}
    return {name: next(filter(is_dataclass, found), None) for name, found in parts.items()}
