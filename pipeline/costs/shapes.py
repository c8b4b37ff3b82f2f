"""What the cost of a step depends on: runs that differ in their seed, learning rate or task alone have one shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.profile import Profile
from pipeline.config.schema import ADAPTED
from pipeline.errors import AssetError

VALIDATED_TOGETHER = 4  # times the batch size, in pipeline.training.fit and pipeline.tasks
BENCHMARK_TOKENS = 8192  # pipeline.metrics.shared_prompt.TOKENS, without importing lm-eval


@dataclass(frozen=True)
class Shape:
    """A training step, described by what decides its operations and its memory.

    Attributes:
        model: Its hub id, or the folder that holds its config.json.
        kind: Of the model: `encoder`, `encoder-decoder` or `decoder`.
        method: Its kind.
        targets: Which linear layers carry adapters.
        rank: Of the adapters; 0 without.
        dropout: Of the adapters' input.
        layer_fraction: The part of the layers that carries adapters.
        virtual_tokens: Of a prompt; 0 without.
        quantization: Of the frozen weights.
        frozen_dtype: Of weights that are not trained.
        batch_size: Sequences of a step.
        scored_together: Sequences that are scored at a time.
        source_length: Tokens of a sequence; of an instruction with its response.
        target_length: Tokens of a translation; 0 for other tasks.
        max_new_tokens: Of what is generated; 0 where nothing is.
        beams: Of that.
        device: `cuda` or `cpu`.
        gpus: Over which the batch and the frozen weights are spread.
        micro_batch: Sequences of a forward and backward pass; None: all of a step.
        checkpointing: Whether whole blocks are computed again in backward.
    """

    model: str
    kind: str
    method: str
    targets: str | None
    rank: int
    dropout: float
    layer_fraction: float
    virtual_tokens: int
    quantization: str | None
    frozen_dtype: str
    batch_size: int
    scored_together: int
    source_length: int
    target_length: int
    max_new_tokens: int
    beams: int
    device: str
    gpus: int = 1
    micro_batch: int | None = None
    checkpointing: bool = False

    @property
    def trained(self) -> bool:
        """Whether there is a training step at all."""
        return self.method != "untuned"

    @property
    def precision(self) -> str:
        """What the model computes in, by PyTorch's name; the adapters' own products are float32."""
        return self.frozen_dtype


@dataclass(frozen=True)
class Measured:
    """What a shape costs. Sequences have their full length: what is shorter in a batch of real text is padded.

    Attributes:
        training_flops: Of one step.
        forward_flops: Of one sequence, without gradients.
        encoder_flops: Of those, the encoder's.
        training_bytes: Of the device, for a step; 0 where nothing is trained.
        validation_bytes: Of the device, for a validation during training; 0 where nothing is trained.
        scoring_bytes: Of the device, for scoring the finished run.
        weight_bytes: Of the model as it is loaded.
        trained: Parameters that are trained.
        saved_bytes: Of the adapter, or the weights, that a finished run keeps.
        parameters: Of the base model.
    """

    training_flops: float
    forward_flops: float
    encoder_flops: float
    training_bytes: int
    validation_bytes: int
    scoring_bytes: int
    weight_bytes: int
    trained: int
    saved_bytes: int
    parameters: int


def shape_of(run: Mapping[str, Any], scoring: Mapping[str, Any], profile: Profile) -> Shape:
    """Returns a run's shape.

    Args:
        run: Its `RunConfig.identity()`.
        scoring: What it is scored on, `Scoring` as a dictionary.
        profile: Where it is made.

    Raises:
        AssetError: The mirror that the profile builds does not have its model yet.
    """
    model, method, task, budget = (run[part] for part in ("model", "method", "task", "budget"))
    adapted = method["kind"] in ADAPTED
    answer = budget["max_target_length"] or 0
    translates, instructs = task["kind"] == "translation", task["kind"] == "instructions"
    source_length = budget["max_length"] + (answer if instructs else 0)
    scored_together = budget["batch_size"] * (1 if translates else VALIDATED_TOGETHER)
    if scoring["benchmark"] is not None:
        scored_together = max(1, BENCHMARK_TOKENS // source_length)
    return Shape(
        model=_geometry(model["repository"], model["revision"], profile),
        kind=model["kind"],
        method=method["kind"],
        targets=method["targets"] if adapted else None,
        rank=run["rank"] if adapted else 0,
        dropout=(method["dropout"] or 0.0) if adapted else 0.0,
        layer_fraction=method["layer_fraction"] if adapted else 1.0,
        virtual_tokens=(method["virtual_tokens"] or 0) if method["kind"] == "prompt-tuning" else 0,
        quantization=method["quantization"],
        frozen_dtype=model["frozen_dtype"],
        batch_size=budget["batch_size"],
        scored_together=scored_together,
        source_length=source_length,
        target_length=answer if translates else 0,
        max_new_tokens=answer if translates or instructs else 0,
        beams=task["translation"]["num_beams"] if translates else 1,
        device="cuda" if profile.gpus else "cpu",
        gpus=max(profile.gpus, 1),
        micro_batch=budget.get("micro_batch"),
        checkpointing=run["trainer"].get("checkpointing", False),
    )


def _geometry(repository: str, revision: str, profile: Profile) -> str:
    """Returns what names a model's configuration: a folder of the mirror or of the hub's cache, or else its id."""
    if profile.mirror is not None and Path(profile.mirror, "models", repository, "config.json").is_file():
        return str(Path(profile.mirror, "models", repository))
    if profile.build_mirror is not None:  # no hub has what is built here, and asking one takes minutes
        raise AssetError(
            f"the mirror {profile.mirror} has no models/{repository}: `snakemake --cores 1 mirror` builds it; without "
            "it nothing can be planned"
        )
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    return str(Path(found).parent) if isinstance(found, str) else repository
