"""The paper's memory tables and figures as recipes: which step each published number is of.

`python -m pipeline.fullscale.recipes` prints every table with the paper's numbers beside ours. The paper does not state
the length of its batches, the attention, the dropout or the precision; docs/memory.md says how the readings were found.

- nominal: what the paper states, and nothing else changed.
- fitted: the lengths in `FITTED_LENGTH`, one per model, in place of the stated maximum lengths; checkpointing in
  Figure 2c and FlashAttention in the rebuttal's table of lengths, for the reasons given there.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from lorafa.memory.recipe import Attention, Recipe

if TYPE_CHECKING:
    from lorafa.memory.estimate import Estimate

GIB = 2**30
Reading = Literal["nominal", "fitted"]
READINGS: tuple[Reading, ...] = ("nominal", "fitted")

# What the paper's device held besides PyTorch's reserved memory: "hardware reserved" and "PyTorch reserved" of the
# rebuttal's breakdown (paper Figure 3), in bytes.
OVERHEAD = round(1.2 * GIB)
A100_80GB = round(79.15 * GIB)

# Effective lengths of padded batches, one per model, fitted once to all of the model's published cells.
FITTED_LENGTH = {"llama-7b": 384, "llama-13b": 384, "t5-small": 194, "t5-base": 176, "t5-large": 160}
# The only source and target length that the paper states (§4.2, Figure 2c) is the nominal one of T5.
NOMINAL_T5_LENGTH = 128

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")

_EAGER = Recipe("roberta-base", "lora", attention="eager")
ROBERTA = replace(_EAGER, rank=8, batch_size=64, source_length=128, dtype="fp32", adapter_dropout=0.1)
T5 = replace(ROBERTA, model="t5-small", source_length=NOMINAL_T5_LENGTH, target_modules=("q", "k", "v"))
LLAMA = Recipe(
    "llama-7b",
    "lora",
    rank=64,
    batch_size=16,
    source_length=1024,
    dtype="bf16",
    attention="eager",
    adapter_dropout=0.05,
    input_gradients=True,
)


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Attributes:
        table: Stem of the CSV file with the published numbers.
        key: The columns that identify the cell there, as text. Method `lora-fa` is the paper's LoRA-FA, which is
            PEFT's LoRA with a frozen A; `lora-fa-lean` is this library's, with everything recomputed, and has no
            published number.
        recipe: What it is the memory of.
    """

    table: str
    key: tuple[tuple[str, str], ...]
    recipe: Recipe


def device_memory(result: Estimate) -> int:
    """Bytes that the paper's tables report: reserved memory and what the device holds besides."""
    return result.reserved + OVERHEAD


