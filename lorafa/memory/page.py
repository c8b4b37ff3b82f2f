"""The planner as one HTML file: estimates at the points of a grid, looked up by whoever opens it, without a network."""

from __future__ import annotations

import gc
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

import lorafa
from lorafa.memory.budget import FREE, ladder
from lorafa.memory.cards import CARDS
from lorafa.memory.estimate import Estimate, estimate
from lorafa.memory.fit import longest
from lorafa.memory.margin import CONTEXT, MARGIN, WITHIN
from lorafa.memory.recipe import Method, Recipe, RecipeError
from lorafa.options import Recompute

MIB = 2**20
TEMPLATE = Path(__file__).with_name("page.html")
MODELS = ("llama-3.2-1b", "llama-3-8b", "llama-7b", "roberta-large")
# Where activations are made: the first expression that is found in their module's path.
KINDS = {
    "norms": r"norm|\bln_",
    "attention": r"attn|attention",
    "feed-forward": r"mlp|ffn|feed_forward|expert|intermediate|\*\.output|densereludense|\.fc\d",
    "elsewhere in the blocks": r"\*",
    "logits and loss": "",
}
PARTS = ("weights", "adapters", "gradients", "optimizer", "inputs", *KINDS, "workspace", "cache")


@dataclass(frozen=True)
class Choice:
    """A method as the page offers it.

    Attributes:
        label: What a reader calls it.
        method: Of the recipe.
        code: How a model is made ready for it; RANK stands for the rank, KINDS for what is recomputed.
        up_to: The kind of recomputation that its rung of the ladder ends with; without one, nothing is recomputed.
        checkpointing: Of the recipe.
    """

    label: str
    method: Method
    code: str
    up_to: Recompute | None = None
    checkpointing: bool = False

    def of(self, setting: Recipe) -> Recipe:
        """The setting with this method.

        Raises:
            RecipeError: The setting does not allow it, or the model has no such rung.
        """
        changes: dict[str, Any] = {"method": self.method, "recompute": ()}
        if self.method == "full-ft":
            changes |= {"adapter_dropout": 0.0, "target_modules": ()}
        if self.checkpointing:
            changes["checkpointing"] = True
        if self.up_to:
            changes["recompute"] = rung(setting, self.up_to)
        return replace(setting, **changes)

    def words(self, recipe: Recipe) -> dict[str, str]:
        """What the page shows of the choice for a model: its part of the command line, and its code."""
        options = [f"--method {self.method}"]
        options += [f"--recompute {','.join(recipe.recompute)}"] if self.up_to else []
        options += ["--checkpointing"] if self.checkpointing else []
        return {"options": " ".join(options), "code": self.code.replace("KINDS", str(list(recipe.recompute)))}


def rung(setting: Recipe, kind: Recompute) -> tuple[Recompute, ...]:
    """The rung of a model's ladder that ends with a kind; `loss` stands for the last of those without a product.

    Raises:
        RecipeError: The model has none.
    """
    ends = {found[-1]: found for found in ladder(setting) if found}
    if kind == "loss":
        kind = next((free for free in reversed(FREE) if free in ends), kind)
    if kind not in ends:
        raise RecipeError(f"{setting.model}: nothing to recompute up to {kind}")
    return ends[kind]


LORA = 'get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear"))'
LEAN = 'get_lora_fa_model(model, LoraFaConfig(r=RANK, target_modules="all-linear", recompute=KINDS))'
CHOICES = (
    Choice("LoRA (PEFT)", "lora", LORA),
    Choice(
        "LoRA (PEFT), blocks checkpointed",
        "lora",
        'model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})\n'
        f"model.enable_input_require_grads()\n{LORA}",
        checkpointing=True,
    ),
    Choice(
        "LoRA with a frozen A (PEFT)",
        "lora-frozen-a",
        f"model = {LORA}\n"
        "for name, parameter in model.named_parameters():\n"
        '    parameter.requires_grad_("lora_B" in name)',
    ),
    Choice(
        "LoRA-FA",
        "lora-fa",
        'get_lora_fa_model(model, LoraFaConfig(r=RANK, target_modules="all-linear"))',
    ),
    Choice("LoRA-FA, no product computed again", "lora-fa", LEAN, up_to="loss"),
    Choice("LoRA-FA, and q, k, v again", "lora-fa", LEAN, up_to="qkv"),
    Choice("LoRA-FA, and gate and up again", "lora-fa", LEAN, up_to="mlp"),
    Choice("LoRA-FA, whole blocks again", "lora-fa", LEAN, up_to="block"),
    Choice("Full fine-tuning", "full-ft", "model.requires_grad_(True)"),
)


@dataclass(frozen=True)
class Grid:
    """The points that are estimated for each model and method.

    Attributes:
        ranks: Of the adapters.
        lengths: Tokens of a sequence; those that a model has no positions for are left out.
        batches: Sequences in a step.
    """

    ranks: tuple[int, ...] = (8, 16, 64)
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Sheet:
    """The points that share recordings, and so are one process's work: a model, a method and a length.

    Attributes:
        recipe: Of one of the points.
        ranks: Of the points; without a meaning for full fine-tuning, which has one.
        batches: Of the points.
    """

    recipe: Recipe
    ranks: tuple[int, ...]
    batches: tuple[int, ...]

    def points(self) -> list[list[list[int]]]:
        """For each rank and batch, the `PARTS` in MiB.

        Raises:
            RecipeError: They cannot be run.
        """
        gc.freeze()  # what the imports made lives as long as the process
        return [
            [parts(estimate(replace(self.recipe, rank=rank, batch_size=batch))) for batch in self.batches]
            for rank in self.ranks
        ]


