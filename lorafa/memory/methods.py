"""The methods that a step is compared with: each rung of the ladder, and what else adapts a model."""

from dataclasses import replace

from lorafa.memory.budget import ladder
from lorafa.memory.recipe import Recipe


def side_by_side(recipe: Recipe, rungs: bool = False) -> dict[str, Recipe]:
    """The recipe under each method, by a readable name; the asked one comes first.

    Args:
        recipe: The asked one.
        rungs: Whether to have LoRA-FA with all of the ladder of recomputation, and not only its first two rungs, and
            LoRA with checkpointed blocks.
    """
    plain = replace(recipe, recompute=())
    others = {
        f"lora-fa, up to {rung[-1]}" if rung else "lora-fa": replace(plain, method="lora-fa", recompute=rung)
        for rung in ladder(recipe)[: None if rungs else 2]
    }
    others["lora, frozen A"] = replace(plain, method="lora-frozen-a")
    others["lora"] = replace(plain, method="lora")
    if rungs and not recipe.checkpointing:
        others["lora, checkpointed"] = replace(plain, method="lora", checkpointing=True)
    if recipe.quantization == "none" and (recipe.shards == 1 or recipe.sharding != "frozen"):
        others["full-ft"] = replace(plain, method="full-ft", adapter_dropout=0.0, target_modules=())
    named = next((name for name, other in others.items() if other == recipe), recipe.method)
    return {named: recipe} | {name: other for name, other in others.items() if other != recipe}
