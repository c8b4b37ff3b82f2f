"""Writes all runs as one table: `python -m pipeline.export profile=mini --to runs.parquet` (or .csv).

A row is a run, whether a table wants it or not. Columns and their types are always the same, whatever the runs are:
what a run has not is empty. docs/how-it-works.md reads the file with pandas, DuckDB and Polars.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import files
from pipeline.cli import command_line, job
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError, RecordError
from pipeline.results import records

# Column -> its type in pandas, and where it is in `metrics.json`, or below `scored` in `evaluation.json`. `path` holds
# the keys of the directory's name. What is not a single value is JSON.
COLUMNS: dict[str, tuple[str, str]] = {
    "run": ("string", "path.run"),
    "model": ("string", "run_info.config.model.name"),
    "method": ("string", "run_info.config.method.name"),
    "task": ("string", "run_info.config.task.name"),
    "rank": ("Int64", "run_info.config.rank"),
    "alpha": ("Float64", "run_info.config.alpha"),
    "lr": ("Float64", "run_info.config.lr"),
    "seed": ("Int64", "run_info.config.seed"),
    "others": ("string", "path.others"),  # the overrides that have no column, as JSON
    "tuned_by": ("string", "run_info.config.tuned_by"),
    "frozen_dtype": ("string", "run_info.config.model.frozen_dtype"),
    "batch_size": ("Int64", "run_info.config.budget.batch_size"),
    "max_length": ("Int64", "run_info.config.budget.max_length"),
    "status": ("string", "train_info.status"),
    "problem": ("string", "train_info.problem"),
    "metric": ("string", "train_info.metric"),
    "best_score": ("Float64", "train_info.best.score"),
    "best_step": ("Int64", "train_info.best.step"),
    "last_score": ("Float64", "train_info.last.score"),
    "evaluation_status": ("string", "scored.evaluation.status"),
    "score": ("Float64", "scored.evaluation.scores.score"),
    "bleu": ("Float64", "scored.evaluation.scores.bleu"),
    "rouge_l": ("Float64", "scored.evaluation.scores.rouge_l"),
    "macro": ("Float64", "scored.evaluation.scores.macro"),
    "micro": ("Float64", "scored.evaluation.scores.micro"),
    "scores": ("string", "scored.evaluation.scores"),  # all of them, as JSON
    "steps": ("Int64", "train_info.steps"),
    "tokens": ("Int64", "train_info.tokens"),
    "trainable_parameters": ("Int64", "train_info.trainable_parameters"),
    "total_parameters": ("Int64", "train_info.total_parameters"),
    "saved_for_backward_bytes": ("Int64", "train_info.saved_for_backward_bytes"),
    "step_memory_bytes": ("Int64", "train_info.step_memory_bytes"),
    "peak_memory": ("string", "train_info.peak_memory_bytes"),  # in bytes by kind, as JSON
    "step_time_seconds": ("Float64", "train_info.step_time_seconds"),
    "tokens_per_second": ("Float64", "train_info.tokens_per_second"),
    "wall_time_seconds": ("Float64", "train_info.wall_time_seconds"),
    "evaluation_wall_time_seconds": ("Float64", "scored.evaluation.wall_time_seconds"),
    "platform": ("string", "meta_info.machine.platform"),
    "processor": ("string", "meta_info.machine.processor"),
    "cores": ("Int64", "meta_info.machine.cores"),
    "gpus": ("string", "meta_info.machine.gpus"),  # their names, as JSON
    "packages": ("string", "meta_info.packages"),  # their versions, as JSON
    "data_stand_in": ("string", "meta_info.data.about.stand_in"),
    "git_commit": ("string", "run_info.git_commit"),
    "git_dirty": ("boolean", "run_info.git_dirty"),
    "config_hash": ("string", "run_info.config_hash"),
    "command": ("string", "run_info.command"),
    "config": ("string", "run_info.config"),  # the whole configuration, as JSON
}
PLACED = {"model", "method", "task", "rank", "lr", "seed"}
FORMATS = (".parquet", ".csv")


def read(results: str | Path) -> pd.DataFrame:
    """Reads every finished run below a folder of results, in the order of their paths.

    Args:
        results: A profile's folder, such as `results/mini`.

    Returns:
        The columns of `COLUMNS` with their types, one row a run. Scores are as the records have them: fractions, but
        BLEU and ROUGE-L in points. Sizes are in bytes.

    Raises:
        RecordError: There is no finished run, or a record is damaged.
    """
    root = Path(results, "runs")
    paths = sorted(root.rglob(records.NAME))
    if not paths:
        raise RecordError(
            f"{root} has no finished run: train some first, as `snakemake --cores 2 tables` does"
        )
    rows = [_row(path.parent, root) for path in paths]
    columns = {name: _column(rows, place, kind) for name, (kind, place) in COLUMNS.items()}
    return pd.DataFrame(columns)


def write(runs: pd.DataFrame, file: Path) -> None:
    """Writes the table, in the format that the file's name ends with.

    Raises:
        ConfigError: The format is unknown.
        RecordError: The disk is full or the folder cannot be written.
    """
    if file.suffix not in FORMATS:
        raise ConfigError(f"--to {file}: the name must end with {' or '.join(FORMATS)}")
    buffer = io.BytesIO()
    runs.to_parquet(buffer, index=False) if file.suffix == ".parquet" else runs.to_csv(buffer, index=False)
    files.write_bytes(file, buffer.getvalue())


def _row(directory: Path, root: Path) -> dict[str, Any]:
    record = records.as_json(records.read(directory))
    there = (directory / records.EVALUATION).exists()
    scored = records.as_json(records.read_evaluation(directory)) if there else {}
    name = directory.relative_to(root)
    keys = dict(part.partition("=")[::2] for part in name.parts)
    others = {key: value for key, value in keys.items() if key not in PLACED}
    return {**record, "scored": scored, "path": {"run": name.as_posix(), "others": others}}


def _column(rows: list[dict[str, Any]], place: str, kind: str) -> pd.Series:
    values = [_at(row, place) for row in rows]
    if kind == "string":
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pd.Series(values, dtype=kind)


def _at(value: Any, place: str) -> Any:
    """Returns what is at a place such as `train_info.best.score`, or None."""
    for key in place.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.export", __doc__)
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="runs.parquet or runs.csv")
    plan, arguments = parse_plan(parser)
    runs = read(plan.profile.results)
    write(runs, arguments.to)
    print(f"{arguments.to}: {len(runs)} runs")


if __name__ == "__main__":
    main()
