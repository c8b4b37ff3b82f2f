"""What a run consists of, as conf/ says it: its model, method, task, budget and trainer."""

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from lorafa.options import Gradient, InitA, Recompute
from pipeline.config import checks
from pipeline.config.budget import Budget
from pipeline.config.metrics import METRICS
from pipeline.config.profile import Profile

# Kinds of methods whose adapters have a rank.
ADAPTED = ("lora", "lora-fa", "miss")

# Task kind to the kind of model that it takes.
KINDS = {"classification": "encoder", "translation": "encoder-decoder", "instructions": "decoder"}

# What no run's identity has, as it changes no weights or stands elsewhere.
WITHOUT_EFFECT = {
    "model": ("batch_size", "rank", "adapter_dropout", "targets", "measured", "fitted_length"),
    "method": ("lr", "rank"),
    "task": ("epochs", "scoring", "max_length", "max_target_length"),
    "trainer": ("epochs", "sharding"),  # the order of sums alone depends on it, as on the kind of GPU
}
PRESENTATION = ("label", "short", "paper")
# What an identity has only where it is chosen: or runs without it would all be others than before.
OPTIONS = {
    "budget": ["micro_batch", "fraction"],
    "method": ["gradient", "rslora", "resample", "recompute", "memory_budget"],
    "task": ["held_out"],
    "trainer": ["checkpointing", "tf32"],
}


@dataclass
class Model:
    """A pretrained model, with the adapters' rank and dropout that the paper gives it.

    Attributes:
        name: The file's.
        label: In captions.
        short: In tables.
        paper: The model whose published numbers stand beside it.
        kind: Which tasks it is for.
        repository: On the hub.
        revision: A commit or branch of the repository.
        batch_size: What a budget may refer to.
        frozen_dtype: Of weights that are not trained; `auto` is resolved for the machine (`config.precision`).
        rank: Of its adapters, unless the method has its own.
        adapter_dropout: Of its adapters' input, unless the method has its own.
        targets: Which of its linear layers get adapters, unless the method has its own.
        measured: What the paper's measurements of its memory turned out to be of: fields of `lorafa.memory.recipe`.
        fitted_length: Tokens that those measurements' padded batches turned out to have; null for the stated lengths.
    """

    name: str = field(metadata=checks.name())
    label: str
    short: str
    paper: str
    kind: str = field(metadata=checks.one_of(*KINDS.values()))
    repository: str = field(metadata=checks.repository())
    revision: str
    batch_size: int = field(metadata=checks.at_least(1))
    frozen_dtype: str = field(metadata=checks.one_of("float32", "bfloat16", "float16"))
    rank: int = field(metadata=checks.at_least(1))
    adapter_dropout: float = field(metadata=checks.fraction())
    targets: str = field(default="all-linear", metadata=checks.targets())
    measured: dict[str, Any] = field(default_factory=dict)
    fitted_length: int | None = field(default=None, metadata=checks.at_least(1))


@dataclass
class Method:
    """A way to fine-tune; fields that a kind does not use are null.

    Attributes:
        name: The file's.
        label: In captions.
        short: In tables.
        kind: The function of pipeline/methods that applies it.
        rank: Of the adapters; the run's `rank` follows it.
        lr: By model; the run's `lr` follows it.
        targets: Which linear layers get adapters.
        dropout: Of the adapters' input.
        virtual_tokens: Of a prompt.
        init_A: How the frozen A starts.
        gradient: Whether B's is multiplied by s⁻²(AAᵀ)⁻¹.
        rslora: Whether an adapter is scaled by α / √r in place of α / r.
        resample: Steps after which A is drawn anew, and what was learnt is merged; null: never.
        recompute: What the backward pass computes again in place of keeping it.
        layer_fraction: The part of the layers, from the last, that gets adapters.
        quantization: Of the frozen weights.
        memory_budget: Of a device, such as `24GiB`; it decides what LoRA-FA computes again, in place of `recompute`.
    """

    name: str = field(metadata=checks.name())
    label: str
    short: str
    kind: str = field(metadata=checks.one_of("untuned", "full-ft", "prompt-tuning", *ADAPTED))
    rank: int | None = field(metadata=checks.at_least(1))
    lr: dict[str, float]
    targets: str | None = field(default=None, metadata=checks.targets())
    dropout: float | None = field(default=None, metadata=checks.fraction())
    virtual_tokens: int | None = field(default=None, metadata=checks.at_least(1))
    init_A: str | None = field(  # noqa: N815 - the paper's name
        default=None, metadata=checks.one_of(*get_args(InitA))
    )
    gradient: str | None = field(default=None, metadata=checks.one_of(*get_args(Gradient)))
    rslora: bool = False
    resample: int | None = field(default=None, metadata=checks.at_least(1))
    recompute: list[str] = field(default_factory=list, metadata=checks.each_of(*get_args(Recompute)))
    layer_fraction: float = field(
        default=1.0, metadata={"check": (lambda value: 0 < value <= 1, "must be above 0 and at most 1")}
    )
    quantization: str | None = field(default=None, metadata=checks.one_of("nf4"))
    memory_budget: str | None = field(default=None, metadata=checks.size())


