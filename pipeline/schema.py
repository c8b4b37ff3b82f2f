"""The schema of conf/: what a profile, a run and an experiment consist of, with the values that each key may have."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from lorafa.options import DataFreeInit

Check = tuple[Callable[[Any], object], str]

_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_REPOSITORY = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}", re.ASCII)
_OF_LETTERS = "must be of letters, digits, _, . and -, the last two not at its start"

# Task kind to the kind of model that it takes.
KINDS = {"classification": "encoder", "translation": "encoder-decoder", "instructions": "decoder"}
SMALLER_IS_BETTER = ("loss",)
FRACTIONS = (
    "accuracy",
    "matthews_correlation",
    "pearson",
)  # in records; BLEU and ROUGE-L are in percent there
TARGETS = ("all-linear", "attention", "qv")  # lorafa.targets.SHORTHANDS, without importing torch


def _at_least(low: float) -> dict[str, Check]:
    return {"check": (lambda value: value >= low, f"must be at least {low:g}")}


def _above(low: float) -> dict[str, Check]:
    return {"check": (lambda value: value > low, f"must be greater than {low:g}")}


def _fraction() -> dict[str, Check]:
    return {"check": (lambda value: 0 <= value < 1, "must be at least 0 and below 1")}


def _one_of(*choices: str) -> dict[str, Check]:
    return {"check": (lambda value: value in choices, f"must be one of {', '.join(choices)}")}


def _not_empty() -> dict[str, Check]:
    return {"check": (lambda value: len(value) > 0, "must not be empty")}


# Names and repositories become parts of paths: none of them may lead out of the folder that it is looked for in.
def _names() -> dict[str, Check]:
    return {"check": (lambda values: all(map(_NAME.fullmatch, values)), f"each {_OF_LETTERS}")}


def _name() -> dict[str, Check]:
    return {"check": (_NAME.fullmatch, _OF_LETTERS)}


def _repository() -> dict[str, Check]:
    return {"check": (_REPOSITORY.fullmatch, "must be <organisation>/<name>, as on the hub")}


@dataclass
class Profile:
    """Which models, seeds and sources a set of results has; nothing in it changes the result of a run.

    Attributes:
        name: The file's.
        results: The folder of its results.
        experiments: Which of conf/experiment it makes; null for all.
        seeds: Of every run, unless an experiment has its own.
        encoders: The models of Table 2.
        encoder_decoders: The models of Table 3.
        capacity_encoder_decoder: The model of translation with more novelty than low ranks hold.
        decoders: The models of Table 4.
        instruction_decoders: The models of the rebuttal's experiment on held-out tasks.
        glue_tasks: The tasks of Table 2.
        cache: Where downloads, prepared data and plans stay.
        mirror: A folder that is read in place of the Hugging Face hub; null for the hub.
        build_mirror: The file of conf/mirror by which the DAG builds that folder; null where it is given.
        threads: Of each run; of each of its processes, where it has several.
        gpus: Of each run, one for each of its processes; 0 for the CPU.
        processes: Of each run, where they compute on the CPU.
        tracking: When a run is logged to W&B: `live`, by its job while it computes; `after`, by
            `python -m pipeline.dashboard`; or never, `off`.
        translation_tests: The test splits that translation is scored on.
        standardize: Whether regressions learn standardised labels.
        instructions: What the instruction tasks' files refer to.
        budgets: What the profile's `budget` refers to, by model.
        grids: What the experiments' axes refer to.
        judged: Whether its numbers mean anything, so that `python -m pipeline.check` can judge them.
    """

    name: str = field(metadata=_name())
    results: str
    experiments: list[str] | None
    seeds: list[int] = field(metadata=_not_empty())
    encoders: list[str] = field(metadata=_not_empty())
    encoder_decoders: list[str] = field(metadata=_not_empty())
    capacity_encoder_decoder: str = field(metadata=_name())
    decoders: list[str] = field(metadata=_not_empty())
    instruction_decoders: list[str] = field(metadata=_not_empty())
    glue_tasks: list[str] = field(metadata=_not_empty())
    cache: str
    mirror: str | None
    build_mirror: str | None
    threads: int = field(metadata=_at_least(1))
    gpus: int = field(metadata=_at_least(0))
    processes: int = field(default=1, metadata=_at_least(1))
    tracking: str = field(default="after", metadata=_one_of("live", "after", "off"))
    translation_tests: list[str] = field(default_factory=list)
    standardize: bool = False
    instructions: dict[str, Any] = field(default_factory=dict)
    budgets: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, Any] = field(default_factory=dict)
    judged: bool = True

    @property
    def cores(self) -> int:
        """How many cores a run keeps busy."""
        return self.threads * max(1, self.gpus, self.processes)


@dataclass
class Budget:
    """How long a run trains: either `epochs` or `max_steps` is given.

    Attributes:
        epochs: Passes over the training data.
        max_steps: Optimizer steps.
        evaluations: How often it is evaluated, evenly spread; null: after each epoch.
        batch_size: Examples in a step.
        max_length: Tokens of an input; the rest is cut off.
        max_target_length: Tokens of a translation or an answer.
    """

    epochs: int | None = field(metadata=_at_least(1))
    max_steps: int | None = field(metadata=_at_least(1))
    evaluations: int | None = field(metadata=_at_least(1))
    batch_size: int = field(metadata=_at_least(1))
    max_length: int = field(metadata=_at_least(4))
    max_target_length: int | None = field(metadata=_at_least(4))

    def steps(self, examples: int) -> tuple[int, int]:
        """Returns how many steps a run makes on so many examples, and after how many of them it is evaluated."""
        epoch = math.ceil(examples / self.batch_size)
        total = self.max_steps or epoch * (self.epochs or 0)
        return total, math.ceil(total / self.evaluations) if self.evaluations else epoch


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
        frozen_dtype: Of weights that are not trained; `auto` is resolved for the machine (pipeline/precision.py).
        rank: Of its adapters, unless the method has its own.
        adapter_dropout: Of its adapters' input, unless the method has its own.
    """

    name: str = field(metadata=_name())
    label: str
    short: str
    paper: str
    kind: str = field(metadata=_one_of(*KINDS.values()))
    repository: str = field(metadata=_repository())
    revision: str
    batch_size: int = field(metadata=_at_least(1))
    frozen_dtype: str = field(metadata=_one_of("float32", "bfloat16", "float16"))
    rank: int = field(metadata=_at_least(1))
    adapter_dropout: float = field(metadata=_fraction())


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
        layer_fraction: The part of the layers, from the last, that gets adapters.
        quantization: Of the frozen weights.
    """

    name: str = field(metadata=_name())
    label: str
    short: str
    kind: str = field(metadata=_one_of("untuned", "full-ft", "prompt-tuning", "lora", "lora-fa"))
    rank: int | None = field(metadata=_at_least(1))
    lr: dict[str, float]
    targets: str | None = field(default=None, metadata=_one_of(*TARGETS))
    dropout: float | None = field(default=None, metadata=_fraction())
    virtual_tokens: int | None = field(default=None, metadata=_at_least(1))
    init_A: str | None = field(  # noqa: N815 - the paper's name
        default=None, metadata=_one_of(*get_args(DataFreeInit))
    )
    layer_fraction: float = field(
        default=1.0, metadata={"check": (lambda value: 0 < value <= 1, "must be above 0 and at most 1")}
    )
    quantization: str | None = field(default=None, metadata=_one_of("nf4"))


@dataclass
class Classification:
    """What is read of a classification data set.

    Attributes:
        text_columns: One text, or a pair; the labels are in the column `label`.
        num_labels: How many classes there are; 1 for regression.
        standardize: Whether a regression learns labels of mean 0 and deviation 1, those of the training split; what
            it predicts is mapped back.
    """

    text_columns: list[str] = field(metadata=_not_empty())
    num_labels: int = field(metadata=_at_least(1))
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
    num_beams: int = field(metadata=_at_least(1))
    length_penalty: float


@dataclass
class Instructions:
    """What is read of an instruction data set.

    Attributes:
        format: How its rows are laid out.
        held_out: Rows of the training data that are set aside for validation.
        sample: Rows to train on, drawn at random; None: all that are not held out.
        sample_seed: Decides both draws.
        train_tasks: The tasks to train on, for natural-instructions.
        heldout_tasks: The tasks to test on, for natural-instructions.
    """

    format: str = field(metadata=_one_of("alpaca", "flan", "natural-instructions"))
    held_out: int = field(metadata=_at_least(1))
    sample: int | None = field(default=None, metadata=_at_least(1))
    sample_seed: int = 0
    train_tasks: list[str] = field(default_factory=list, metadata=_names())
    heldout_tasks: list[str] = field(default_factory=list, metadata=_names())


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

    repository: str = field(metadata=_repository())
    revision: str
    form: str = field(metadata=_one_of("letters", "continuation"))
    shots: int = field(metadata=_at_least(0))
    questions: int | None = field(default=None, metadata=_at_least(1))


@dataclass
class Scoring:
    """What a finished run is scored on; nothing here changes its training.

    Attributes:
        splits: Splits of the task's data set.
        examples: At most so many of each split; null for all.
        benchmark: MMLU, or what has its schema.
    """

    splits: list[str] = field(default_factory=list)
    examples: int | None = field(default=None, metadata=_at_least(1))
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
        classification: For tasks of this kind.
        translation: For tasks of this kind.
        instructions: For tasks of this kind.
        scoring: What a finished run is scored on.
    """

    name: str = field(metadata=_name())
    label: str
    kind: str = field(metadata=_one_of(*KINDS))
    repository: str = field(metadata=_repository())
    revision: str
    subset: str | None
    train_split: str
    validation_splits: list[str]
    metric: str = field(metadata=_one_of("accuracy", "matthews_correlation", "pearson", "bleu", "loss"))
    epochs: dict[str, int]
    max_length: int = field(metadata=_at_least(4))
    max_target_length: int | None = field(default=None, metadata=_at_least(4))
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
    """

    optimizer: str = field(metadata=_one_of("adamw_torch", "adamw_torch_fused", "sgd"))
    weight_decay: float = field(metadata=_at_least(0))
    warmup_ratio: float = field(metadata=_fraction())
    schedule: str = field(metadata=_one_of("linear", "constant", "constant_with_warmup", "cosine"))
    max_grad_norm: float = field(metadata=_above(0))
    similar_lengths: int | None = field(default=None, metadata=_at_least(2))
    sharding: str | None = field(default=None, metadata=_one_of("fsdp"))


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
    seed: int = field(metadata=_at_least(0))
    rank: int | None = field(metadata=_at_least(1))
    alpha: float | None = field(metadata=_above(0))
    lr: float | None = field(metadata=_above(0))
    tuned_by: str | None = None

    def identity(self) -> dict[str, Any]:
        """Returns what determines the trained weights; two runs with the same identity are the same run."""
        run = asdict(self)
        del (
            run["profile"],
            run["tuned_by"],
            run["method"]["lr"],
            run["task"]["epochs"],
            run["task"]["scoring"],
            run["trainer"]["sharding"],  # the order of sums alone depends on it, as on the kind of GPU
        )
        for part in ("model", "method", "task"):
            for presentation in ("label", "short", "paper"):
                run[part].pop(presentation, None)
        for part, replaced in (
            ("model", ("batch_size", "rank", "adapter_dropout")),
            ("method", ("rank",)),
            ("task", ("max_length", "max_target_length")),
        ):
            for key in replaced:  # what counts is in the budget, the rank and the method
                del run[part][key]
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
        return self.task.metric not in SMALLER_IS_BETTER


@dataclass
class Statistics:
    """How methods are compared: `pipeline.statistics.compare` has the meaning of the numbers.

    Attributes:
        candidate: The method that is judged.
        references: What it is judged against.
        margin: Points by which it may be worse and still be as good.
        confidence: Of the intervals.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
        power: The chance of a decision for which the seeds that are missing are counted.
    """

    candidate: str
    references: list[str] = field(metadata=_not_empty())
    margin: float = field(metadata=_above(0))
    confidence: float = field(
        metadata={"check": (lambda value: 0.5 < value < 1, "must be above 0.5 and below 1")}
    )
    resamples: int = field(metadata=_at_least(100))
    seed: int = field(metadata=_at_least(0))
    power: float = field(
        default=0.8, metadata={"check": (lambda value: 0.5 <= value < 1, "must be at least 0.5 and below 1")}
    )


@dataclass
class Bar:
    """What the numbers of a table must reach, or `python -m pipeline.check` fails and the table marks them.

    Attributes:
        methods: Those that train, whose every cell is judged; a row of another method is judged as a whole.
        above: Points by which a mean must exceed what needs no training: a task's best baseline, or the untuned model.
        deviation: Points by which seeds may deviate.
        baselines: Those that count; all of them, where none is named.
        exceptions: In place of `above`, by task, where the data can show less.
    """

    methods: list[str] = field(metadata=_not_empty())
    above: float
    deviation: float = field(metadata=_above(0))
    baselines: list[str] = field(default_factory=list)
    exceptions: dict[str, float] = field(default_factory=dict)


@dataclass
class Plot:
    """How a table's numbers are drawn.

    Attributes:
        x: The column along x.
        label: Of the axis.
        scale: Of the axis.
        series: The columns whose values have a line each.
    """

    x: str
    label: str
    scale: str = field(metadata=_one_of("linear", "log2"))
    series: list[str] = field(metadata=_not_empty())


@dataclass
class Setting:
    """One row of a comparison.

    Attributes:
        method: A file of conf/method.
        overrides: What is special about it.
    """

    method: str
    overrides: dict[str, Any] = field(default_factory=dict)


# Kinds of experiment whose runs are scored by pipeline/evaluate.py; for the others, training's own record will do.
EVALUATED = ("glue", "translation", "mmlu", "natural-instructions")
WITHOUT_RUNS = ("memory", "breakdown", "complexity", "parameters", "throughput")
OF_TRAINING = ("search", "sensitivity", "heatmap", "convergence", "comparison")
DRAWN = ("breakdown", "heatmap", "convergence", "pareto")
FIGURES_ONLY = ("heatmap", "convergence", "pareto")
# Where an experiment comes from, with its heading in the report unless it has its own.
SECTIONS = {
    "paper": "Paper",
    "rebuttal": "Reviews and rebuttal",
    "reviewers": "Reviews and rebuttal",
    "beyond": "Beyond the paper",
}


@dataclass
class Experiment:
    """A table or figure: its words, the published numbers beside it, and the grid of its runs if it has any.

    Attributes:
        name: The file's.
        title: Of the table.
        kind: The module of pipeline/tables that builds it.
        reference: The file with the published numbers; empty where there are none.
        caption: What the rows and columns are.
        section: Who asked for it, which decides the targets that make it.
        heading: Of the section of the report that it stands in; null for that of `section`.
        priority: Runs of an experiment with a higher one come first; what needs no training comes before all.
        models: Files of conf/model.
        methods: Files of conf/method.
        tasks: Files of conf/task.
        axes: Overrides to their values, a list for all methods or one for each; every combination is a run for each
            model, method, task and seed.
        settings: In place of methods and axes, where not every combination is wanted: by label.
        seeds: In place of the profile's, for all runs, or by task or method.
        tuned_by: A `search` whose winners the runs take; none: the learning rates of conf/method.
        compares: Other experiments, whose runs a table of `verdicts` compares.
        plot: How the numbers are drawn, where they are.
        bar: What the numbers must reach, where they can be judged.
    """

    name: str = field(metadata=_name())
    title: str
    kind: str = field(metadata=_one_of(*EVALUATED, *OF_TRAINING, "pareto", "verdicts", *WITHOUT_RUNS))
    reference: str
    caption: str
    section: str = field(default="beyond", metadata=_one_of(*SECTIONS))
    heading: str | None = None
    priority: int = field(
        default=0, metadata={"check": (lambda value: 0 <= value <= 100, "must be from 0 to 100")}
    )
    models: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    axes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Setting] = field(default_factory=dict)
    seeds: Any = None
    tuned_by: str | None = None
    compares: list[str] = field(default_factory=list)
    plot: Plot | None = None
    bar: Bar | None = None

    @property
    def drawn(self) -> bool:
        """Whether there is a figure of it."""
        return self.plot is not None or self.kind in DRAWN

    @property
    def tabled(self) -> bool:
        """Whether there is a table of it."""
        return self.kind not in FIGURES_ONLY

    @property
    def category(self) -> str:
        """The heading that it stands under in the report."""
        return self.heading or SECTIONS[self.section]

    @property
    def evaluated(self) -> bool:
        """Whether it needs its runs' evaluations, and not only their training's records."""
        return self.kind in EVALUATED
