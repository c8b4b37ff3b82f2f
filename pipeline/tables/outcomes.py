"""The runs of an experiment as one table, for the tables and figures that are made of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.metrics import in_points
from pipeline.config.plan import Plan, PlannedRun
from pipeline.results import records
from pipeline.tables.table import Cell, Table

ROOT = Path(__file__).parents[2]


def read(plan: Plan, name: str, runs: list[PlannedRun] | None = None) -> pd.DataFrame:
    """Reads an experiment's runs, or others of it, one row each.

    Returns:
        Columns `model`, `method`, `task`, `seed`, `rank`, `lr`, the experiment's axes, `directory`, `status`,
        `metric`, `trainable_parameters`, `best` and `last` (training's evaluations), `scores` and `details` (the
        evaluation's, where the experiment has one; scores in the unit of tables), `frozen_dtype`, `stand_ins` and
        `baselines` (in the unit of tables).

    Raises:
        RecordError: A run's record or evaluation is missing or damaged.
    """
    evaluated = plan.experiments[name].evaluated
    return pd.DataFrame([_row(run, evaluated) for run in (plan.runs_of(name) if runs is None else runs)])


def notice(results: pd.DataFrame) -> str:
    """Returns what a reader must know before the first number: what of the material is a stand-in."""
    stand_ins = sorted({text for texts in results.stand_ins for text in texts})
    return f"Not the paper's material. Stand-ins: {'; '.join(stand_ins)}." if stand_ins else ""


def title(plan: Plan, name: str, results: pd.DataFrame) -> str:
    """Returns the experiment's title, which says so where the material is not the paper's."""
    words = plan.experiments[name].title
    if not results.stand_ins.map(bool).any():
        return words
    return f"{words} In miniature" if words.endswith("?") else f"{words}, in miniature"


def published(plan: Plan, name: str) -> pd.DataFrame:
    """Reads the paper's own numbers; numbers of parameters stay the words that they are."""
    return pd.read_csv(ROOT / plan.experiments[name].reference, dtype={"trainable_parameters": str})


def count(parameters: float) -> str:
    """Returns a number of parameters in millions or thousands."""
    if not parameters:
        return "–"
    return f"{parameters / 1e6:.1f}M" if parameters >= 1e6 else f"{parameters / 1e3:.0f}k"


def mean_cell(runs: pd.DataFrame, column: str, best: float | None = None, digits: int = 1) -> Cell:
    """Returns the mean over seeds with its standard deviation, or a word where no seed has a score.

    Args:
        runs: One for each seed, with columns `status` and `directory` (or a list of these, for an average).
        column: Where the scores are; missing where the run ended without.
        best: The column's best mean, which is printed bold.
        digits: Decimals.
    """
    found, failed = runs[column].dropna().astype(float), runs.status[runs.status != records.DONE]
    behind = tuple(runs.directory.explode())
    if found.empty:
        word = failed.iloc[0] if len(failed) else ""
        return Cell({records.DIVERGED: "diverged", records.OUT_OF_MEMORY: "OOM"}.get(word, "–"), runs=behind)
    mean, marker = f"{found.mean():.{digits}f}", "†" if len(failed) else ""
    spread = f"{found.std(ddof=1):.{digits}f}" if len(found) > 1 else ""
    return Cell(mean + marker, spread, best is not None and mean == f"{best:.{digits}f}", behind)


def with_runs(table: Table) -> Table:
    """Returns the table with what made the runs behind its cells: their commands, commits and hashes.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    directories = {directory for row in table.rows for cell in row.cells for directory in cell.runs}
    return replace(table, runs={directory: _origin(Path(directory)) for directory in sorted(directories)})


def _origin(directory: Path) -> dict[str, str]:
    info = records.read(directory).run_info
    commit = f"{info.git_commit or 'unknown'}{', with changes' if info.git_dirty else ''}"
    found = {"command": info.command, "commit": commit, "configuration": info.config_hash}
    if (directory / records.EVALUATION).is_file():
        found["weights"] = records.read_evaluation(directory).evaluation.checkpoint or "–"
    return found


def footnotes(results: pd.DataFrame) -> list[str]:
    """Returns what the runs computed in, and how many ended without a score, if any did."""
    precisions = " and ".join(sorted(set(results.frozen_dtype)))
    failed = int((results.status != records.DONE).sum())
    words = "1 run" if failed == 1 else f"{failed} runs"
    notes = [f"Frozen weights are in {precisions}."]
    return notes + [f"† or a word in place of a number: {words} ended without a result."] * (failed > 0)


def _row(run: PlannedRun, evaluated: bool) -> dict[str, Any]:
    record = records.read(run.directory)
    info, config = record.train_info, record.run_info.config
    materials = record.meta_info.materials
    evaluation = records.Evaluation(status=info.status)
    if evaluated:
        scored = records.read_evaluation(run.directory)
        evaluation = scored.evaluation
        materials += [material for material in scored.meta_info.materials if material not in materials]
    baselines = record.meta_info.data.about.get("baselines", {}) if record.meta_info.data else {}
    return {
        "model": run.model,
        "method": run.method,
        "task": run.task,
        "seed": run.seed,
        **run.axes,
        "rank": run.rank,
        "lr": run.lr,
        "directory": run.directory,
        "status": evaluation.status,
        "metric": info.metric,
        "trainable_parameters": info.trainable_parameters,
        "best": info.best,
        "last": info.last,
        "scores": in_points(evaluation.scores, info.metric),
        "details": evaluation.details,
        "frozen_dtype": config["model"]["frozen_dtype"],
        "stand_ins": [material.stand_in for material in materials if material.stand_in],
        "baselines": in_points(baselines.get(config["task"]["subset"], {}), info.metric),
    }
