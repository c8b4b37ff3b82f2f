"""Every run of a profile with its configuration, command, code, packages and machine, for the report."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.results import records
from pipeline.tables import trained
from pipeline.tables.table import Cell, Row, Table

COLUMNS = ["model", "method", "task", "rank", "lr", "seed", "status", "metric", "best", "seconds"]
WORDS = {records.OUT_OF_MEMORY: "out of memory"}


def read(plan: Plan) -> pd.DataFrame:
    """Reads the records of all finished runs that the profile's experiments need.

    Returns:
        `COLUMNS` (`best` in the unit of the tables), `command`, `commit`, `dirty`, `config` (resolved, as JSON),
        `environment` (packages and machine in words), `materials` (the repositories' revisions in words) and
        `stand_ins`.

    Raises:
        RecordError: A record is damaged.
    """
    found = [Path(name) for name in plan.wanted() if Path(name, records.NAME).is_file()]
    columns = [*COLUMNS, "command", "commit", "dirty", "config", "environment", "materials", "stand_ins"]
    return pd.DataFrame([_row(directory) for directory in found], columns=columns)


def _row(directory: Path) -> dict[str, Any]:
    record = records.read(directory)
    run, info, meta = record.run_info, record.train_info, record.meta_info
    return {
        **{"model": run.model, "method": run.method, "task": run.task},
        **{key: run.config[key] for key in ("rank", "lr", "seed")},
        "status": info.status,
        "metric": info.metric,
        "best": trained.score(info),
        "seconds": info.wall_time_seconds,
        "command": run.command,
        "commit": run.git_commit or "",
        "dirty": run.git_dirty,
        "config": json.dumps(run.config, sort_keys=True),
        "environment": _environment(meta),
        "materials": "; ".join(f"{material.repository} {material.read}" for material in meta.materials),
        "stand_ins": [
            material.stand_in for material in [*meta.materials, *_benchmark(directory)] if material.stand_in
        ],
    }


def _benchmark(directory: Path) -> list[records.Material]:
    """Returns what the run was scored on besides its own data, if it was."""
    if not Path(directory, records.EVALUATION).is_file():
        return []
    benchmark = records.read_evaluation(directory).meta_info.benchmark
    return [benchmark] if benchmark else []


def _environment(meta: records.MetaInfo) -> str:
    parts = [f"{name} {version}" for name, version in meta.packages.items() if version]
    if (machine := meta.machine) is None:
        return ", ".join(parts)
    hardware = machine.gpus or [f"{machine.processor}, {machine.cores} cores, no GPU"]
    return ", ".join([f"Python {machine.python}", *parts, machine.platform, *hardware])


def table(runs: pd.DataFrame) -> Table:
    """Lays the runs out, environments and materials as footnotes, which many runs share."""
    environments = {text: f"E{number}" for number, text in enumerate(runs.environment.unique(), 1)}
    headings = ["Model", "Method", "Task", "Rank", "η", "Seed", "Status", "Best", "Seconds"]
    rows: list[Row] = []
    previous = None
    for run in runs.sort_values(["model", "task", "method", "rank", "lr", "seed"]).itertuples():
        group = (run.model, run.task)
        texts = [run.model, run.method, run.task, _number(run.rank), _number(run.lr), str(run.seed)]
        texts += [WORDS.get(str(run.status), str(run.status))]
        texts += ["–" if pd.isna(run.best) else f"{run.best:.2f} {run.metric}", f"{run.seconds:.0f}"]
        commit = f"{str(run.commit)[:10]}{' + changes' if run.dirty else ''}" if run.commit else "unknown"
        texts += [commit, environments[run.environment], run.command]
        rows.append(Row([Cell(str(text)) for text in texts], rule=group != previous))
        previous = group
    return Table(
        name="runs",
        title="Runs",
        notice="",
        caption=(
            f"{len(runs)} finished runs of this profile's experiments. The CSV file beside this page also has each "
            "run's resolved configuration."
        ),
        columns=[*headings, "Commit", "On", "Command"],
        rows=rows,
        notes=[
            *(f"{short}: {text}." for text, short in environments.items()),
            *(f"Read: {text}." for text in sorted(runs.materials.unique())),
        ],
        data=runs.drop(columns=["stand_ins"]).to_dict("records"),
        text_columns=3,
        interactive=True,
    )


def _number(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else spell(float(value))
