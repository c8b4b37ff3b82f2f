"""What is measured, in the order of its importance: the paper's steps, the rungs, and the largest batches."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.rungs import COMBINATIONS, RUNGS
from lorafa.memory.cards import USUAL
from lorafa.memory.geometry import BUILT_IN
from lorafa.memory.recipe import Recipe
from lorafa.memory.sizes import GIB

# The steps of `pipeline.fullscale.recipes` in its fitted reading, in the terms of the library alone: that module
# composes conf/, and a bare GPU machine has no Hydra.
ROBERTA = Recipe(
    "roberta-base",
    "lora",
    rank=8,
    batch_size=64,
    source_length=128,
    dtype="fp32",
    attention="eager",
    adapter_dropout=0.1,
    virtual_tokens=1,
)
T5 = replace(ROBERTA, model="t5-small", source_length=194, target_modules=("qkv",))
T5_LARGE = replace(T5, model="t5-large", source_length=160, batch_size=32, rank=16, target_modules=("qv",))
OTHERS = (
    ROBERTA,
    replace(ROBERTA, model="roberta-large"),
    replace(T5, batch_size=128),
    replace(T5, model="t5-base", source_length=176),
    T5_LARGE,
)
LLAMA = Recipe(
    "llama-7b",
    "lora",
    rank=64,
    batch_size=16,
    source_length=384,
    dtype="bf16",
    attention="eager",
    adapter_dropout=0.1,
    input_gradients=True,
    virtual_tokens=1,
)
BATCHES = (1, 2, 4, 8, 16, 32)
CARDS = tuple(size * GIB for size in USUAL)
TINY_CARDS = (2**20, 2**21)
# Geometry that a CPU takes a step of in a fraction of a second, by type of model.
TINY = {
    "llama": {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "roberta": {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "t5": {
        "vocab_size": 300,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
    },
}


@dataclass(frozen=True)
class Group:
    """Steps that are compared with each other, and so take turns.

    Attributes:
        name: What they are measured for.
        recipes: One a step.
    """

    name: str
    recipes: tuple[Recipe, ...]

    def builds(self) -> list[list[Recipe]]:
        """The steps that one build of a model serves, which differ in the batch alone."""
        builds: dict[Recipe, list[Recipe]] = {}
        for recipe in self.recipes:
            builds.setdefault(replace(recipe, batch_size=1, source_length=1, target_length=0), []).append(
                recipe
            )
        return list(builds.values())


def groups() -> list[Group]:
    """Every step, in groups, most important first; a step that two groups have is in the first of them."""
    batches = [step for size in BATCHES for step in adapters(replace(LLAMA, batch_size=size))]
    flash = [replace(step, attention="flash") for step in batches if step.method != "lora"]
    nf4 = [replace(step, quantization="nf4") for step in batches if step.method != "lora"]
    fractions = [replace(LLAMA, batch_size=8, layer_fraction=tenths / 10) for tenths in range(1, 11)]
    checkpointed = replace(LLAMA, batch_size=32, source_length=256, checkpointing=True)
    ranks = [replace(checkpointed, rank=2**power) for power in range(8)]
    named = [
        ("table5 llama-7b", adapters(LLAMA)),
        ("rungs", rungs(LLAMA)),
        ("figure5", batches + flash),
        *((f"table5 {base.model}", [full_ft(base), *adapters(base)]) for base in OTHERS),
        ("full-ft, as far as it fits", [replace(full_ft(LLAMA), batch_size=size) for size in BATCHES[:-1]]),
        *([("figure2a, nf4", nf4)] if find_spec("bitsandbytes") else []),
        ("figure2b", [step for base in fractions for step in adapters(base)]),
        ("figure2c", [step for base in ranks for step in adapters(base)]),
    ]
    return _without_repetition(named)


def adapters(recipe: Recipe) -> list[Recipe]:
    """The recipe with LoRA, with LoRA and a frozen A, and with LoRA-FA and everything free recomputed."""
    lean = replace(recipe, method="lora-fa", recompute=COMBINATIONS["free"])  # type: ignore[arg-type]
    return [replace(recipe, method="lora"), replace(recipe, method="lora-frozen-a"), lean]


def full_ft(recipe: Recipe) -> Recipe:
    """The recipe with full fine-tuning."""
    return replace(recipe, method="full-ft", rank=1, adapter_dropout=0.0, target_modules=())


def rungs(base: Recipe) -> list[Recipe]:
    """LoRA-FA with every rung of the ladder, for the step of a recipe."""
    lora_fa = replace(base, method="lora-fa")
    return [replace(lora_fa, recompute=kinds) for kinds in RUNGS.values()]  # type: ignore[arg-type]


def largest_batches() -> list[Recipe]:
    """The steps whose largest batch is searched on each card."""
    flash = replace(LLAMA, attention="flash")
    methods: list[Recipe] = [replace(flash, method=method) for method in ("lora", "lora-frozen-a")]
    return methods + [rung for rung in rungs(flash) if len(rung.recompute) != 1]


def tiny(recipe: Recipe, folder: Path) -> Recipe:
    """The same step of a model of the same family that a CPU can make at once.

    Args:
        recipe: The step.
        folder: Gets the model's config.json.
    """
    geometry = BUILT_IN[recipe.model]
    path = folder / f"{recipe.model}.json"
    path.write_text(json.dumps(geometry | TINY[geometry["model_type"]]))
    return replace(
        recipe,
        model=str(path),
        rank=min(recipe.rank, 4),
        batch_size=min(recipe.batch_size, 4),
        source_length=16,
        layer_fraction=0.5 if recipe.layer_fraction <= 0.5 else 1.0,
        dtype="fp32",
        device="cpu",
    )


def tiny_group(group: Group, folder: Path) -> Group:
    """A group of tiny steps."""
    return Group(group.name, tuple(dict.fromkeys(tiny(recipe, folder) for recipe in group.recipes)))


def _without_repetition(named: Iterable[tuple[str, list[Recipe]]]) -> list[Group]:
    """Groups of the steps that no earlier group has."""
    seen: set[Recipe] = set()
    found = []
    for name, recipes in named:
        fresh = tuple(recipe for recipe in dict.fromkeys(recipes) if recipe not in seen)
        seen.update(fresh)
        found += [Group(name, fresh)] if fresh else []
    return found
