"""What a step of a shape costs, by the GPU-free estimator: imports torch, and takes a second or two for each shape."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from lorafa.memory.estimate import estimate, forward_bytes
from lorafa.memory.flops import encoder_flops, forward_flops, training_flops
from lorafa.memory.margin import CONTEXT, safe
from lorafa.memory.models import ModelNotFoundError, load_config
from lorafa.memory.recipe import DTYPES, Recipe
from pipeline.config.compose import CONF
from pipeline.costs.recipe import recipe_of
from pipeline.costs.shapes import VALIDATED_TOGETHER, Measured, Shape
from pipeline.errors import AssetError
from pipeline.fullscale.parameters import count

SHARDING = CONF / "trainer/fsdp.yaml"
SHARDS = (2, 4, 8)  # GPUs that are tried for one run
FLOAT32 = 4  # bytes; what is trained is float32


def measure(shape: Shape) -> Measured:
    """Estimates a shape.

    Raises:
        AssetError: The model's configuration is not to be had.
    """
    recipe = recipe_of(shape)
    try:
        parameters = count(_base(recipe)).total
    except ModelNotFoundError as error:
        raise AssetError(f"model {shape.model}: {error}; without it nothing can be planned") from error
    one = replace(recipe, shards=1, batch_size=1)
    whole = replace(recipe, shards=1, batch_size=shape.batch_size)
    adapter = _adapter_bytes(shape, recipe)
    return Measured(
        training_flops=training_flops(whole) if shape.trained else 0,
        forward_flops=forward_flops(one),
        encoder_flops=encoder_flops(one) if shape.kind == "encoder-decoder" else 0,
        training_bytes=_training_bytes(recipe) if shape.trained else 0,
        validation_bytes=adapter + _validation_bytes(shape, recipe) if shape.trained else 0,
        scoring_bytes=adapter + _scoring_bytes(shape, _base(recipe), shape.scored_together),
        weight_bytes=parameters * DTYPES[recipe.dtype].itemsize,
        trained=estimate(recipe).trainable_parameters if shape.trained else 0,
        saved_bytes=_saved_bytes(shape, recipe),
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


def _adapter_bytes(shape: Shape, recipe: Recipe) -> int:
    """Returns what stands beside the model's own weights when it is validated or scored."""
    return 0 if shape.method == "full-ft" else _saved_bytes(shape, recipe)


def _training_bytes(recipe: Recipe) -> int:
    """Returns what a step takes of the device: of a GPU, the allocator's cache and the context besides."""
    found = estimate(recipe)
    return found.reserved + CONTEXT if recipe.device == "cuda" else found.peak


def _validation_bytes(shape: Shape, recipe: Recipe) -> int:
    return _scoring_bytes(shape, _base(recipe), VALIDATED_TOGETHER * -(-shape.batch_size // shape.gpus))


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
    return max(_training_bytes(recipe), _adapter_bytes(shape, recipe) + _validation_bytes(shape, recipe))


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
    if micro := fitting_micro_batch(shape, memory):
        found.insert(0, (f"budget.micro_batch={micro}", needed(replace(shape, micro_batch=micro))))
    smaller = bisect_right(
        range(1, shape.batch_size), memory, key=lambda size: safely(replace(shape, batch_size=size))
    )
    if smaller:
        changed = replace(shape, batch_size=smaller)
        found.append((f"budget.batch_size={smaller}", needed(changed)))
    return found


def fitting_micro_batch(shape: Shape, memory: int) -> int | None:
    """Returns the largest micro-batch below the batch size with which training fits, or None.

    Args:
        shape: A step, on one GPU.
        memory: Bytes of the device.
    """
    if shape.gpus > 1:
        return None
    sizes = [size for size in range(shape.batch_size // 2, 0, -1) if shape.batch_size % size == 0]
    return next((size for size in sizes if safely(replace(shape, micro_batch=size)) <= memory), None)


def _changes(shape: Shape) -> Iterator[tuple[str, Shape]]:
    if shape.quantization is None and SHARDING.is_file():
        for gpus in SHARDS:
            if gpus > shape.gpus and shape.batch_size % gpus == 0:
                yield f"trainer=fsdp profile.gpus={gpus}", replace(shape, gpus=gpus)
    if shape.rank and shape.kind == "decoder" and shape.quantization is None:
        yield f"method=q{shape.method}", replace(shape, quantization="nf4")
