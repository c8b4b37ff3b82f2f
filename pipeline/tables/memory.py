"""The memory tables: the paper's numbers beside estimates for the full-scale models."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from lorafa.memory.recipe import Recipe
from pipeline.config.plan import Plan
from pipeline.errors import RecordError
from pipeline.fullscale import measured
from pipeline.fullscale.recipes import card_of, published
from pipeline.tables.table import Cell, Row, Table

ROOT = Path(__file__).parents[2]
GIB = 2**30
READINGS = ("nominal", "fitted")
METHODS = {
    "full-ft": "Full-FT",
    "lora": "LoRA",
    "lora-fa": "LoRA-FA (the paper's)",
    "lora-fa-lean": "LoRA-FA (lorafa)",
    "lora-fa-flash": "LoRA-FA (the paper's), FlashAttention",
    "lora-fa-lean-flash": "LoRA-FA (lorafa), FlashAttention",
}
ADAPTERS = {
    "full-ft": "Full-FT",
    "prompt-tuning": "Prompt tuning",
    "lora": "LoRA",
    "lora-qv": "LoRA-qv",
    "lora-frozen-a": "LoRA-FA (PEFT, frozen A)",
    "lora-fa": "LoRA-FA (lorafa)",
}
HEADINGS = {
    "model": "Model",
    "rank": "Rank",
    "batch_size": "Batch size",
    "length": "Length",
    "layer_fraction": "Layers",
    "modules": "Adapted layers",
    "optimization": "With",
}
ESTIMATED = (
    "Estimated without a GPU: the real model classes run one step on fake tensors, and a model of the CUDA allocator "
    "turns the trace into reserved memory (docs/memory.md). Not measured on a GPU."
)
MEASURED = ESTIMATED.replace("Not measured on a GPU.", "The columns named for a card are measured on it.")


def build(plan: Plan, name: str) -> Table:
    """Builds a table of peak memory: one row a cell, the paper's number beside both readings."""
    experiment = plan.experiments[name]
    cells = read_estimates(plan, name)
    capacity = card_of(name, (ROOT / experiment.reference).parent)
    keys = [column for column in cells.attrs["keys"] if column != "method"]
    rows: list[Row] = []
    previous: tuple[Any, ...] | None = None
    for _, line in cells.iterrows():
        group = tuple(line[key] for key in keys[:1])
        texts = [Cell(str(line[key])) for key in keys]
        texts.append(Cell(METHODS.get(line.method, line.method)))
        texts.append(Cell(line.paper or "–"))
        texts += [Cell(f"{line[reading] / GIB:.1f}") for reading in READINGS]
        texts.append(Cell(_ratio(line.fitted, line.paper, capacity)))
        texts += [Cell(f"{line.allocated / GIB:.1f}"), Cell(f"{line.saved / GIB:.1f}")]
        texts += [
            Cell("–" if pd.isna(line[card]) else f"{line[card] / GIB:.1f}") for card in cells.attrs["cards"]
        ]
        rows.append(Row(texts, rule=group != previous))
        previous = group
    columns = [HEADINGS[key] for key in keys]
    columns += ["Method", "Paper, GB", "Nominal, GiB", "Fitted, GiB", "Fitted / paper", "Allocated", "Saved"]
    columns += [f"{card}, GiB" for card in cells.attrs["cards"]]
    return Table(
        name=name,
        title=experiment.title,
        notice=MEASURED if cells.attrs["cards"] else ESTIMATED,
        caption=experiment.caption,
        columns=columns,
        rows=rows,
        notes=[*_notes(), _recipe_note(cells)],
        data=cells.drop(columns=["recipe"]).to_dict("records"),
        text_columns=len(keys) + 1,
    )


def build_breakdown(plan: Plan, name: str) -> Table:
    """Builds Figure 3's table: the components of the memory, the paper's and ours."""
    experiment = plan.experiments[name]
    parts = read_breakdown(plan, name)
    columns = ["Component", *parts.columns]
    rows = [Row([Cell(str(part)), *(Cell(f"{v:.1f}") for v in line)]) for part, line in parts.iterrows()]
    rows.append(Row([Cell("total"), *(Cell(f"{v:.1f}", bold=True) for v in parts.sum())], rule=True))
    return Table(
        name=name,
        title=experiment.title,
        notice=ESTIMATED,
        caption=experiment.caption + " All numbers in GiB (the paper's in GB as printed).",
        columns=columns,
        rows=rows,
        notes=_notes(),
        data=[{"component": part, **line} for part, line in parts.to_dict("index").items()],
    )


