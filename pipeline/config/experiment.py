"""What a table or figure of conf/experiment consists of, and how its methods are compared."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.config import checks


@dataclass
class Statistics:
    """How methods are compared: `pipeline.comparison.paired.compare` has the meaning of the numbers.

    Attributes:
        candidate: The method that is judged.
        references: What it is judged against.
        margin: Points by which it may be worse and still be as good.
        fraction: Of the reference's gain over what needs no training, what may be lost.
        confidence: Of the intervals.
        power: The chance of a decision for which the seeds that are missing are counted.
    """

    candidate: str
    references: list[str] = field(metadata=checks.not_empty())
    margin: float = field(metadata=checks.above(0))
    fraction: float = field(metadata=checks.fraction())
    confidence: float = field(metadata=checks.between(0.5, 1))
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

    methods: list[str] = field(metadata=checks.not_empty())
    above: float
    deviation: float = field(metadata=checks.above(0))
    baselines: list[str] = field(default_factory=list)
    exceptions: dict[str, float] = field(default_factory=dict)


@dataclass
class Halving:
    """How a search spares most of its runs: every one is made for a part of its steps, and the best are made in full.

    Attributes:
        fraction: Of the steps, those of the first rung.
        keep: How many combinations of each model and method are promoted; more where the last of them has equals.
    """

    fraction: float = field(metadata=checks.between(0, 1))
    keep: int = field(metadata=checks.at_least(1))


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
    scale: str = field(metadata=checks.one_of("linear", "log", "log2"))
    series: list[str] = field(metadata=checks.not_empty())


@dataclass
class Setting:
    """One row of a comparison.

    Attributes:
        method: A file of conf/method.
        overrides: What is special about it.
    """

    method: str
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass
class Steps:
    """The training steps that an experiment of estimates is of: every combination of models, axes and methods.

    What a step is made of comes from `conf/model/` and `conf/method/`, as a run of the paper profile has it; then, each
    over what comes before: the model's `measured`, `recipe`, the model's own fields and, in the fitted reading, its
    `fitted_length` and `fitted`; the method's and the axes' values.

    Attributes:
        models: Files of conf/model, to the fields that are special about each.
        methods: The column `method`, to the file of conf/method under `method` where it has another name, and fields.
        recipe: Fields of `lorafa.memory.recipe.Recipe`.
        fitted: More of them, in the fitted reading alone.
        axes: A column to its values, of the field of that name; or to a name for each, with the fields it stands for.
        like: An experiment whose steps these are.
        decimal: Methods whose published parameters are in units of 10⁶; those of others are in units of 2²⁰.
    """

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    fitted: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Any] = field(default_factory=dict)
    like: str | None = None
    decimal: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """What the experiments of a kind are made of, and what makes their table and figure.

    Attributes:
        source: "scores" of runs, by pipeline/evaluate.py; their records of "training" alone; "experiments", the runs of
            others; or "estimates", without runs, by pipeline/memory.py.
        table: Function of a module of pipeline/tables, as `module:function`; none: there is a figure alone.
        figure: Function of a module of pipeline/figures; none: there is a table alone.
        numbers: Function of a module of pipeline that returns what the figure shows.
        drawn: Whether there is a figure without an experiment's asking for it by `plot`.
        basis: What the numbers are, on the report's first page; for runs, the profile says it.
    """

    source: str
    table: str | None = None
    figure: str | None = None
    numbers: str | None = None
    drawn: bool = False
    basis: str | None = None


FULL_SCALE = "estimated at full scale"
KINDS = {
    "glue": Kind("scores", table="glue:build"),
    "translation": Kind("scores", table="translation:build"),
    "mmlu": Kind("scores", table="mmlu:build"),
    "natural-instructions": Kind("scores", table="natural_instructions:build"),
    "search": Kind("training", table="search:build"),
    "sensitivity": Kind("training", table="sensitivity:build"),
    "comparison": Kind("training", table="comparison:build"),
    "benchmark": Kind("scores", table="comparison:build"),
    "question": Kind(
        "scores",
        table="questions:build",
        figure="questions:draw",
        numbers="tables.questions:points",
        drawn=True,
    ),
    "heatmap": Kind("training", figure="sensitivity:draw", numbers="figures.sensitivity:numbers", drawn=True),
    "convergence": Kind(
        "training", figure="convergence:draw", numbers="figures.convergence:numbers", drawn=True
    ),
    "pareto": Kind("experiments", figure="pareto:draw", numbers="figures.pareto:numbers", drawn=True),
    "verdicts": Kind("experiments", table="verdicts:build"),
    "evidence": Kind("experiments", table="evidence:build"),
    "memory": Kind(
        "estimates",
        table="memory:build",
        figure="memory:draw_lines",
        numbers="tables.memory:read_estimates",
        basis=FULL_SCALE,
    ),
    "breakdown": Kind(
        "estimates",
        table="memory:build_breakdown",
        figure="memory:draw_breakdown",
        numbers="tables.memory:read_breakdown",
        drawn=True,
        basis=FULL_SCALE,
    ),
    "throughput": Kind(
        "estimates",
        table="throughput:build",
        figure="memory:draw_throughput",
        numbers="tables.throughput:read",
        basis="modelled",
    ),
    "equal-memory": Kind("estimates", table="throughput:build_equal_memory", basis="modelled"),
    "published": Kind(
        "estimates",
        table="published:build",
        figure="published:draw",
        numbers="tables.published:read",
        drawn=True,
        basis=FULL_SCALE,
    ),
    "fits": Kind(
        "estimates",
        table="fits:build",
        figure="fits:draw",
        numbers="tables.fits:read",
        drawn=True,
        basis=FULL_SCALE,
    ),
    "complexity": Kind("estimates", table="memory:build_complexity", basis="counted"),
    "parameters": Kind("estimates", table="memory:build_parameters", basis="counted"),
}

# Where an experiment comes from, with its heading in the report unless it has its own.
SECTIONS = {
    "paper": "Paper",
    "rebuttal": "Reviews and rebuttal",
    "reviewers": "Reviews and rebuttal",
    "questions": "When does freezing A cost something?",
    "beyond": "Beyond the paper",
}


@dataclass
class Experiment:
    """A table or figure: its words, the published numbers beside it, and the grid of its runs if it has any.

    Attributes:
        name: The file's.
        title: Of the table.
        kind: A key of `KINDS`.
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
        settings: In place of methods, where not every combination is wanted: by label. An axis may have other values
            for each of them.
        seeds: In place of the profile's, for all runs, or by task or method.
        tuned_by: A `search` whose winners the runs take; none: the learning rates of conf/method.
        choice: Of a search: the learning rate with the best "mean" of its runs, or with the best "worst" one.
        halving: Of a search: by which runs it spares the others; null: all of them are made in full.
        pairs: Of a `question`: each setting that is judged, to those that it is compared with.
        compares: Other experiments, whose runs a table of `verdicts` or `evidence` compares.
        plot: How the numbers are drawn, where they are.
        bar: What the numbers must reach, where they can be judged.
        overrides: What is special about all of its runs.
        steps: What is estimated, where there are no runs.
        only_full_scale: Whether other profiles leave it out: their models could not tell anything.
    """

    name: str = field(metadata=checks.name())
    title: str
    kind: str = field(metadata=checks.one_of(*KINDS))
    reference: str
    caption: str
    section: str = field(default="beyond", metadata=checks.one_of(*SECTIONS))
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
    choice: str = field(default="mean", metadata=checks.one_of("mean", "worst"))
    halving: Halving | None = None
    pairs: dict[str, list[str]] = field(default_factory=dict)
    compares: list[str] = field(default_factory=list)
    plot: Plot | None = None
    bar: Bar | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    steps: Steps | None = None
    only_full_scale: bool = False

    @property
    def drawn(self) -> bool:
        """Whether there is a figure of it."""
        return self.plot is not None or KINDS[self.kind].drawn

    @property
    def tabled(self) -> bool:
        """Whether there is a table of it."""
        return KINDS[self.kind].table is not None

    @property
    def category(self) -> str:
        """The heading that it stands under in the report."""
        return self.heading or SECTIONS[self.section]

    @property
    def evaluated(self) -> bool:
        """Whether it needs its runs' evaluations, and not only their training's records."""
        return KINDS[self.kind].source == "scores"

    @property
    def estimated(self) -> bool:
        """Whether it is made of estimates, without runs."""
        return KINDS[self.kind].source == "estimates"
