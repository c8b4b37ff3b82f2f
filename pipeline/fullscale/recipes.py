"""The paper's memory tables and figures as recipes: which step each published number is of.

`python -m pipeline.fullscale.recipes` prints every table with the paper's numbers beside ours. What a step is made of
is said in conf/: `steps` of an experiment, and the models and methods that it names. The paper does not state the
length of its batches, the attention, the dropout or the precision; docs/memory.md says how the readings were found.

- nominal: what the paper states, and nothing else changed.
- fitted: each model's `fitted_length` in place of the stated maximum lengths, and what `steps.fitted` says.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from lorafa.memory.cards import CARDS
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.memory.sizes import GIB
from pipeline.cli import quieten
from pipeline.config.compose import CONF, compose_experiments, compose_run
from pipeline.config.experiment import Experiment, Steps
from pipeline.config.schema import RunConfig
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from lorafa.memory.estimate import Estimate

Reading = Literal["nominal", "fitted"]
READINGS: tuple[Reading, ...] = ("nominal", "fitted")

# What the paper's device held besides PyTorch's reserved memory: "hardware reserved" and "PyTorch reserved" of the
# rebuttal's breakdown (paper Figure 3), in bytes.
OVERHEAD = round(1.2 * GIB)
# Where LLaMA's padded length was fitted: all of its cells at a length that is not stated otherwise.
FITTED = ("table5", "rebuttal_submodules", "rebuttal_ranks", "rebuttal_layers", "rebuttal_scales")

# A task of each kind of model, whose lengths a step has where it says no other.
TASKS = {"encoder": "mrpc", "encoder-decoder": "wmt16-en-ro", "decoder": "alpaca"}
FIELDS = {item.name for item in fields(Recipe)}


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


def lean(recipe: Recipe) -> Recipe:
    """The recipe with this library's LoRA-FA and all of its recomputation."""
    return replace(recipe, method="lora-fa", recompute=("norm", "activation", "dropout", "loss"))


@cache
def composed(model: str, method: str) -> RunConfig:
    """A run of the paper profile, as far as its model and method decide it."""
    kind = OmegaConf.load(CONF / f"model/{model}.yaml").kind
    return compose_run(["profile=paper", f"model={model}", f"method={method}", f"task={TASKS[kind]}"])[0]


@cache
def experiments() -> dict[str, Experiment]:
    """The experiments of the paper profile."""
    return compose_experiments(["profile=paper"])[0]


def steps_of(table: str) -> Steps:
    """What conf/experiment says of a table's steps."""
    steps = experiments()[table].steps
    assert steps is not None
    return steps_of(steps.like) if steps.like else steps


def cells(table: str, reading: Reading) -> list[Cell]:
    """The cells of a table, in the order of its axes and methods.

    Raises:
        ConfigError: What conf/ says of a step cannot be run.
    """
    steps = steps_of(table)
    try:
        return list(_cells(table, steps, reading))
    except (RecipeError, TypeError) as error:
        raise ConfigError(f"conf/experiment/{table}.yaml: steps: {error}") from error


def _cells(table: str, steps: Steps, reading: Reading) -> Iterator[Cell]:
    axes = [[(column, *value) for value in _values(column, tried)] for column, tried in steps.axes.items()]
    for model, *point in product(steps.models, *axes):
        columns = {"model": model} if len(steps.models) > 1 else {}
        columns |= {column: label for column, label, _ in point}
        for name, special in steps.methods.items():
            own = {key: value for key, value in special.items() if key in FIELDS - {"method"}}
            words = {key: value for key, value in special.items() if key not in FIELDS}
            run = composed(model, special.get("method", name))
            given = [own, *(values for _, _, values in point)]
            recipe = _step(steps, run, reading, given)
            for method, made in _as_published(name, recipe).items():
                yield _cell(table, made, **words, **columns, method=method)


