"""Shows a profile's runs in Weights & Biases: `python -m pipeline.dashboard profile=mini`.

Writes each finished run's record, and its evaluation, as an offline run to `results/<profile>/wandb`, unless it is
there and unchanged, and a workspace and a report of the profile's tables to `results/<profile>/dashboard`. Where there
is an API key, all of it is then sent; elsewhere it says how to look at the runs without W&B, and how to send them.
Nothing is trained.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from pipeline import files
from pipeline.cli import command_line, job
from pipeline.config.experiment import Experiment
from pipeline.config.plan import Plan
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError, PipelineError, RecordError, not_installed
from pipeline.results import locks, records
from pipeline.tracking import live, runs

SCORE = "best/score"
HEAT = (("#313695", 0), ("#ffffbf", 50), ("#a50026", 100))  # ColorBrewer's RdYlBu, reversed


def finished_jobs(plan: Plan) -> list[runs.Job]:
    """Returns the jobs of a profile that have a record, those of runs by hand, too; a damaged record is left out."""
    found = []
    for metrics in sorted(Path(plan.runs_folder).rglob(records.NAME)):
        if locks.is_held(metrics.parent):  # its record is about to be replaced
            continue
        for job_type, read in runs.READERS.items():
            try:
                record = read(metrics.parent)
            except RecordError:
                continue
            found.append(runs.Job(metrics.parent, job_type, record.run_info.config_hash))
    return found


def write_runs(plan: Plan, jobs: Iterable[runs.Job]) -> int:
    """Writes what is new or has changed of some jobs as offline runs, and returns how many these were."""
    results = Path(plan.profile.results)
    new = [each for each in jobs if not each.is_written(results)]
    tables = _tables(plan)
    console = Console(stderr=True)
    for each in track(new, "Writing runs of W&B", console=console, disable=not console.is_terminal):
        runs.write(each, results, tags=tables[str(each.directory)])
    return len(new)


def workspace(plan: Plan, entity: str) -> Any:
    """Returns the project's workspace: curves, memory against accuracy, the searches, and a section for each table.

    Args:
        plan: The profile's plan.
        entity: The user or team of W&B; empty where there is none.
    """
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name="Training", panels=_curves(), is_open=True),
        ws.Section(name="Memory against accuracy", panels=[_memory()], is_open=True),
        ws.Section(name="Rank and learning rate", panels=_searched(), is_open=True),
    ]
    for experiment in _shown(plan):
        if experiment.evaluated:
            sections.append(ws.Section(name=experiment.title, panels=_bars(plan, experiment)))
    return ws.Workspace(
        entity=entity,
        project=runs.project(plan.profile.name),
        name=f"LoRA-FA, profile {plan.profile.name}",
        sections=sections,
        runset_settings=ws.RunsetSettings(
            pinned_columns=[f"summary:{SCORE}", "summary:memory/step_gib", "config:contender", "config:lr"]
        ),
    )


def report(plan: Plan, entity: str) -> Any:
    """Returns a report with a part for each table and figure that has finished runs, of exactly these runs.

    Args:
        plan: The profile's plan.
        entity: As for `workspace`.
    """
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    project = runs.project(plan.profile.name)
    blocks: list[Any] = []
    for experiment in _shown(plan):
        groups = {runs.Job(Path(run.directory), "train", "").group for run in plan.runs_of(experiment.name)}
        names = sorted(runs.combination(group) for group in groups)
        job_type = "evaluate" if experiment.evaluated else "train"
        runset = wr.Runset(
            entity=entity,
            project=project,
            name=experiment.title,
            filters=[expr.Config("combination").isin(names), expr.Metric("JobType") == job_type],
            groupby=["config.contender"],
        )
        panels = _bars(plan, experiment) if experiment.evaluated else [*_searched(), _memory(), *_curves()]
        blocks += [
            wr.H2(experiment.title),
            wr.P(experiment.caption),
            wr.PanelGrid(runsets=[runset], panels=panels),
        ]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"LoRA-FA, profile {plan.profile.name}",
        description="The tables and figures that are made of runs. Their numbers are made of records, not of W&B.",
        blocks=[wr.TableOfContents(), *blocks],
        width="fluid",
    )


def _shown(plan: Plan) -> list[Experiment]:
    """Returns the experiments that have runs, as far as their searches are finished."""
    found = []
    for name, grid in plan.grids.items():
        try:
            plan.runs_of(name)
        except RecordError:
            continue
        if grid:
            found.append(plan.experiments[name])
    return found


def _tables(plan: Plan) -> defaultdict[str, list[str]]:
    """Returns the experiments of each run, by its directory."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for experiment in _shown(plan):
        for run in plan.runs_of(experiment.name):
            found[run.directory].append(experiment.name)
    return found


