"""What is measured, in the order of its importance: the paper's steps, the rungs, and the largest batches."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.rungs import RUNGS
from lorafa.memory.geometry import BUILT_IN
from lorafa.memory.recipe import Recipe
from pipeline.fullscale.recipes import LLAMA, TABLES

GIB = 2**30
CARDS = (24 * GIB, 40 * GIB, 80 * GIB)
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
    fitted = _fitted("table5")
    llama = [recipe for recipe in fitted if recipe.model == LLAMA.model]
    base = next(recipe for recipe in llama if recipe.method == "lora")
    others = [model for model in dict.fromkeys(recipe.model for recipe in fitted) if model != LLAMA.model]
    full = next(recipe for recipe in llama if recipe.method == "full-ft")
    named = [
        ("table5 llama-7b", [recipe for recipe in llama if recipe.method != "full-ft"]),
        ("rungs", rungs(base)),
        ("figure5", _fitted("figure5")),
        *((f"table5 {model}", [recipe for recipe in fitted if recipe.model == model]) for model in others),
        ("full-ft, as far as it fits", [replace(full, batch_size=size) for size in (1, 2, 4, 8, 16)]),
        ("figure2a", _fitted("figure2a")),
        ("figure2b", _fitted("figure2b")),
        ("figure2c", _fitted("figure2c")),
    ]
    return _without_repetition(named)


def rungs(base: Recipe) -> list[Recipe]:
    """LoRA-FA with every rung of the ladder, for the step of a recipe."""
    lora_fa = replace(base, method="lora-fa")
    return [replace(lora_fa, recompute=kinds) for kinds in RUNGS.values()]  # type: ignore[arg-type]


def largest_batches() -> list[Recipe]:
    """The steps whose largest batch is searched on each card."""
    flash = replace(LLAMA, source_length=384, attention="flash")
    methods: list[Recipe] = [replace(flash, method=method) for method in ("lora", "lora-frozen-a")]  # type: ignore[arg-type]
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


def _fitted(table: str) -> list[Recipe]:
    recipes = [cell.recipe for cell in TABLES[table]("fitted")]
    return [recipe for recipe in recipes if recipe.quantization == "none" and recipe.shards == 1]


def _without_repetition(named: Iterable[tuple[str, list[Recipe]]]) -> list[Group]:
    """Groups of the steps that no earlier group has."""
    seen: set[Recipe] = set()
    found = []
    for name, recipes in named:
        fresh = tuple(recipe for recipe in dict.fromkeys(recipes) if recipe not in seen)
        seen.update(fresh)
        found += [Group(name, fresh)] if fresh else []
    return found