@dataclass
class Classification:
    """What is read of a classification data set.

    Attributes:
        text_columns: One text, or a pair; the labels are in the column `label`.
        num_labels: How many classes there are; 1 for regression.
        standardize: Whether a regression learns labels of mean 0 and deviation 1, those of the training split; what
            it predicts is mapped back.
    """

    text_columns: list[str] = field(metadata=checks.not_empty())
    num_labels: int = field(metadata=checks.at_least(1))
    standardize: bool = False


@dataclass
class Translation:
    """What is translated, and how.

    Attributes:
        source_language: Its key in the column `translation`.
        target_language: Its key in the column `translation`.
        prefix: What stands before each input.
        num_beams: Of the search when a test is translated.
        length_penalty: Of that search.
    """

    source_language: str
    target_language: str
    prefix: str
    num_beams: int = field(metadata=checks.at_least(1))
    length_penalty: float


@dataclass
class Instructions:
    """What is read of an instruction data set.

    Attributes:
        format: How its rows are laid out.
        held_out: Rows of the training data that are set aside for validation.
        sample: Rows to train on, drawn at random; None: all that are not held out.
        sample_seed: Decides both draws.
        train_tasks: The tasks to train on, for natural-instructions; none of either: the data set's own split.
        heldout_tasks: The tasks to test on, for natural-instructions.
    """

    format: str = field(metadata=checks.one_of("alpaca", "flan", "natural-instructions"))
    held_out: int = field(metadata=checks.at_least(1))
    sample: int | None = field(default=None, metadata=checks.at_least(1))
    sample_seed: int = 0
    train_tasks: list[str] = field(default_factory=list, metadata=checks.names())
    heldout_tasks: list[str] = field(default_factory=list, metadata=checks.names())


@dataclass
class Benchmark:
    """A multiple-choice benchmark in MMLU's schema.

    Attributes:
        repository: On the hub.
        revision: A commit or branch of the repository.
        form: What is scored of each choice, its letter or its words.
        shots: Exemplars in front of each question.
        questions: At most so many of each subject; null for all.
    """

    repository: str = field(metadata=checks.repository())
    revision: str
    form: str = field(metadata=checks.one_of("letters", "continuation"))
    shots: int = field(metadata=checks.at_least(0))
    questions: int | None = field(default=None, metadata=checks.at_least(1))


@dataclass
class Scoring:
    """What a finished run is scored on; nothing here changes its training.

    Attributes:
        splits: Splits of the task's data set.
        examples: At most so many of each split; null for all.
        benchmark: MMLU, or what has its schema.
    """

    splits: list[str] = field(default_factory=list)
    examples: int | None = field(default=None, metadata=checks.at_least(1))
    benchmark: Benchmark | None = None


