"""The cost of a run: steps, operations, seconds on a GPU, and bytes of its device, of the machine and of its disk.

Steps and evaluations follow from the run's configuration and the sizes of its data (`pipeline.costs.sizes`); what a
step takes is estimated once for each shape (`pipeline.costs.measure`) and kept in `<cache>/plans/shapes/`, so that only
the first look at a model takes seconds. Lengths are those that texts are cut at: a batch of shorter texts costs less.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lorafa.memory.sizes import GIB
from pipeline import files
from pipeline.config.budget import Budget
from pipeline.config.plan import PlannedRun
from pipeline.config.profile import Profile
from pipeline.config.schema import RunConfig
from pipeline.costs.cards import Gpu
from pipeline.costs.shapes import VALIDATED_TOGETHER, Measured, Shape, shape_of
from pipeline.costs.sizes import Examples, examples_of

Part = Literal["training", "evaluation"]

# Share of a GPU's peak that runs are taken to reach; steps of large models on an A100 reach 0.3 to 0.5.
UTILISATION = 0.4
BANDWIDTH_UTILISATION = 0.8
# Of the machine, besides weights: measured are 0.5 GiB of a process with its imports; CUDA's libraries take more.
PROCESS_BYTES = 3 * GIB
# Tokens of a few-shot prompt, and of a question after it: an assumption, which decides about 1 % of a run of Table 4.
EXEMPLAR_TOKENS = 128
# Bytes of a row of predictions.parquet: numbers for classes, four log-likelihoods for MMLU, texts for the rest.
ROW_BYTES = {"classification": 20, "benchmark": 60, "text": 600}
CHECKPOINTS = 3  # the best, the last, and one that is being written


@dataclass(frozen=True)
class Cost:
    """The cost of one run, trained and scored.

    Attributes:
        steps: Optimizer steps.
        evaluations: Validations during training.
        training_flops: Operations of training, with its validations.
        validation_flops: Those of the validations.
        evaluation_flops: Operations of scoring the finished run.
        training_traffic: Bytes of weights that generating reads, token by token, during training.
        evaluation_traffic: The same of scoring.
        precision: That it computes in, by PyTorch's name, or `tf32`.
        training_bytes: Most bytes of the device that training takes; for a GPU, with the allocator's cache and context.
        scoring_bytes: Most bytes of the device that scoring takes.
        host_bytes: Most bytes of the machine's memory.
        saved_bytes: Of the adapter or the weights that it keeps.
        checkpoint_bytes: Of checkpoints, while it trains.
        prediction_bytes: Of its predictions, roughly.
        sources: Where the sizes of its data come from.
    """

    steps: int
    evaluations: int
    training_flops: float
    validation_flops: float
    evaluation_flops: float
    training_traffic: float
    evaluation_traffic: float
    precision: str
    training_bytes: int
    scoring_bytes: int
    host_bytes: int
    saved_bytes: int
    checkpoint_bytes: int
    prediction_bytes: int
    sources: frozenset[str]

    @property
    def flops(self) -> float:
        """Operations of training and scoring."""
        return self.training_flops + self.evaluation_flops

    @property
    def device_bytes(self) -> int:
        """Most bytes of the device that either takes."""
        return max(self.training_bytes, self.scoring_bytes)

    def seconds(self, gpu: Gpu, part: Part = "training", utilisation: float = UTILISATION) -> float:
        """Returns how long a part takes on a GPU: its operations, and for generating the reading of the weights.

        Args:
            gpu: A GPU.
            part: Training with its validations, or scoring.
            utilisation: The share of its peak that the GPU reaches.
        """
        flops = self.training_flops if part == "training" else self.evaluation_flops
        traffic = self.training_traffic if part == "training" else self.evaluation_traffic
        return flops / (gpu.peak(self.precision) * utilisation) + traffic / (
            gpu.bandwidth * BANDWIDTH_UTILISATION
        )


def cost_of(run: RunConfig) -> Cost:
    """Returns what a run costs.

    Raises:
        AssetError: The size of its data, or its model's configuration, is not known.
    """
    return cost_of_identity(run.identity(), asdict(run.task.scoring), run.profile)


def planned_cost(run: PlannedRun, profile: Profile) -> Cost:
    """Returns what a run of a plan costs, without composing its configuration.

    Raises:
        AssetError: As for `cost_of`.
    """
    return cost_of_identity(run.identity, run.scoring, profile)


def cost_of_identity(run: Mapping[str, Any], scoring: Mapping[str, Any], profile: Profile) -> Cost:
    """Returns what a run costs, from its `RunConfig.identity()` and its `Scoring` as a dictionary."""
    shape = shape_of(run, scoring, profile)
    step = measured(shape, profile.cache)
    examples = examples_of(run, scoring, profile)
    budget = Budget(**run["budget"])
    steps, every = budget.steps(examples.train) if shape.trained else (0, 1)
    evaluations = math.ceil(steps / every)
    translates = run["task"]["kind"] == "translation"
    validated = step.forward_flops + (_generated(step, shape) if translates else 0)
    validation = evaluations * examples.validation * validated
    batches = math.ceil(examples.validation / (VALIDATED_TOGETHER * budget.batch_size))
    read = step.weight_bytes * shape.max_new_tokens  # by generating one batch
    training_bytes = max(step.training_bytes, step.validation_bytes)
    kind = "benchmark" if examples.subjects else run["task"]["kind"]
    return Cost(
        steps=steps,
        evaluations=evaluations,
        training_flops=steps * step.training_flops + validation,
        validation_flops=validation,
        evaluation_flops=_scoring_flops(step, shape, examples, translates),
        training_traffic=evaluations * batches * read if translates else 0,
        evaluation_traffic=0
        if examples.subjects
        else math.ceil(examples.scored / shape.scored_together) * read,
        precision="tf32" if shape.precision == "float32" and run["trainer"].get("tf32") else shape.precision,
        training_bytes=training_bytes,
        scoring_bytes=step.scoring_bytes,
        host_bytes=PROCESS_BYTES
        + 2 * step.weight_bytes
        + (max(training_bytes, step.scoring_bytes) if shape.device == "cpu" else 0),
        saved_bytes=step.saved_bytes,
        checkpoint_bytes=CHECKPOINTS * (step.saved_bytes + 8 * step.trained) if every < steps else 0,
        prediction_bytes=examples.scored * ROW_BYTES.get(kind, ROW_BYTES["text"]),
        sources=examples.sources,
    )


def _generated(step: Measured, shape: Shape) -> float:
    """Returns the operations of generating one answer: the prompt is read once, and each beam once, token by token."""
    return step.encoder_flops + shape.beams * (step.forward_flops - step.encoder_flops)


def _scoring_flops(step: Measured, shape: Shape, examples: Examples, translates: bool) -> float:
    if examples.subjects:  # exemplars are read once for a subject, and a question once for all its choices
        tokens = EXEMPLAR_TOKENS * (examples.scored + 5 * examples.subjects)
        return tokens * step.forward_flops / shape.source_length
    return examples.scored * (_generated(step, shape) if translates else step.forward_flops)


@cache
def measured(shape: Shape, cache_folder: str) -> Measured:
    """Estimates a shape, or returns what was estimated before.

    Raises:
        AssetError: The model's configuration is not to be had.
    """
    known = cached_file(shape, cache_folder)
    if known.is_file():
        try:
            return Measured(**json.loads(known.read_text()))
        except (ValueError, TypeError):  # cut short by a full disk
            known.unlink()
    from pipeline.costs.measure import measure

    found = measure(shape)
    files.write_text(known, json.dumps(asdict(found)))
    return found


def cached_file(shape: Shape, cache_folder: str) -> Path:
    """Returns the file that keeps what is estimated of a shape; its name has all that this follows from."""
    folder = Path(shape.model)
    geometry = (folder / "config.json").read_text() if folder.is_dir() else None
    return Path(
        cache_folder, "plans", "shapes", f"{files.fingerprint([asdict(shape), geometry, _code()])}.json"
    )


@cache
def _code() -> str:
    """Returns a hash of the code that estimates, of the packages that it asks, and of what it may propose."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    sharding = (root / "conf/trainer").glob("fsdp.yaml")
    here = [Path(__file__).with_name(name) for name in ("measure.py", "recipe.py")]
    code = *sorted((root / "lorafa").rglob("*.py")), *here
    for path in (*code, *sharding):
        digest.update(path.read_bytes())
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    digest.update(json.dumps(packages).encode())
    return digest.hexdigest()