def _values(column: str, tried: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the values of an axis: what the table calls each, and the fields that it stands for."""
    if isinstance(tried, Mapping):
        yield from ((str(label), values) for label, values in tried.items())
    else:
        yield from ((str(value), {column: value}) for value in tried)


def _step(steps: Steps, run: RunConfig, reading: Reading, given: list[dict[str, Any]]) -> Recipe:
    from pipeline.costs.recipe import recipe_of_run

    layers = [run.model.measured, steps.recipe, steps.models[run.model.name]]
    if reading == "fitted":
        length = run.model.fitted_length
        layers += [{"source_length": length, "target_length": 0}] if length else []
        layers.append(steps.fitted)
    values = {key: value for layer in (*layers, *given) for key, value in layer.items()}
    recipe = recipe_of_run(run)
    if "source_length" in values:  # an encoder-decoder's other length, unless it has its own, is the same
        values.setdefault("target_length", 0)
    if recipe.method == "full-ft":
        values = {key: value for key, value in values.items() if key != "target_modules"}
    else:
        values = {
            "autocast": "none",
            **values,
            "target_modules": tuple(values.get("target_modules", recipe.target_modules)),
        }
    return replace(recipe, **values)


def _as_published(name: str, recipe: Recipe) -> dict[str, Recipe]:
    """The paper's LoRA-FA and ours, where the method is LoRA-FA."""
    if recipe.method != "lora-fa":
        return {name: recipe}
    ours = name.replace("lora-fa", "lora-fa-lean", 1)
    return {name: replace(recipe, method="lora-frozen-a"), ours: lean(recipe)}


def _cell(table: str, recipe: Recipe, **key: object) -> Cell:
    return Cell(table, tuple((name, str(value)) for name, value in key.items()), recipe)


# Table to the function of a reading that returns its cells.
TABLES = {
    file.stem: partial(cells, file.stem)
    for file in sorted((CONF / "experiment").glob("*.yaml"))
    if OmegaConf.load(file).kind in ("memory", "breakdown")
}


def published(table: str, folder: Path) -> dict[frozenset[tuple[str, str]], str]:
    """The published numbers of a table, by cell: text, as "OOM" is one of them.

    Args:
        table: Stem of the CSV file.
        folder: Where it is: results/paper.
    """
    names = {name for name, _ in TABLES[table]("nominal")[0].key}
    return {
        frozenset((name, row[name]) for name in names): row["memory_gb"]
        for row in _rows(table, folder)
        if "memory_gb" in row and names <= row.keys()
    }


def _rows(table: str, folder: Path) -> list[dict[str, str]]:
    path = folder / f"{table}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def card_of(table: str, folder: Path) -> int:
    """Bytes of the A100 that a table's published numbers are of: 80 GB, unless the file says otherwise."""
    sizes = [row.get("device_gb", "80") for row in _rows(table, folder) if "memory_gb" in row]
    return CARDS[f"a100-{sizes[0] if sizes else 80}gb"]


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
        view.add_row(
            " ".join(text for _, text in nominal.key),
            value,
            _gib(device_memory(results[nominal.recipe])),
            _gib(device_memory(result)),
            f"{device_memory(result) / GIB / float(value):.3f}" if _is_number(value) else "",
            _gib(result.peak),
            _gib(result.breakdown["cache"]),
        )
    return view


def llama_cells(folder: Path) -> list[tuple[Recipe, float]]:
    """The fitted steps that LLaMA's length was fitted on, each with the GB that were published for it."""
    found = []
    for table in FITTED:
        theirs = published(table, folder)
        for cell in cells(table, "fitted"):
            value = theirs.get(frozenset(cell.key), "")
            if cell.recipe.model.startswith("llama") and _is_number(value):
                found.append((cell.recipe, float(value)))
    return found


def fit(lengths: Iterable[int], folder: Path, processes: int) -> Table:
    """A table for the terminal: how far the estimates are from LLaMA's published cells, by their length."""
    from lorafa.memory.estimate import estimate_all

    known = llama_cells(folder)
    at = {length: [replace(recipe, source_length=length) for recipe, _ in known] for length in lengths}
    results = estimate_all([recipe for recipes in at.values() for recipe in recipes], processes)
    view = Table(title=f"LLaMA's {len(known)} published cells", title_justify="left")
    for heading in ("length", "root mean square error", "largest error"):
        view.add_column(heading, justify="right")
    for length, steps in at.items():
        errors = [
            device_memory(results[step]) / GIB / theirs - 1
            for step, (_, theirs) in zip(steps, known, strict=True)
        ]
        deviation = math.sqrt(sum(error**2 for error in errors) / len(errors))
        view.add_row(str(length), f"{deviation:.1%}", f"{max(errors, key=abs):+.1%}")
    return view


def _is_number(text: str) -> bool:
    return text.replace(".", "").isdigit()


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
    parser.add_argument(
        "--fit",
        type=int,
        nargs="+",
        metavar="LENGTH",
        help="print instead how far LLaMA's cells are from the paper's at these lengths",
    )
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"unknown tables: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    quieten()
    from lorafa.memory.estimate import estimate_all

    console = Console(width=110)
    if options.fit:
        console.print(fit(options.fit, options.reference, options.processes))
        return
    results = estimate_all(recipes(options.tables), options.processes)
    for table in options.tables:
        console.print(compare(table, options.reference, results))


if __name__ == "__main__":
    main()
