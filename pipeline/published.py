"""GPU memory that others have measured and published, beside what `lorafa.memory` estimates for the same step.

  python -m pipeline.published                 every row of results/published/gpu_memory.csv, each source, the bound
  python -m pipeline.published --csv FILE      the rows as CSV, too
  python -m pipeline.published --fit           the effective lengths, fitted anew

Where a source does not state the length of its batches, one length is fitted on one of its rows, which then counts for
nothing: it is marked with =. A row that is excluded, marked with †, was measured in a setting that no recipe describes;
its reason stands in the file. Both are left out of every summary.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from lorafa.memory.estimate import Estimate, estimate, estimate_all
from lorafa.memory.loss import loss_of_version
from lorafa.memory.margin import CONTEXT, MARGIN
from lorafa.memory.models import ModelNotFoundError
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.memory.sizes import GIB
from pipeline import files
from pipeline.cli import command_line, job
from pipeline.comparison.bound import ONE_IN, Bound, bound
from pipeline.errors import ConfigError

PATH = Path(__file__).parents[1] / "results/published/gpu_memory.csv"
UNITS = {"bytes": 1, "MiB": 2**20, "GiB": GIB, "GB": 10**9}
# What was measured, as a number of an estimate; a device also holds a context.
MEASURED: dict[str, Callable[[Estimate], int]] = {
    "allocated": lambda result: result.peak,
    "active": lambda result: result.peak,
    "reserved": lambda result: result.reserved,
    "device": lambda result: result.reserved,
}


def _flag(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"must be yes or no, not {text!r}")
    return text == "yes"


COLUMNS = (
    *("source", "url", "commit", "date", "gpu", "torch", "transformers", "peft", "model", "config"),
    *("method", "rank", "targets", "dtype", "autocast", "adapter_dtype", "quantization", "prepared"),
    *("attention", "repeat_heads", "dropout", "batch", "micro_batch", "length", "max_length"),
    *("virtual_tokens", "checkpointing", "outputs_until", "optimizer", "measured", "value", "unit"),
    *("context_mib", "fitted_length", "fitted_on", "excluded"),
)
# Columns of the file, where they have something, as fields of a recipe.
FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("model", str),
    "method": ("method", str),
    "rank": ("rank", int),
    "targets": ("target_modules", lambda text: tuple(text.split())),
    "dtype": ("dtype", str),
    "autocast": ("autocast", str),
    "adapter_dtype": ("adapter_dtype", str),
    "quantization": ("quantization", str),
    "prepared": ("prepared", _flag),
    "attention": ("attention", str),
    "repeat_heads": ("repeat_heads", _flag),
    "dropout": ("adapter_dropout", float),
    "micro_batch": ("batch_size", int),
    "fitted_length": ("source_length", int),
    "length": ("source_length", int),  # what is stated goes before what is fitted
    "virtual_tokens": ("virtual_tokens", int),
    "checkpointing": ("checkpointing", _flag),
    "outputs_until": ("outputs_until", str),
    "optimizer": ("optimizer", str),
}
CLOSE = 5.0  # per cent


def read(path: Path = PATH) -> pd.DataFrame:
    """Returns the published measurements, all as text, empty where nothing is stated."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def rows_of(recipe: Recipe, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns what `pipeline.memory measure` has found on a GPU as rows of the file: what it allocated and reserved.

    Args:
        recipe: The step.
        found: What `pipeline.memory.measure_step` returns; a step without a GPU, or without memory, makes no row.
    """
    if "gpu" not in found:
        return []
    row = dict.fromkeys(COLUMNS, "") | {name: version(name) for name in ("torch", "transformers", "peft")}
    row |= {"date": date.today().isoformat(), "gpu": found["gpu"], "unit": "bytes"}
    written = {column: _written(getattr(recipe, name)) for column, (name, _) in FIELDS.items()}
    model, _, config = recipe.model.partition("?")
    row |= {**written, "fitted_length": "", "model": model, "config": config}
    row["batch"] = str(recipe.batch_size * recipe.accumulation)
    if not recipe.method.startswith("lora"):
        row |= dict.fromkeys(("rank", "targets", "adapter_dtype", "dropout"), "")
    return [
        {**row, "measured": what, "value": str(found[f"{what}_bytes"])} for what in ("allocated", "reserved")
    ]


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def recipe_of(row: pd.Series) -> Recipe:
    """Returns the step that a row is the memory of.

    Raises:
        ConfigError: It describes no possible step; the message names the line of the file.
    """
    try:
        fields = {name: parse(row[column]) for column, (name, parse) in FIELDS.items() if row[column]}
        if row["config"]:
            fields["model"] += f"?{row['config']}"
        if row["transformers"]:
            fields["loss"] = loss_of_version(row["transformers"])
        return Recipe(**fields, accumulation=int(row["batch"]) // fields["batch_size"])
    except (RecipeError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{PATH.name}, line {_line(row)}: {error}") from error


def bytes_measured(row: pd.Series) -> float:
    """Returns what a row measured, in bytes; a GB is 10⁹ of them."""
    return float(row["value"]) * UNITS[row["unit"]]


def bytes_estimated(row: pd.Series, recipe: Recipe | None = None, known: Estimate | None = None) -> int:
    """Returns the estimate of what a row measured, of the row's own recipe or another, or as it is known already.

    Raises:
        ConfigError: The step cannot be run; the message names the line of the file.
    """
    try:
        result = MEASURED[row["measured"]](known or estimate(recipe or recipe_of(row)))
    except (RecipeError, ModelNotFoundError) as error:
        raise ConfigError(f"{PATH.name}, line {_line(row)}: {error}") from error
    return result + (context_of(row) if row["measured"] == "device" else 0)


def context_of(row: pd.Series) -> int:
    """Returns the bytes of a device besides PyTorch's: as the source states them, or as `lorafa.memory` has them."""
    return int(row["context_mib"]) * UNITS["MiB"] if row["context_mib"] else CONTEXT


