"""What a profile of conf/profile consists of."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.config import checks


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
        full_scale: Whether its models are the paper's own; what an experiment's file has under `full_scale` then holds.
        shorter: Another profile of the same experiments, which costs less; `python -m pipeline.plan` prints both.
        epochs: What the profile's `budget` refers to, by task.
        judged: Whether its numbers mean anything, so that `python -m pipeline.check` can judge them.
    """

    name: str = field(metadata=checks.name())
    results: str
    experiments: list[str] | None
    seeds: list[int] = field(metadata=checks.not_empty())
    encoders: list[str] = field(metadata=checks.not_empty())
    encoder_decoders: list[str] = field(metadata=checks.not_empty())
    capacity_encoder_decoder: str = field(metadata=checks.name())
    decoders: list[str] = field(metadata=checks.not_empty())
    instruction_decoders: list[str] = field(metadata=checks.not_empty())
    glue_tasks: list[str] = field(metadata=checks.not_empty())
    cache: str
    mirror: str | None
    build_mirror: str | None
    threads: int = field(metadata=checks.at_least(1))
    gpus: int = field(metadata=checks.at_least(0))
    processes: int = field(default=1, metadata=checks.at_least(1))
    tracking: str = field(default="after", metadata=checks.one_of("live", "after", "off"))
    translation_tests: list[str] = field(default_factory=list)
    standardize: bool = False
    instructions: dict[str, Any] = field(default_factory=dict)
    budgets: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, Any] = field(default_factory=dict)
    full_scale: bool = False
    shorter: str | None = None
    epochs: dict[str, int] = field(default_factory=dict)
    judged: bool = True

    @property
    def cores(self) -> int:
        """How many cores a run keeps busy."""
        return self.threads * max(1, self.gpus, self.processes)
