"""# trainable parameters: of any recipe, and of the paper's rows by the paper's own counting rules.

The paper's columns (Tables 2–4) follow rules that it does not state, found by comparing them with the models:
most are in Mi (2²⁰), though labelled M; a classification head is counted twice (PEFT keeps the original beside
the copy that it trains); LoRA-qv's rank is 32, and its count, like prompt tuning's, is in decimal millions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from peft.utils.other import ModulesToSaveWrapper

from lorafa.memory.adapt import adapt
from lorafa.memory.depth import shallow
from lorafa.memory.models import build, load_config
from lorafa.memory.recipe import DTYPES, Recipe
from lorafa.memory.step import count_parameters
from lorafa.targets import block_stacks

MILLION = 10**6
MI = 2**20


@dataclass(frozen=True)
class PaperRow:
    """One value of a "# trainable parameters" column.

    Attributes:
        table: Number of the paper's table.
        recipe: The row's model and adapters.
        label: The paper's name of the method.
        unit: What the paper's "M" is: `MI` or `MILLION`.
    """

    table: int
    recipe: Recipe
    label: str
    unit: int = MI


@dataclass(frozen=True)
class Count:
    """Elements of parameters.

    Attributes:
        trainable: Elements that are trained, each once.
        head: Those of them in a classification head that is trained beside the adapters.
        total: Elements of all parameters of the model, adapters included.
    """

    trainable: int
    head: int
    total: int

    def by_the_papers_rule(self, unit: int) -> float:
        """The number that the paper prints: the head twice, in its unit."""
        return (self.trainable + self.head) / unit


@lru_cache(maxsize=1024)
def count(recipe: Recipe) -> Count:
    """Count a recipe's parameters on the real model, built without weights."""
    config = load_config(recipe.model)
    depth = shallow(config, recipe.layer_fraction)
    base = build(depth.apply(config), DTYPES[recipe.dtype])
    model = adapt(base, recipe, dict(zip(block_stacks(base), depth.adapted, strict=True)))
    counted = count_parameters(model)
    counted = counted.repeat(dict(zip(counted.stacks, depth.plans, strict=True)))
    heads = [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]
    head = sum(p.numel() for module in heads for p in module.parameters() if p.requires_grad)
    return Count(counted.trainable, head, counted.total)


def paper_rows() -> list[PaperRow]:
    """The rows of Tables 2, 3 and 4 that print a number of trainable parameters."""
    rows = []
    for model in ("roberta-base", "roberta-large"):
        rows += _three_methods(2, model, rank=8)
        rows.append(PaperRow(2, Recipe(model, "prompt-tuning", virtual_tokens=20), "prompt-tuning", MILLION))
    rows += _three_methods(3, "t5-small", rank=8, target_modules=("q", "k", "v"))
    rows += _three_methods(3, "t5-base", rank=8, target_modules=("q", "k", "v"))
    rows += _three_methods(3, "t5-large", rank=16, target_modules=("q", "v"))
    rows += _three_methods(4, "llama-7b", rank=64)
    lora_qv = Recipe("llama-7b", "lora", rank=32, target_modules=("q_proj", "v_proj"))
    rows.append(PaperRow(4, lora_qv, "lora-qv", MILLION))
    return rows


def _three_methods(table: int, model: str, rank: int, target_modules: tuple[str, ...] = ()) -> list[PaperRow]:
    adapters = Recipe(model, "lora", rank=rank, target_modules=target_modules)
    lora_fa = Recipe(model, "lora-fa", rank=rank, target_modules=target_modules)
    return [
        PaperRow(table, Recipe(model, "full-ft"), "full-ft"),
        PaperRow(table, adapters, "lora"),
        PaperRow(table, lora_fa, "lora-fa"),
    ]