def fit_length(row: pd.Series, longest: int = 4096) -> int:
    """Returns the length, a multiple of 8 tokens, whose estimate is nearest to what the row measured."""
    recipe, measured = recipe_of(row), bytes_measured(row)

    def more(eights: int) -> float:
        return bytes_estimated(row, replace(recipe, source_length=8 * eights)) - measured

    low, high = 1, longest // 8  # too short, long enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if more(middle) >= 0 else (middle, high)
    return 8 * min(low, high, key=lambda eights: abs(more(eights)))


def compare(rows: pd.DataFrame, processes: int = 1) -> pd.DataFrame:
    """Estimates every row.

    Args:
        rows: Of the file.
        processes: How many share the work.

    Returns:
        By row: source, setting, what was measured, measured and estimated GiB, the error of the estimate in per cent of
        the measured, whether a length was fitted on it, why it is excluded, its address.
    """
    found = []
    recipes = [recipe_of(row) for _, row in rows.iterrows()] if processes > 1 else []
    known = estimate_all(recipes, processes) if recipes else {}
    for _, row in tqdm(rows.iterrows(), total=len(rows), desc="published", unit="step"):
        measured, estimated = bytes_measured(row), bytes_estimated(row, known=known.get(recipe_of(row)))
        found.append(
            {
                "source": row["source"],
                "setting": setting(row),
                "measured": row["measured"],
                "measured_gib": measured / GIB,
                "estimated_gib": estimated / GIB,
                "error_percent": 100 * (estimated / measured - 1),
                "fitted": row["fitted_on"] == "yes",
                "excluded": row["excluded"],
                "url": row["url"],
            }
        )
    return pd.DataFrame(found)


def setting(row: pd.Series) -> str:
    """Returns a row's step in a few words."""
    recipe = recipe_of(row)
    parts = [
        row["model"].rpartition("/")[2],
        row["config"],
        recipe.method,
        f"r{recipe.rank} {'+'.join(n.removesuffix('_proj') for n in recipe.target_modules)}"
        if row["rank"]
        else "",
        recipe.optimizer if recipe.optimizer != "adamw" else "",
        recipe.dtype if recipe.autocast in ("none", recipe.dtype) else f"{recipe.dtype}/{recipe.autocast}",
        recipe.quantization if recipe.quantization != "none" else "",
        "prepared" if recipe.prepared else "",
        recipe.attention if recipe.attention != "flash" else "",
        "heads repeated" if recipe.repeat_heads else "",
        f"{recipe.batch_size}×{recipe.source_length}",
        "checkpointed" if recipe.checkpointing else "",
        f"transformers {row['transformers']}" if row["transformers"] else "",
    ]
    return " ".join(part for part in parts if part)