@dataclass
class Task:
    """A data set of the hub, what is read from it and how it is scored; of the three kinds' parts, its own is given.

    Attributes:
        name: The file's.
        label: In tables.
        kind: The module of pipeline/tasks that trains and scores it.
        repository: On the hub.
        revision: A commit or branch of the repository.
        subset: The data set's configuration; null where it has none.
        train_split: What is trained on.
        validation_splits: What each evaluation during training is made on.
        metric: What decides which checkpoint is the best.
        epochs: By model; what a budget may refer to.
        max_length: What a budget may refer to.
        max_target_length: What a budget may refer to.
        held_out: Share of the training split that is set aside and takes the place of the validation splits, for a
            classification; null: none.
        classification: For tasks of this kind.
        translation: For tasks of this kind.
        instructions: For tasks of this kind.
        scoring: What a finished run is scored on.
    """

    name: str = field(metadata=checks.name())
    label: str
    kind: str = field(metadata=checks.one_of(*KINDS))
    repository: str = field(metadata=checks.repository())
    revision: str
    subset: str | None
    train_split: str
    validation_splits: list[str]
    metric: str = field(metadata=checks.one_of(*METRICS))
    epochs: dict[str, int]
    max_length: int = field(metadata=checks.at_least(4))
    max_target_length: int | None = field(default=None, metadata=checks.at_least(4))
    held_out: float | None = field(default=None, metadata=checks.between(0, 1))
    classification: Classification | None = None
    translation: Translation | None = None
    instructions: Instructions | None = None
    scoring: Scoring = field(default_factory=Scoring)


@dataclass
class Trainer:
    """Optimizer and schedule, of conf/recipe/, and how many processes train together.

    Attributes:
        optimizer: By its name in transformers.
        weight_decay: Of AdamW.
        warmup_ratio: The part of the steps in which the learning rate rises.
        schedule: What the learning rate does after that, by its name in transformers.
        max_grad_norm: Gradients are clipped to it.
        similar_lengths: Over how many batches' examples batches of similar length are made; null: drawn at random.
        sharding: How several processes train together: `fsdp`, with a part of the frozen weights each; null for one.
        checkpointing: Whether whole blocks are computed again in backward; it takes LoRA-FA's advantage away (§3.2).
        tf32: Whether GPUs multiply float32 matrices in TF32, with 10 bits of mantissa; on CPUs it changes nothing.
        epochs: By task, in place of the task's own; what a budget may refer to.
    """

    optimizer: str = field(metadata=checks.one_of("adamw_torch", "adamw_torch_fused", "sgd"))
    weight_decay: float = field(metadata=checks.at_least(0))
    warmup_ratio: float = field(metadata=checks.fraction())
    schedule: str = field(metadata=checks.one_of("linear", "constant", "constant_with_warmup", "cosine"))
    max_grad_norm: float = field(metadata=checks.above(0))
    similar_lengths: int | None = field(default=None, metadata=checks.at_least(2))
    sharding: str | None = field(default=None, metadata=checks.one_of("fsdp"))
    checkpointing: bool = False
    tf32: bool = False
    epochs: dict[str, int] = field(default_factory=dict)


@dataclass
class RunConfig:
    """Everything about one run.

    Attributes:
        profile: What the run belongs to.
        budget: How long it trains.
        model: What is fine-tuned.
        method: How.
        task: On what.
        trainer: With which optimizer.
        seed: Of the head, the adapters, the batches and dropout.
        rank: Of the adapters; by default the method's.
        alpha: Of the adapters, whose output is scaled by alpha / rank; by default 4 × rank, and 2 × from rank 64 on.
        lr: The learning rate; by default the method's for the model.
        tuned_by: The search that chose the learning rate, for the record.
    """

    profile: Profile
    budget: Budget
    model: Model
    method: Method
    task: Task
    trainer: Trainer
    seed: int = field(metadata=checks.at_least(0))
    rank: int | None = field(metadata=checks.at_least(1))
    alpha: float | None = field(metadata=checks.above(0))
    lr: float | None = field(metadata=checks.above(0))
    tuned_by: str | None = None

    def identity(self) -> dict[str, Any]:
        """Returns what determines the trained weights; two runs with the same identity are the same run."""
        run = asdict(self)
        del run["profile"], run["tuned_by"]
        for part, keys in WITHOUT_EFFECT.items():
            for key in (*keys, *PRESENTATION):
                run[part].pop(key, None)
        for part, options in OPTIONS.items():
            for option in options:
                if not run[part][option]:
                    del run[part][option]
        return run

    def evaluation_identity(self) -> dict[str, Any]:
        """Returns what determines the scores of the trained weights."""
        return {"run": self.identity(), "scoring": asdict(self.task.scoring)}

    @property
    def world_size(self) -> int:
        """How many processes train the run together."""
        if self.trainer.sharding is None or self.method.kind == "untuned":
            return 1
        return self.profile.gpus or self.profile.processes

    @property
    def greater_is_better(self) -> bool:
        """Whether a larger value of the task's metric is the better one."""
        return METRICS[self.task.metric].greater_is_better
