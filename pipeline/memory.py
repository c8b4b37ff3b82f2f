"""Memory of fine-tuning at full scale: predicted without a GPU, and measured where there is one.

`python -m pipeline.memory predict FOLDER/table5.csv` writes what a memory table or figure is made of.
`python -m pipeline.memory measure table5 FOLDER` runs a table's steps for real, each in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lorafa.memory.recipe import Recipe, RecipeError
from pipeline import files
from pipeline.cli import job
from pipeline.errors import ConfigError, PipelineError
from pipeline.fullscale import recipes as paper
from pipeline.results import records

if TYPE_CHECKING:
    from lorafa.memory.estimate import Estimate


def predict(experiment: str) -> list[dict[str, Any]]:
    """Returns the numbers of a memory table or figure, one of `PREDICTED`."""
    return _estimates(experiment) if experiment in paper.TABLES else _OTHERS[experiment]()


def _estimates(table: str) -> list[dict[str, Any]]:
    """Returns the estimates of a table's cells, in both readings."""
    from lorafa.memory.estimate import estimate

    cells = [(reading, cell) for reading in paper.READINGS for cell in paper.TABLES[table](reading)]
    gc.freeze()  # what the imports made lives as long as the process; collecting it would cost a third of the time
    return [
        {"reading": reading, "cell": spell(cell), **_row(estimate(cell.recipe))}
        for reading, cell in tqdm(cells, desc=table, unit="step")
    ]


def _complexity() -> list[dict[str, Any]]:
    """Returns Table 1: the paper's formulas, and what they say and a real layer counts."""
    from pipeline.fullscale.table1 import table1

    return [asdict(entry) for entry in table1()]


def _trainable() -> list[dict[str, Any]]:
    """Returns the trainable parameters of the paper's rows."""
    from pipeline.fullscale.parameters import paper_rows

    return [_parameters(row) for row in paper_rows()]


def _throughput() -> list[dict[str, Any]]:
    """Returns the modelled throughput of Figure 5's steps, in the fitted reading."""
    from pipeline.fullscale.throughput import tokens_per_second

    cells = paper.cells("figure5_throughput", "fitted")
    return [{**dict(c.key), "tokens_per_second": tokens_per_second(c.recipe)} for c in cells]


def _equal_memory() -> list[dict[str, Any]]:
    """Returns the largest batch of each step that fits its card, and the modelled throughput with it."""
    from pipeline.fullscale.throughput import at_equal_memory

    cells = paper.cells("throughput_equal_memory", "fitted")
    return [{**dict(c.key), **at_equal_memory(c.recipe, dict(c.key)["card"])} for c in cells]


def _published() -> list[dict[str, Any]]:
    """Returns what others have measured, beside estimates."""
    from pipeline import published

    gc.freeze()
    return published.compare(published.read()).to_dict("records")


def _fits() -> list[dict[str, Any]]:
    """Returns the largest steps that fit a card."""
    from pipeline.fullscale.fits import what_fits

    gc.freeze()
    return what_fits("what_fits")


_OTHERS = {
    "table1": _complexity,
    "parameters": _trainable,
    "figure5_throughput": _throughput,
    "throughput_equal_memory": _equal_memory,
    "gpu_memory": _published,
    "what_fits": _fits,
}
PREDICTED = (*_OTHERS, *paper.TABLES)


def spell(cell: paper.Cell) -> str:
    """Returns a cell's key as text: model=llama-7b method=lora."""
    return " ".join(f"{name}={value}" for name, value in cell.key)


def _row(result: Estimate) -> dict[str, Any]:
    return {
        "device_bytes": paper.device_memory(result),
        "allocated_bytes": result.peak,
        "reserved_bytes": result.reserved,
        "saved_bytes": result.saved,
        **{f"{part.replace(' ', '_')}_bytes": size for part, size in result.breakdown.items()},
        "trainable_parameters": result.trainable_parameters,
        "recipe": _recipe(result.recipe),
    }


def _recipe(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe))