def counted(compared: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that test the estimator: nothing was fitted on them, and they are not excluded."""
    return compared[~compared.fitted & (compared.excluded == "")]


def summarize(compared: pd.DataFrame) -> pd.DataFrame:
    """Returns for each source the rows that count, the median error and the worst, with their signs."""
    return pd.DataFrame(
        {
            "source": source,
            "rows": len(errors),
            "close": int((errors.abs() <= CLOSE).sum()),
            "median_percent": errors.median(),
            "worst_percent": errors[errors.abs().idxmax()],
        }
        for source, errors in counted(compared).groupby("source", sort=False).error_percent
    )


def rows_table(compared: pd.DataFrame) -> Table:
    """Returns the rows for a terminal."""
    view = Table(
        title="estimated beside measured by others, GiB; = a length was fitted on this row, † is excluded"
    )
    for heading in ("source", "setting", "of"):
        view.add_column(heading)
    for heading in ("measured", "estimated", "error %", ""):
        view.add_column(heading, justify="right")
    for row in compared.itertuples():
        mark = ("=" if row.fitted else "") + ("†" if row.excluded else "")
        numbers = f"{row.measured_gib:.2f}", f"{row.estimated_gib:.2f}", f"{row.error_percent:+.1f}"
        view.add_row(row.source, row.setting, row.measured, *numbers, mark)
    return view


def summary_table(compared: pd.DataFrame) -> Table:
    """Returns the sources for a terminal."""
    view = Table(title="error of the estimate, of the rows that count")
    view.add_column("source")
    for heading in ("rows", f"within {CLOSE:.0f} %", "median %", "worst %"):
        view.add_column(heading, justify="right")
    for row in summarize(compared).itertuples():
        errors = f"{row.median_percent:+.1f}", f"{row.worst_percent:+.1f}"
        view.add_row(row.source, str(row.rows), str(row.close), *errors)
    return view


def bound_of(compared: pd.DataFrame) -> Bound:
    """Returns the bound over the rows that count."""
    rows = counted(compared)
    return bound(rows.measured_gib, rows.estimated_gib)


def sentence(found: Bound) -> str:
    """Returns a bound in words."""
    confidence = f"{100 * found.confidence:.0f} and {100 * found.largest_confidence:.0f} %"
    return (
        f"{found.above} of {found.rows} rows have measured more than the estimate × {1 + found.margin:.3f}, none more "
        f"than × {1 + found.largest:.3f}; lorafa.memory adds {100 * MARGIN:g} %. Were they independent draws, "
        f"{100 - 100 / ONE_IN:.0f} % of all measurements would be below these with confidence {confidence}, whatever "
        "their distribution."
    )


def _line(row: pd.Series) -> int:
    return int(str(row.name)) + 2  # after the header, and from 1


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.published", __doc__)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--processes", type=int, default=1, help="how many share the estimating (default: 1)")
    parser.add_argument("--fit", action="store_true", help="only fit the effective lengths, and print them")
    options = parser.parse_args()
    if options.processes < 1:
        raise ConfigError(f"--processes must be at least 1, not {options.processes}")
    rows = read()
    gc.freeze()  # what the imports made lives as long as the process; collecting it would cost a third of the time
    console = Console()
    if options.fit:
        for _, row in rows[rows.fitted_on == "yes"].iterrows():
            console.print(f"{row['source']}: {fit_length(row)} tokens (in the file: {row['fitted_length']})")
        return
    compared = compare(rows, options.processes)
    for view in (rows_table(compared), summary_table(compared)):
        console.print(view)
    console.print(sentence(bound_of(compared)), highlight=False)
    if options.csv:
        files.write_text(options.csv, compared.to_csv(index=False))


if __name__ == "__main__":
    main()
