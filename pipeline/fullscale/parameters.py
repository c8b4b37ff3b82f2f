"""# trainable parameters: of any recipe, and of the paper's rows by the paper's own counting rules.

The paper's columns (Tables 2–4) follow rules that it does not state, found by comparing them with the models:
most are in Mi (2²⁰), though labelled M; a classification head is counted twice (PEFT keeps the original beside
the copy that it trains); LoRA-qv's rank is 32, and its count, like prompt tuning's, is in decimal millions.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from peft.utils.other import ModulesToSaveWrapper

from lorafa.memory.adapt import adapt
from lorafa.memory.depth import shallow
from lorafa.memory.models import build, load_config
from lorafa.memory.recipe import DTYPES, Recipe
from lorafa.memory.step import count_parameters
from lorafa.memory.tracker import block_stacks
from pipeline.costs.recipe import recipe_of_run
from pipeline.fullscale.recipes import composed, experiments, steps_of

ROOT = Path(__file__).parents[2]
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


@lru_cache(maxsize=1)
def paper_rows() -> list[PaperRow]:
    """The rows of Tables 2, 3 and 4 that print a number of trainable parameters; models and methods are conf/'s."""
    steps = steps_of("parameters")
    with (ROOT / experiments()["parameters"].reference).open(newline="") as file:
        printed = list(csv.DictReader(file))
    rows = []
    for line in printed:
        label = line["method"]
        recipe = recipe_of_run(composed(line["model"], steps.methods.get(label, {}).get("method", label)))
        rows.append(PaperRow(int(line["table"]), recipe, label, MILLION if label in steps.decimal else MI))
    return rows
