"""The one way from a composed configuration to the step that the estimator makes: `lorafa.memory.recipe.Recipe`."""

from dataclasses import replace

from lorafa.memory.geometry import REPOSITORIES
from lorafa.memory.recipe import Method, Recipe
from pipeline.config.schema import RunConfig
from pipeline.costs.shapes import Shape, shape_of

SPELLED = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
METHODS: dict[str, Method] = {
    "untuned": "full-ft",  # the same forward pass
    "full-ft": "full-ft",
    "prompt-tuning": "prompt-tuning",
    "lora": "lora",
    "lora-fa": "lora-fa",
    "miss": "lora-fa",  # with a fixed A: sums of blocks
}


def recipe_of_run(run: RunConfig) -> Recipe:
    """Returns a run's training step, of its model's built-in geometry where there is one."""
    shape = shape_of(run.identity(), run.evaluation_identity()["scoring"], run.profile)
    repository = run.model.repository
    return recipe_of(replace(shape, model=REPOSITORIES.get(repository, shape.model)))


def recipe_of(shape: Shape) -> Recipe:
    """Returns the step that the estimator makes for a shape."""
    frozen = SPELLED[shape.frozen_dtype]
    full = shape.method == "full-ft"  # trains float32 weights, in mixed precision where frozen ones have less
    return Recipe(
        model=shape.model,
        method=METHODS[shape.method],
        rank=shape.rank or 1,
        target_modules=(shape.targets,) if shape.targets not in (None, "all-linear") else (),
        layer_fraction=shape.layer_fraction,
        batch_size=-(-(shape.micro_batch or shape.batch_size) // shape.gpus),
        shards=shape.gpus,
        sharding="zero-3" if full and shape.gpus > 1 else "frozen",
        source_length=shape.source_length,
        target_length=shape.target_length,
        dtype="fp32" if full else frozen,  # type: ignore[arg-type]  # checked by Recipe
        autocast=frozen if full and frozen != "fp32" else "none",  # type: ignore[arg-type]
        adapter_dtype="fp32" if shape.rank else "same",
        adapter_dropout=shape.dropout,
        checkpointing=shape.checkpointing,
        quantization="nf4" if shape.quantization else "none",
        virtual_tokens=shape.virtual_tokens or 1,
        device="cuda" if shape.device == "cuda" else "cpu",
    )