def _parameters(row: Any) -> dict[str, Any]:
    from pipeline.fullscale.parameters import count

    counted = count(row.recipe)
    return {
        "table": row.table,
        "model": row.recipe.model,
        "method": row.label,
        "trainable_parameters": counted.trainable,
        "by_the_papers_rule": counted.by_the_papers_rule(row.unit),
        "unit": row.unit,
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    files.write_text(path, pd.DataFrame(rows).to_csv(index=False))


def measure(table: str, reading: paper.Reading, folder: Path, device: str, snapshots: bool) -> None:
    """Runs each cell of a table in a clean process and writes what it took; what was measured before stays.

    Args:
        table: A key of `pipeline.fullscale.recipes.TABLES`.
        reading: Of the recipes: "nominal" or "fitted".
        folder: Gets one JSON file for each cell, `<table>.csv`, and what was measured on a GPU as rows of
            `results/published/gpu_memory.csv`.
        device: "cuda" (the allocator's own peaks) or "cpu" (the storage tracker's).
        snapshots: Also write the CUDA allocator's history, for https://pytorch.org/memory_viz.
    """
    rows = []
    for cell in tqdm(paper.TABLES[table](reading), desc=table, unit="step"):
        name = files.fingerprint([asdict(cell.recipe), device])
        path = folder / table / f"{name}.json"
        if not path.exists():
            snapshot = ["--snapshot", str(path.with_suffix(".pickle"))] if snapshots else []
            command = [
                sys.executable,
                "-m",
                "pipeline.memory",
                "step",
                _recipe(cell.recipe),
                "--device",
                device,
            ]
            finished = subprocess.run([*command, *snapshot], stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
            if finished.returncode:
                raise PipelineError(
                    f"{table}, {spell(cell)}: the step failed with exit code {finished.returncode}"
                )
            files.write_text(path, finished.stdout)
        rows.append({"cell": spell(cell), "reading": reading, **json.loads(path.read_text())})
    _write(folder / f"{table}.csv", rows)
    from pipeline import published

    steps = zip(paper.TABLES[table](reading), rows, strict=True)
    if measured := [row for cell, found in steps for row in published.rows_of(cell.recipe, found)]:
        _write(folder / published.PATH.name, measured)


def measure_step(recipe: Recipe, device: str, snapshot: Path | None = None) -> dict[str, Any]:
    """Makes two training steps with real tensors and random weights, and returns the peak of the second.

    Returns:
        `status` ("done" or "out_of_memory"), `allocated_bytes`, and on CUDA `reserved_bytes` and the name of the `gpu`.
    """
    from pipeline.training import peak_memory

    try:
        if device == "cpu":
            return {"status": records.DONE, "allocated_bytes": _tracked(replace(recipe, device="cpu"))}
        return {"status": records.DONE, **_on_cuda(recipe, snapshot)}
    except Exception as error:
        if not peak_memory.is_out_of_memory(error):
            raise
        return {"status": records.OUT_OF_MEMORY}


def _tracked(recipe: Recipe) -> int:
    from lorafa.memory.step import trace_step

    model, batch, optimizer = _real(recipe, "cpu")
    return trace_step(model, batch, optimizer, first_step=True).timeline(granularity=1).peak


def _on_cuda(recipe: Recipe, snapshot: Path | None) -> dict[str, int | str]:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device; measure with --device cpu, or use the estimates")
    model, batch, optimizer = _real(recipe, "cuda")
    if snapshot:
        torch.cuda.memory._record_memory_history()
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if snapshot:
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        torch.cuda.memory._dump_snapshot(str(snapshot))
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "gpu": torch.cuda.get_device_name(),
    }


def _real(recipe: Recipe, device: str) -> tuple[Any, dict[str, Any], Any]:
    """Returns the recipe's model with random weights, a batch and the optimizer, on a device."""
    import torch

    from lorafa.memory.adapt import adapt
    from lorafa.memory.batch import batch_of
    from lorafa.memory.depth import full
    from lorafa.memory.models import HEADS, head_of, load_config
    from lorafa.memory.recipe import DTYPES
    from lorafa.memory.step import optimizer_of
    from lorafa.targets import block_stacks

    elsewhere = {
        "quantization": "none",
        "shards": 1,
        "offload": "none",
        "autocast": "none",
        "accumulation": 1,
    }
    if given := [name for name, usual in elsewhere.items() if getattr(recipe, name) != usual]:
        raise ConfigError(f"recipe: {', '.join(given)} can be estimated but not measured here")
    config = load_config(recipe.model)
    config.use_cache = False
    attention = {"flash": "flash_attention_2"}.get(recipe.attention, recipe.attention)
    with torch.device(device):
        model = HEADS[head_of(config)].from_config(
            config, dtype=DTYPES[recipe.dtype], attn_implementation=attention
        )
        flags: tuple[Sequence[bool], ...] = full(config, recipe.layer_fraction).adapted
        adapted = dict(zip(block_stacks(model), flags, strict=True))
        tuned = adapt(model, recipe, adapted).train()
        batch = batch_of(config, recipe)
    return tuned, batch, optimizer_of(tuned, recipe)


def _parse(arguments: Iterable[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.memory", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("predict", help="compute what the memory tables and figures are made of")
    command.add_argument(
        "file", type=Path, help=f"what to write, in any folder: NAME.csv, a NAME of {', '.join(PREDICTED)}"
    )
    command = commands.add_parser("measure", help="run the steps of one table for real")
    command.add_argument("table", choices=list(paper.TABLES))
    command.add_argument("folder", type=Path, help="where to write the results")
    command.add_argument("--reading", choices=paper.READINGS, default="nominal", help="default: nominal")
    command.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    command.add_argument("--snapshots", action="store_true", help="also keep the CUDA allocator's history")
    command = commands.add_parser("step", help="run one step for real and print its peak as JSON")
    command.add_argument("recipe", help="a lorafa.memory Recipe as JSON")
    command.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    command.add_argument("--snapshot", type=Path, help="where to keep the CUDA allocator's history")
    return parser.parse_args(None if arguments is None else list(arguments))


def _read_recipe(text: str) -> Recipe:
    try:
        values = json.loads(text)
        unknown = set(values) - {item.name for item in fields(Recipe)}
        if unknown:
            raise ConfigError(f"recipe: unknown field {', '.join(sorted(unknown))}")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Recipe(**{**values, **lists})
    except (TypeError, ValueError, RecipeError) as error:
        raise ConfigError(f"recipe: {error}") from error


@job
def main() -> None:
    """Runs the command line."""
    options = _parse()
    if options.command == "predict":
        if options.file.suffix != ".csv" or options.file.stem not in PREDICTED:
            raise ConfigError(f"{options.file}: must be NAME.csv, with a name of {', '.join(PREDICTED)}")
        _write(options.file, predict(options.file.stem))
    elif options.command == "measure":
        measure(options.table, options.reading, options.folder, options.device, options.snapshots)
    else:
        print(json.dumps(measure_step(_read_recipe(options.recipe), options.device, options.snapshot)))


if __name__ == "__main__":
    main()
