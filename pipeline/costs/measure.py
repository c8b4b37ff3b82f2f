"""What a step of a shape costs, by the GPU-free estimator: imports torch, and takes a second or two for each shape."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from lorafa.memory.estimate import estimate, forward_bytes
from lorafa.memory.flops import encoder_flops, forward_flops, training_flops
from lorafa.memory.margin import CONTEXT, safe
from lorafa.memory.models import ModelNotFoundError, load_config
from lorafa.memory.recipe import DTYPES, Method, Recipe
from pipeline.config.compose import CONF
from pipeline.costs.shapes import VALIDATED_TOGETHER, Measured, Shape
from pipeline.errors import AssetError
from pipeline.fullscale.parameters import count

SPELLED = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
METHODS: dict[str, Method] = {
    "untuned": "full-ft",  # the same forward pass
    "full-ft": "full-ft",
    "prompt-tuning": "prompt-tuning",
    "lora": "lora",
    "lora-fa": "lora-fa",
}
SHARDING = CONF / "trainer/fsdp.yaml"
SHARDS = (2, 4, 8)  # GPUs that are tried for one run
FLOAT32 = 4  # bytes; what is trained is float32


def measure(shape: Shape) -> Measured:
    """Estimates a shape.

    Raises:
        AssetError: The model's configuration is not to be had.
    """
    try:
        recipe = recipe_of(shape)
    except ModelNotFoundError as error:
        raise AssetError(f"model {shape.model}: {error}; without it nothing can be planned") from error
    parameters = count(_base(recipe)).total
    one = replace(recipe, shards=1, batch_size=1)
    saved = _saved_bytes(shape, recipe)
    whole = replace(recipe, shards=1, batch_size=shape.batch_size)
    adapter = 0 if shape.method == "full-ft" else saved
    return Measured(
        training_flops=training_flops(whole) if shape.trained else 0,
        forward_flops=forward_flops(one),
        encoder_flops=encoder_flops(one) if shape.kind == "encoder-decoder" else 0,
        training_bytes=_training_bytes(recipe) if shape.trained else 0,
        validation_bytes=adapter + _validation_bytes(shape, recipe) if shape.trained else 0,
        scoring_bytes=adapter + _scoring_bytes(shape, _base(recipe), shape.scored_together),
        weight_bytes=parameters * DTYPES[recipe.dtype].itemsize,
        trained=estimate(recipe).trainable_parameters if shape.trained else 0,
        saved_bytes=saved,
        parameters=parameters,
    )


def _base(recipe: Recipe) -> Recipe:
    """Returns the recipe of the model without adapters, for passes without gradients."""
    return Recipe(
        model=recipe.model,
        method="full-ft",
        source_length=recipe.source_length,
        target_length=recipe.target_length,
        dtype=recipe.dtype,
        autocast=recipe.autocast,
        device=recipe.device,
    )


def _saved_bytes(shape: Shape, recipe: Recipe) -> int:
    if not shape.trained:
        return 0
    if recipe.method == "lora-fa":  # of which A is saved, too
        return FLOAT32 * count(replace(recipe, method="lora")).trainable
    return FLOAT32 * estimate(recipe).trainable_parameters


def recipe_of(shape: Shape) -> Recipe:
    """Returns the step that the estimator makes for a shape."""
    frozen = SPELLED[shape.frozen_dtype]
    full = shape.method == "full-ft"  # trains float32 weights, in mixed precision where frozen ones have less
    return Recipe(
        model=shape.model,
        method=METHODS[shape.method],
        rank=shape.rank or 1,
        target_modules=(shape.targets,) if shape.targets else (),
        layer_fraction=shape.layer_fraction,
        batch_size=-(-shape.batch_size // shape.gpus),
        shards=1 if shape.method == "full-ft" else shape.gpus,
        source_length=shape.source_length,
        target_length=shape.target_length,
        dtype="fp32" if full else frozen,  # type: ignore[arg-type]  # checked by Recipe
        autocast=frozen if full and frozen != "fp32" else "none",  # type: ignore[arg-type]
        adapter_dtype="fp32" if shape.rank else "same",
        adapter_dropout=shape.dropout,
        quantization="nf4" if shape.quantization else "none",
        virtual_tokens=shape.virtual_tokens or 1,
        device="cuda" if shape.device == "cuda" else "cpu",
    )


def _training_bytes(recipe: Recipe) -> int:
    """Returns what a step takes of the device: of a GPU, the allocator's cache and the context besides."""
    found = estimate(recipe)
    return found.reserved + CONTEXT if recipe.device == "cuda" else found.peak


def _validation_bytes(shape: Shape, recipe: Recipe) -> int:
    return _scoring_bytes(shape, _base(recipe), VALIDATED_TOGETHER * recipe.batch_size)


def _scoring_bytes(shape: Shape, base: Recipe, rows: int) -> int:
    """Returns what a pass without gradients takes; what generates keeps keys and values of all that it has read."""
    passed = forward_bytes(replace(base, batch_size=rows)) + (CONTEXT if shape.device == "cuda" else 0)
    if shape.kind != "encoder-decoder":
        return passed
    config = load_config(shape.model)
    read = shape.source_length + shape.max_new_tokens
    values = 2 * config.num_decoder_layers * config.num_heads * config.d_kv * read * rows * shape.beams
    return max(passed, (count(base).total + values) * DTYPES[base.dtype].itemsize)


@cache
def needed(shape: Shape) -> int:
    """Returns the bytes of the device that training takes, with its validations."""
    recipe = recipe_of(shape)
    return max(_training_bytes(recipe), _saved_bytes(shape, recipe) + _validation_bytes(shape, recipe))


def safely(shape: Shape) -> int:
    """Returns the same with the estimate's margin, on a GPU."""
    return safe(needed(shape) - CONTEXT) if shape.device == "cuda" else needed(shape)


def remedies(shape: Shape, memory: int) -> list[tuple[str, int]]:
    """Returns the settings that each by itself make a shape's training fit safely, and the bytes that it then takes.

    Args:
        shape: Which does not fit.
        memory: Bytes of the device.
    """
    found = [(setting, needed(changed)) for setting, changed in _changes(shape) if safely(changed) <= memory]
    smaller = bisect_right(
        range(1, shape.batch_size), memory, key=lambda size: safely(replace(shape, batch_size=size))
    )
    if smaller:
        changed = replace(shape, batch_size=smaller)
        found.append((f"budget.batch_size={smaller}", needed(changed)))
    return found


def _changes(shape: Shape) -> Iterator[tuple[str, Shape]]:
    if shape.method != "full-ft" and shape.quantization is None and SHARDING.is_file():
        for gpus in SHARDS:
            if gpus > shape.gpus and shape.batch_size % gpus == 0:
                yield f"trainer=fsdp profile.gpus={gpus}", replace(shape, gpus=gpus)
    if shape.rank and shape.kind == "decoder" and shape.quantization is None:
        yield f"method=q{shape.method}", replace(shape, quantization="nf4")
