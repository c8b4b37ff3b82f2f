"""Every run of a profile with its configuration, command, code, packages and machine, for the report."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.metrics import METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.errors import RecordError
from pipeline.results import records
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
    found = [path for name in plan.wanted() if (path := Path(name, records.NAME)).is_file()]
    columns = [*COLUMNS, "command", "commit", "dirty", "config", "environment", "materials", "stand_ins"]
    return pd.DataFrame([_row(path) for path in found], columns=columns)


def _row(path: Path) -> dict[str, Any]:
    record = records.read(path)
    run, info, meta = (record[section] for section in records.SECTIONS)
    config = run["config"]
    try:
        sources = [meta[kind] for kind in ("model", "data")]
        best = info["best"] and METRICS[info["metric"]].points(info["best"]["score"])
        return {
            **{kind: config[kind]["name"] for kind in ("model", "method", "task")},
            **{key: config[key] for key in ("rank", "lr", "seed")},
            "status": info["status"],
            "metric": info["metric"],
            "best": best,
            "seconds": info["wall_time_seconds"],
            "command": run["command"],
            "commit": run["git_commit"] or "",
            "dirty": run["git_dirty"],
            "config": json.dumps(config, sort_keys=True),
            "environment": _environment(meta),
            "materials": "; ".join(f"{source['repository']} {_revision(source)}" for source in sources),
            "stand_ins": [
                text for source in [*sources, *_benchmark(path)] if (text := source["about"].get("stand_in"))
            ],
        }
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path} has no {error}: delete it and run again to redo this one run") from error


def _benchmark(path: Path) -> list[dict[str, Any]]:
    """Returns what the run was scored on besides its own data, if it was."""
    if not path.with_name(records.EVALUATION).is_file():
        return []
    meta = records.read_evaluation(path.parent)["meta_info"]
    return [meta["benchmark"]] if "benchmark" in meta else []


def _environment(meta: dict[str, Any]) -> str:
    machine, packages = meta["machine"], meta["packages"]
    parts = [f"{name} {version}" for name, version in packages.items() if version]
    hardware = machine["gpus"] or [f"{machine['processor']}, {machine['cores']} cores, no GPU"]
    return ", ".join([f"Python {machine['python']}", *parts, machine["platform"], *hardware])


def _revision(source: dict[str, Any]) -> str:
    """Returns what says which files were read: a commit of the hub, or a version of the mirror's contents."""
    return source.get("commit") or source.get("version") or source.get("revision") or "of no known revision"


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