def adapters(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe with LoRA, the paper's LoRA-FA, and ours."""
    return {
        "lora": replace(recipe, method="lora"),
        "lora-fa": replace(recipe, method="lora-frozen-a"),
        "lora-fa-lean": lean(recipe),
    }


def lean(recipe: Recipe) -> Recipe:
    """The recipe with this library's LoRA-FA and all of its recomputation."""
    return replace(recipe, method="lora-fa", recompute=("norm", "activation", "dropout", "loss"))


def _cell(table: str, recipe: Recipe, **key: object) -> Cell:
    return Cell(table, tuple((name, str(value)) for name, value in key.items()), recipe)


def _read(recipe: Recipe, reading: Reading) -> Recipe:
    if reading == "nominal":
        return recipe
    return replace(recipe, source_length=FITTED_LENGTH.get(recipe.model, recipe.source_length))


def table5(reading: Reading) -> list[Cell]:
    """Table 5: peak memory of the three methods on six models."""
    t5_large = replace(T5, model="t5-large", batch_size=32, rank=16, target_modules=("q", "v"))
    models = [
        ROBERTA,
        replace(ROBERTA, model="roberta-large"),
        replace(T5, batch_size=128),
        replace(T5, model="t5-base"),
        t5_large,
        LLAMA,
    ]
    return [
        _cell("table5", recipe, model=base.model, method=method)
        for base in models
        for method, recipe in _with_full_ft(_read(base, reading)).items()
    ]


def _with_full_ft(recipe: Recipe) -> dict[str, Recipe]:
    full = replace(recipe, method="full-ft", adapter_dropout=0.0, target_modules=())
    return {"full-ft": full} | adapters(recipe)


def figure2a(reading: Reading) -> list[Cell]:
    """Figure 2a: LoRA-FA with FlashAttention, QLoRA and ZeRO-3 on 8 GPUs, batch sizes 1–32."""
    cells = []
    for batch in (1, 2, 4, 8, 16, 32):
        base = _read(replace(LLAMA, batch_size=batch), reading)
        for method, recipe in adapters(base).items():
            optimizations = {
                "none": recipe,
                "flash-attention": replace(recipe, attention="flash"),
                "qlora": replace(recipe, quantization="nf4"),
                "zero-3": replace(recipe, shards=8),
            }
            cells += [
                _cell("figure2a", r, optimization=o, batch_size=batch, method=method)
                for o, r in optimizations.items()
                if method != "lora"
            ]
    return cells


def figure2b(reading: Reading) -> list[Cell]:
    """Figure 2b: fraction of the layers that carry adapters, batch size 8."""
    base = _read(replace(LLAMA, batch_size=8), reading)
    return _over_fractions("figure2b", base)


def _over_fractions(table: str, base: Recipe) -> list[Cell]:
    return [
        _cell(table, recipe, layer_fraction=tenths / 10, method=method)
        for tenths in range(1, 11)
        for method, recipe in adapters(replace(base, layer_fraction=tenths / 10)).items()
    ]


def figure2c(reading: Reading) -> list[Cell]:
    """Figure 2c: ranks 1–128, batch size 32, source and target of 128 tokens in one sequence.

    The fitted reading has block checkpointing, which the authors' reply says was on in their first measurements.
    """
    base = replace(LLAMA, batch_size=32, source_length=256, checkpointing=reading == "fitted")
    return [
        _cell("figure2c", recipe, rank=rank, method=method)
        for rank in (1, 2, 4, 8, 16, 32, 64, 128)
        for method, recipe in adapters(replace(base, rank=rank)).items()
    ]


def figure3(reading: Reading) -> list[Cell]:
    """Figure 3: breakdown of LLaMA-7B at batch size 16; the same steps as in Table 5."""
    return [_cell("figure3", r, method=method) for method, r in adapters(_read(LLAMA, reading)).items()]


def figure5(reading: Reading) -> list[Cell]:
    """Figure 5: LoRA, LoRA-FA, and LoRA-FA with FlashAttention, batch sizes 1–32."""
    cells = []
    for batch in (1, 2, 4, 8, 16, 32):
        for method, recipe in adapters(_read(replace(LLAMA, batch_size=batch), reading)).items():
            cells.append(_cell("figure5", recipe, method=method, batch_size=batch))
            if method != "lora":
                flash = replace(recipe, attention="flash")
                cells.append(_cell("figure5", flash, method=f"{method}-flash", batch_size=batch))
    return cells


def rebuttal_submodules(reading: Reading) -> list[Cell]:
    """Rebuttal, A.5: which linear layers carry adapters."""
    every = ATTENTION + MLP
    choices = {"all": every, "attention": ATTENTION, "mlp": MLP}
    choices |= {f"no {name.removesuffix('_proj')}": tuple(m for m in every if m != name) for name in every}
    base = _read(replace(LLAMA, source_length=2048), reading)
    return [
        _cell("rebuttal_submodules", recipe, modules=modules, method=method)
        for modules, names in choices.items()
        for method, recipe in adapters(replace(base, target_modules=names)).items()
    ]


def rebuttal_ranks(reading: Reading) -> list[Cell]:
    """Rebuttal, A.2: LoRA on the attention's linear layers against LoRA-FA on all, ranks 1–128.

    The text says q, k and v; its value at rank 64 is that of A.5's "only attention", so o is counted in.
    """
    base = _read(replace(LLAMA, source_length=2048), reading)
    cells = []
    for rank in (1, 2, 4, 8, 16, 32, 64, 128):
        recipes = adapters(replace(base, rank=rank))
        recipes["lora"] = replace(recipes["lora"], target_modules=ATTENTION)
        for method, recipe in recipes.items():
            modules = "attention" if method == "lora" else "all"
            cells.append(_cell("rebuttal_ranks", recipe, modules=modules, method=method, rank=rank))
    return cells


def rebuttal_layers(reading: Reading) -> list[Cell]:
    """Rebuttal, A.4: fraction of the layers that carry adapters, batch size 16."""
    return _over_fractions("rebuttal_layers", _read(replace(LLAMA, source_length=2048), reading))


def rebuttal_scales(reading: Reading) -> list[Cell]:
    """Rebuttal, A.6: 7B against 13B at batch size 8."""
    base = replace(LLAMA, batch_size=8, source_length=2048)
    return [
        _cell("rebuttal_scales", recipe, model=model, method=method)
        for model in ("llama-7b", "llama-13b")
        for method, recipe in adapters(_read(replace(base, model=model), reading)).items()
    ]


def rebuttal_lengths(reading: Reading) -> list[Cell]:
    """Rebuttal, limitation 2: 13B at batch size 2 and lengths of 1024 and 2048.

    From 1024 to 2048 the published numbers grow by as much as from 0 to 1024: there are no stored scores, which grow
    with the square. The fitted reading has FlashAttention, and the stated lengths.
    """
    attention: Attention = "eager" if reading == "nominal" else "flash"
    base = replace(LLAMA, model="llama-13b", batch_size=2, attention=attention)
    return [
        _cell("rebuttal_lengths", recipe, model=base.model, method=method, length=length)
        for length in (1024, 2048)
        for method, recipe in adapters(replace(base, source_length=length)).items()
    ]


def rebuttal_batch_limits(reading: Reading) -> list[Cell]:
    """Rebuttal, limitation 3: batch sizes of LLaMA-7B, of which the largest that fits 24 and 40 GB is asked."""
    return [
        _cell("rebuttal_batch_limits", recipe, method=method, batch_size=batch)
        for batch in (1, 2, 4, 8, 16)
        for method, recipe in adapters(_read(replace(LLAMA, batch_size=batch), reading)).items()
    ]


_PAPER = (table5, figure2a, figure2b, figure2c, figure3, figure5)
_REBUTTAL = (rebuttal_submodules, rebuttal_ranks, rebuttal_layers, rebuttal_scales, rebuttal_lengths)
TABLES: dict[str, Callable[[Reading], list[Cell]]] = {
    f.__name__: f for f in (*_PAPER, *_REBUTTAL, rebuttal_batch_limits)
}


def published(table: str, folder: Path) -> dict[frozenset[tuple[str, str]], str]:
    """The published numbers of a table, by cell: text, as "OOM" is one of them.

    Args:
        table: Stem of the CSV file.
        folder: Where it is: results/paper.
    """
    path = folder / f"{table}.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {name for name, _ in TABLES[table]("nominal")[0].key}
    return {
        frozenset((name, row[name]) for name in names): row["memory_gb"]
        for row in rows
        if "memory_gb" in row and names <= row.keys()
    }


def recipes(tables: Iterable[str]) -> list[Recipe]:
    """Every recipe of the tables, in both readings."""
    return [cell.recipe for table in tables for reading in READINGS for cell in TABLES[table](reading)]


def compare(table: str, folder: Path, results: Mapping[Recipe, Estimate]) -> Table:
    """A table for the terminal: the paper's GB, and the two readings' device memory in GiB.

    Args:
        table: A key of `TABLES`.
        folder: Where the published numbers are.
        results: Estimates of all of the table's recipes.
    """
    view = Table(title=table, title_justify="left")
    for heading in ("cell", "paper", "nominal", "fitted", "fitted / paper", "allocated", "cache"):
        view.add_column(heading, justify="left" if heading == "cell" else "right", no_wrap=True)
    theirs = published(table, folder)
    for nominal, fitted in zip(TABLES[table]("nominal"), TABLES[table]("fitted"), strict=True):
        value = theirs.get(frozenset(nominal.key), "")
        result = results[fitted.recipe]
        number = value.replace(".", "").isdigit()
        view.add_row(
            " ".join(text for _, text in nominal.key),
            value,
            _gib(device_memory(results[nominal.recipe])),
            _gib(device_memory(result)),
            f"{device_memory(result) / GIB / float(value):.3f}" if number else "",
            _gib(result.peak),
            _gib(result.breakdown["cache"]),
        )
    return view


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f}"


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.fullscale.recipes", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "tables", nargs="*", default=list(TABLES), help=f"of {', '.join(TABLES)}; default: all"
    )
    parser.add_argument(
        "--reference", type=Path, default=Path("results/paper"), help="published numbers (CSV)"
    )
    parser.add_argument("--processes", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"unknown tables: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    from lorafa.memory.estimate import estimate_all

    results = estimate_all(recipes(options.tables), options.processes)
    console = Console(width=110)
    for table in options.tables:
        console.print(compare(table, options.reference, results))


if __name__ == "__main__":
    main()