def _bars(plan: Plan, experiment: Experiment) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.BarPlot(
            title=plan.tasks[task]["label"],
            metrics=[f"score/{task}"],
            groupby=wr.Config("contender"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for task in experiment.tasks
    ]


def _curves() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    axes = (("step", "train/loss"), ("epoch", "validation/score"), ("train/seconds", "validation/score"))
    return [
        wr.LinePlot(
            title=f"{y} against {x}",
            x=x,
            y=[y],
            groupby="Group",
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for x, y in (*axes, ("step", "train/examples_per_second"))
    ]


def _memory() -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.ScatterPlot(
        title="GiB that a training step keeps, and the best validation score",
        x=wr.SummaryMetric("memory/step_gib"),
        y=wr.SummaryMetric(SCORE),
        log_x=True,
    )


def _searched() -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    rank, lr, score = wr.Config("rank"), wr.Config("lr"), wr.SummaryMetric(SCORE)
    column = wr.ParallelCoordinatesPlotColumn
    return [
        wr.ParallelCoordinatesPlot(
            title="Rank, learning rate and best validation score",
            columns=[
                column(wr.Config("contender")),
                column(rank, log=True),
                column(lr, log=True),
                column(score),
            ],
        ),
        wr.ScatterPlot(
            title="Best validation score by rank and learning rate",
            x=rank,
            y=lr,
            z=score,
            log_x=True,
            log_y=True,
            gradient=[wr.GradientPoint(color=color, offset=offset) for color, offset in HEAT],
        ),
    ]


def write_specification(plan: Plan, entity: str) -> Path:
    """Writes what is sent to W&B as `workspace.json` and `report.json`, and returns their folder."""
    folder = Path(plan.profile.results, "dashboard")
    for name, built in (("workspace", workspace(plan, entity)), ("report", report(plan, entity))):
        specification = built._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        files.write_json(folder / f"{name}.json", specification)
    return folder


def send(plan: Plan, folder: Path, entity: str) -> dict[str, str]:
    """Sends the offline runs, the workspace and the report; those that were sent before are replaced.

    Args:
        plan: The profile's plan.
        folder: Where `sent.json` keeps the addresses.
        entity: As for `workspace`.

    Returns:
        The addresses of workspace and report.

    Raises:
        subprocess.CalledProcessError: Not every run could be sent.
    """
    logs = sorted(str(path) for path in Path(plan.profile.results, "wandb").glob("offline-run-*"))
    subprocess.run([sys.executable, "-m", "wandb", "sync", *logs], check=True)  # noqa: S603 - our own folders
    file = folder / "sent.json"
    sent = json.loads(file.read_text()) if file.is_file() else {}
    for name, built, parts in (
        ("workspace", workspace(plan, entity), ("name", "sections")),
        ("report", report(plan, entity), ("title", "description", "blocks", "width")),
    ):
        target = type(built).from_url(sent[name]) if name in sent else built
        for part in parts:
            setattr(target, part, getattr(built, part))
        sent[name] = target.save().url
        files.write_json(file, sent)
    return sent


@job
def main() -> None:
    """Runs the command line."""
    plan, _ = parse_plan(command_line("pipeline.dashboard", __doc__))
    results = Path(plan.profile.results)
    if plan.profile.tracking == "off":
        raise ConfigError(f"conf/profile/{plan.profile.name}.yaml: tracking is off: nothing is logged to W&B")
    jobs = finished_jobs(plan)
    if not jobs:
        raise ConfigError(f"{plan.runs_folder} has no finished run: `snakemake tables` makes them")
    try:
        import wandb_workspaces  # noqa: F401 - before anything is written
    except ImportError:
        raise ConfigError(not_installed("wandb-workspaces", "dashboard")) from None
    wandb = runs.library(results)
    online = live.mode(results) == "online"
    try:
        written = write_runs(plan, jobs)
        print(
            f"{written} runs of W&B written, {len(jobs) - written} unchanged, in {results}/wandb", flush=True
        )
        entity = (os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity or "") if online else ""
        folder = write_specification(plan, entity)
        if online:
            for name, address in send(plan, folder, entity).items():
                print(f"{name}: {address}")
            return
    except (wandb.Error, ValueError, subprocess.CalledProcessError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise PipelineError(f"W&B: {reason}. The runs are kept; the same command sends the rest") from error
    print(
        f"workspace and report, as they would be sent: {folder}/workspace.json and report.json\n"
        f"to look at the runs here: wandb leet {results}/wandb\n"
        f"to send everything: wandb login, then this command again\n"
        f"to send the runs alone: wandb sync {results}/wandb/offline-run-*"
    )


if __name__ == "__main__":
    main()