def build_complexity(plan: Plan, name: str) -> Table:
    """Builds Table 1: formula, bytes by the formula, bytes counted on a real layer."""
    experiment = plan.experiments[name]
    entries = read_rows(plan, name)
    quantities = list(dict.fromkeys(entries.quantity))
    rows = []
    for method, group in entries.groupby("method", sort=False):
        line = group.set_index("quantity").loc[quantities]
        kinds = (("formula", "formula"), ("predicted", "by the formula"), ("metered", "counted"))
        for number, (kind, words) in enumerate(kinds):
            values = [str(v) if kind == "formula" else f"{int(v):,}" for v in line[kind]]
            rows.append(Row([Cell(ADAPTERS[str(method)]), Cell(words), *map(Cell, values)], rule=number == 0))
    return Table(
        name=name,
        title=experiment.title,
        notice="",
        caption=experiment.caption,
        columns=["Method", "", "# TPs", *(quantity.capitalize() for quantity in quantities[1:])],
        rows=rows,
        notes=["# TPs in parameters, the rest in bytes. Counted: `pipeline.fullscale.table1`, on a CPU."],
        data=entries.to_dict("records"),
        text_columns=2,
    )


def build_parameters(plan: Plan, name: str) -> Table:
    """Builds the table of trainable parameters: the paper's column, our count by its rule, and ours."""
    experiment = plan.experiments[name]
    counts = read_rows(plan, name)
    published = pd.read_csv(ROOT / experiment.reference)
    merged = counts.merge(published, on=["table", "model", "method"], how="left")
    rows = []
    for number, line in enumerate(merged.itertuples()):
        first = number == 0 or line.model != merged.model.iloc[number - 1]
        unit = "2²⁰" if line.unit == 2**20 else "10⁶"
        texts = [
            str(line.table),
            line.model,
            ADAPTERS[line.method],
            f"{line.parameters_millions:g}",
        ]
        texts += [f"{line.by_the_papers_rule:.2f}", unit, f"{line.trainable_parameters:,}"]
        rows.append(Row([Cell(text) for text in texts], rule=first))
    columns = ["Table", "Model", "Method", "Paper, M", "By the paper's rule", "Its unit", "Counted once"]
    notes = [
        "The paper's rule, found by comparison: a classification head counts twice (PEFT keeps the original beside the "
        "trained copy), and most columns are in units of 2²⁰ though labelled M."
    ]
    data = merged.to_dict("records")
    return Table(name, experiment.title, "", experiment.caption, columns, rows, notes, data, text_columns=3)