def parts(found: Estimate) -> list[int]:
    """What makes up the reserved memory: `PARTS` in MiB, activations by the kind of module that made them."""
    sizes = Counter(found.breakdown)
    for module, nbytes in found.by_module.items():
        sizes[kind_of(module)] += nbytes
    sizes["workspace"] = found.breakdown["temporaries"]
    return [round(sizes[part] / MIB) for part in PARTS]


def kind_of(module: str) -> str:
    """The kind of what a module makes, one of `KINDS`, by its path."""
    return next(kind for kind, expression in KINDS.items() if re.search(expression, module.lower()))


def write(file: Path, models: Sequence[str], setting: Recipe, grid: Grid | None = None) -> None:
    """Estimate a grid for each model, with a progress bar on stderr, and write the page.

    Args:
        file: The page.
        models: As `Recipe.model`.
        setting: All that the reader of the page cannot choose.
        grid: What the reader can; the default takes about two minutes a model on two cores.

    Raises:
        ModelNotFoundError: One of the models is unknown.
        RecipeError: The setting fits none of the methods on a model.
        OSError: The file cannot be written.
    """
    if not file.resolve().parent.is_dir():
        raise FileNotFoundError(f"{file}: there is no folder {file.parent}")
    file.write_text(html(tables(list(dict.fromkeys(models)), setting, grid or Grid())), encoding="utf-8")


def tables(models: list[str], setting: Recipe, grid: Grid) -> dict[str, Any]:
    """What the page looks up.

    Returns:
        `ranks`, `batches`, `parts`, `choices` (label, and whether they have a rank), `cards` and `context` (MiB),
        `margin` (a share), `setting` (in words), `options` (of the command line) and `models`: for each its `lengths`,
        its `words`, by choice, and its `points`, by choice, length, rank and batch; null for what cannot be run.

    Raises:
        ModelNotFoundError: One of the models is unknown.
        RecipeError: The setting fits none of the methods on a model.
    """
    lengths = {name: [length for length in grid.lengths if length <= longest(name)] for name in models}
    recipes = {
        (name, choice): possible(choice, replace(setting, model=name))
        for name in models
        for choice in CHOICES
    }
    sheets = {
        (name, choice, length): sheet(recipe, length, grid)
        for (name, choice), recipe in recipes.items()
        for length in lengths[name]
    }
    found = dict(zip(sheets, _estimated(list(sheets.values())), strict=True))
    for name in models:
        if not any(found[name, choice, length] for choice in CHOICES for length in lengths[name]):
            raise RecipeError(f"{name}: no method can be run as asked: {words(setting)}")
    return {
        "version": lorafa.__version__,
        "ranks": grid.ranks,
        "batches": grid.batches,
        "parts": PARTS,
        "choices": [{"label": choice.label, "ranked": choice.method != "full-ft"} for choice in CHOICES],
        "cards": {name: nbytes // MIB for name, nbytes in CARDS.items()},
        "context": CONTEXT // MIB,
        "margin": MARGIN,
        "setting": words(setting),
        "options": options(setting),
        "models": {
            name: {
                "lengths": lengths[name],
                "words": [
                    choice.words(recipe) if (recipe := recipes[name, choice]) else None for choice in CHOICES
                ],
                "points": [[found[name, choice, length] for length in lengths[name]] for choice in CHOICES],
            }
            for name in models
        },
    }


def possible(choice: Choice, setting: Recipe) -> Recipe | None:
    """The setting with a choice; None if the setting, or its model, does not allow it."""
    try:
        return choice.of(setting)
    except RecipeError:
        return None


def sheet(recipe: Recipe | None, length: int, grid: Grid) -> Sheet | None:
    """The points of a recipe at a length."""
    if recipe is None:
        return None
    ranks = grid.ranks[:1] if recipe.method == "full-ft" else grid.ranks
    return Sheet(replace(recipe, source_length=length), ranks, grid.batches)


def _estimated(sheets: list[Sheet | None]) -> list[list[list[list[int]]] | None]:
    """The points of each sheet, over all cores; None for what cannot be run."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        waiting = pool.map(_points, sheets)
        return list(track(waiting, "Estimating", len(sheets), console=Console(stderr=True)))


def _points(sheet: Sheet | None) -> list[list[list[int]]] | None:
    try:
        return sheet.points() if sheet else None
    except RecipeError:
        return None


# What the page's reader chooses.
CHOSEN = ("model", "method", "rank", "recompute", "source_length", "batch_size")


def options(setting: Recipe) -> str:
    """The setting as options of the command line, as far as it differs from their defaults."""
    found = []
    for field in fields(Recipe):
        value = getattr(setting, field.name)
        if field.name not in CHOSEN and value != field.default:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            found.append(f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {text}"))
    return " ".join(found)


def words(setting: Recipe) -> str:
    """What the page's reader cannot choose, in words."""
    found = [
        f"weights in {setting.dtype}",
        f"autocast {setting.autocast}",
        f"attention {setting.attention}",
        f"optimizer {setting.optimizer}",
        f"adapters on {', '.join(setting.target_modules) or 'all linear layers'}",
        f"adapter dropout {setting.adapter_dropout:g}",
    ]
    found += ["whole blocks checkpointed"] if setting.checkpointing else []
    found += [f"base weights in {setting.quantization}"] if setting.quantization != "none" else []
    found += [f"{setting.shards} ranks, {setting.sharding} weights shared"] if setting.shards > 1 else []
    found += [f"offloaded: {setting.offload}"] if setting.offload != "none" else []
    return ", ".join(found)


def html(found: dict[str, Any]) -> str:
    """The page with its tables in it.

    Args:
        found: As `tables` returns it.
    """
    data = json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8").replace("@WITHIN@", escape(WITHIN))
    return page.replace("@SETTING@", escape(found["setting"])).replace("@DATA@", data)