def read_estimates(plan: Plan, name: str) -> pd.DataFrame:
    """Reads an experiment's cells: its key columns, `paper`, and bytes as `nominal`, `fitted`, `allocated`, `saved`.

    A card on which steps of the fitted reading were measured has a column of its own, in bytes; `attrs["cards"]` names
    them.
    """
    estimates = read_rows(plan, name)
    keys = [item.split("=", 1)[0] for item in _items(estimates.cell.iloc[0])]
    wide = estimates.pivot(index="cell", columns="reading", values="device_bytes")
    fitted = estimates[estimates.reading == "fitted"].drop_duplicates("cell").set_index("cell")
    theirs = published(name, (ROOT / plan.experiments[name].reference).parent)
    rows = []
    for cell in fitted.index:
        values = dict(item.split("=", 1) for item in _items(cell))
        rows.append(
            {
                **values,
                "paper": theirs.get(frozenset(values.items()), ""),
                **{reading: wide.loc[cell, reading] for reading in READINGS},
                "allocated": fitted.loc[cell, "allocated_bytes"],
                "saved": fitted.loc[cell, "saved_bytes"],
                "recipe": fitted.loc[cell, "recipe"],
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs["keys"] = keys
    frame.attrs["cards"] = _add_measured(frame)
    return frame


def _add_measured(cells: pd.DataFrame) -> list[str]:
    """Adds a column for each card that measured one of the cells, and returns their names."""
    cards = []
    recipes = [Recipe.from_json(json.loads(text)) for text in cells.recipe]
    for card, sizes in measured.device_memory().items():
        if not sizes.keys().isdisjoint(recipes):
            cells[card] = pd.Series([sizes.get(recipe) for recipe in recipes], dtype="float64")
            cards.append(card)
    return cards


def read_breakdown(plan: Plan, name: str) -> pd.DataFrame:
    """Reads Figure 3: components by source, in GiB."""
    estimates = read_rows(plan, name)
    estimates = estimates[estimates.reading == "fitted"]
    published = pd.read_csv(ROOT / plan.experiments[name].reference).set_index("component")
    sources: dict[str, dict[str, float]] = {
        "LoRA, published": _grouped(published.lora_gb),
        "LoRA-FA, published": _grouped(published.lora_fa_gb),
    }
    for line in estimates.to_dict("records"):
        method = line["cell"].removeprefix("method=")
        sources[f"{METHODS[method]}, estimated"] = {
            "device and PyTorch": (line["device_bytes"] - line["reserved_bytes"]) / GIB,
            "model": line["weights_bytes"] / GIB,
            "adapters and gradients": (line["adapters_bytes"] + line.get("gradients_bytes", 0)) / GIB,
            "optimizer": line["optimizer_bytes"] / GIB,
            "activations": (line["activations_bytes"] + line["temporaries_bytes"] + line["inputs_bytes"])
            / GIB,
            "allocator's cache": line["cache_bytes"] / GIB,
        }
    return pd.DataFrame(sources).rename_axis("component")


def _grouped(published: pd.Series) -> dict[str, float]:
    names = {
        "hardware reserved": "device and PyTorch",
        "pytorch reserved": "device and PyTorch",
        "model in bf16": "model",
        "lora module": "adapters and gradients",
        "optimizer state": "optimizer",
        "activation": "activations",
        "cache": "allocator's cache",
    }
    grouped = published.groupby(names).sum()
    return {name: float(grouped[name]) for name in dict.fromkeys(names.values())}


def read_rows(plan: Plan, name: str) -> pd.DataFrame:
    """Reads what `pipeline.memory predict` has written for an experiment.

    Raises:
        RecordError: It is missing or damaged.
    """
    path = Path(plan.memory_file(name))
    try:
        return pd.read_csv(path)
    except (FileNotFoundError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise RecordError(
            f"{path} is missing or damaged: delete it and run again to compute it anew"
        ) from error


def _items(cell: str) -> list[str]:
    """Splits "modules=no q method=lora" at the spaces that a name and = follow."""
    parts: list[str] = []
    for word in cell.split(" "):
        if "=" in word or not parts:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return parts


def _ratio(size: int, published: str, capacity: int) -> str:
    """Compares bytes with the paper's GB, or with whether it fitted its card of this capacity."""
    ours = "OOM" if size > capacity else "fits"
    if published in ("OOM", "fits"):
        return f"{ours} too" if ours == published else ours
    return f"{size / GIB / float(published):.2f}" if re.fullmatch(r"\d+(\.\d+)?", published) else "–"


def _notes() -> list[str]:
    return [
        "Nominal: the lengths that the paper states. Fitted: one effective (padded) length for each model, the same in "
        "all of its cells; no cell is tuned alone. Both are reserved memory and 1.2 GiB for the device and PyTorch, as "
        "in the paper's Figure 3.",
        "Allocated: the fitted reading's peak without the allocator's cache. Saved: what forward saves for backward.",
        "LoRA-FA (the paper's) is PEFT's LoRA with A's gradient switched off. LoRA-FA (lorafa) saves XA alone and "
        "recomputes norms, activations, dropout and the loss; the paper has no numbers for it.",
    ]


def _recipe_note(cells: pd.DataFrame) -> str:
    recipes = [json.loads(text) for text in cells.recipe]
    shown = ("dtype", "attention", "adapter_dropout", "batch_size", "source_length", "rank", "checkpointing")
    parts = []
    for key in shown:
        values = list(dict.fromkeys(str(recipe[key]) for recipe in recipes))
        parts.append(f"{key.replace('_', ' ')} {', '.join(values)}")
    return f"Recipe of the fitted reading: {'; '.join(parts)}."
