import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline import dashboard, files
from pipeline.config import planner
from pipeline.config.compose import compose_run
from pipeline.results import records
from pipeline.tracking import runs
from tests.pipeline import made_up


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"


SHOWN = ("search", "search_translation", "table2", "table3", "figure6", "pareto")


@pytest.fixture
def plan(results, monkeypatch):
    """Some of the mini profile with the search finished, two of its runs, and their evaluations."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(results))
    plan = made_up.plan_of(results, *SHOWN)
    monkeypatch.setattr(planner, "plan_of_arguments", lambda arguments: plan)
    winners = {run.method: {"lr": 1e-3} for run in plan.grids["search"]}
    files.write_json(Path(plan.selection("search")), {"winners": {"minilm": winners}})
    for planned in plan.grids["search"][:2]:
        write_record(planned)
    return plan


def write_record(planned) -> None:
    run, _ = compose_run(planned.overrides)
    score = records.Score(4, 2.0, 0.5, {"loss": 1.0})
    losses = [records.Loss(step, 1 / step) for step in (2, 4)]
    made_up.write(
        planned, 0.5, config=asdict(run), losses=losses, evaluations=[score], best=score, last=score
    )
    made_up.write_evaluation(planned, config=asdict(run), score=0.5)


@pytest.fixture
def run_main(monkeypatch):
    """Runs the command line."""
    monkeypatch.setattr(sys, "argv", ["dashboard"])
    return dashboard.main


def test_finished_runs_are_written_once(plan, results, run_main, capsys):
    run_main()
    first = capsys.readouterr().out
    assert first.startswith(f"4 runs of W&B written, 0 unchanged, in {results}/wandb")
    assert f"wandb leet {results}/wandb" in first and "wandb sync" in first
    folders = sorted(results.glob("wandb/offline-run-*"))
    run_main()
    assert capsys.readouterr().out.startswith("0 runs of W&B written, 4 unchanged")
    assert sorted(results.glob("wandb/offline-run-*")) == folders


def test_a_run_in_another_configuration_takes_the_place_of_the_old_one(plan, results):
    jobs = dashboard.finished_jobs(plan)
    assert dashboard.write_runs(plan, jobs) == 4
    record = runs.READERS[jobs[0].job_type](jobs[0].directory)
    record.run_info.config_hash = "another"
    records.write(jobs[0].directory, record)
    assert dashboard.write_runs(plan, dashboard.finished_jobs(plan)) == 1
    folders = [path.name for path in results.glob("wandb/offline-run-*")]
    assert len(folders) == 4 and sum(name.endswith("-another") for name in folders) == 1


def test_damaged_records_and_running_runs_are_left_out(plan, monkeypatch):
    one, other = (Path(planned.directory) for planned in plan.grids["search"][:2])
    (one / records.EVALUATION).write_text("{")
    assert len(dashboard.finished_jobs(plan)) == 3
    monkeypatch.setattr("pipeline.results.locks.is_held", lambda directory: directory == other)
    assert [job.directory for job in dashboard.finished_jobs(plan)] == [one]


def test_runs_carry_the_names_of_their_tables(plan):
    directory = plan.grids["search"][0].directory
    assert "search" in dashboard._tables(plan)[directory]


def test_the_specification_has_a_part_for_each_table(plan, results):
    folder = dashboard.write_specification(plan, "")
    workspace = json.loads((folder / "workspace.json").read_text())
    sections = {section["name"]: section for section in workspace["section"]["panelBankConfig"]["sections"]}
    kinds = {name: [panel["viewType"] for panel in section["panels"]] for name, section in sections.items()}
    assert kinds["Rank and learning rate"] == ["Parallel Coordinates Plot", "Scatter Plot"]
    assert kinds["Memory against accuracy"] == ["Scatter Plot"]
    assert kinds["Table 2: GLUE"] == ["Bar Chart"] * len(plan.experiments["table2"].tasks)
    assert "Table 3: WMT16 En-Ro" not in sections  # its search is not finished

    report = json.loads((folder / "report.json").read_text())
    grids = [block for block in report["blocks"] if block["type"] == "panel-grid"]
    by_name = {grid["metadata"]["runSets"][0]["name"]: grid for grid in grids}
    searched = by_name[plan.experiments["search"].title]["metadata"]["runSets"][0]["filters"]["filters"]
    groups = {Path(run.directory).parent for run in plan.grids["search"]}
    assert len(searched[0]["value"]) == len(groups)
    first = runs.Job(Path(plan.grids["search"][0].directory), "train", "")
    assert runs.combination(first.group) in searched[0]["value"]
    assert searched[1]["value"] == "train"


def test_what_was_sent_before_is_replaced(plan, monkeypatch):
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    synced, loaded, saved = [], [], []
    monkeypatch.setattr(
        dashboard.subprocess, "run", lambda command, check: synced.append([*command[2:4], len(command)])
    )
    for kind, name in ((ws.Workspace, "workspace"), (wr.Report, "report")):

        def save(self):
            saved.append(self)
            return self

        def from_url(url, kind=kind, name=name):
            loaded.append(url)
            return kind(entity="team", project="old")

        monkeypatch.setattr(kind, "save", save)
        monkeypatch.setattr(kind, "from_url", from_url)
        monkeypatch.setattr(kind, "url", f"https://wandb.ai/{name}")
    dashboard.write_runs(plan, dashboard.finished_jobs(plan))
    folder = dashboard.write_specification(plan, "")
    sent = dashboard.send(plan, folder, "team")
    assert sent == {"workspace": "https://wandb.ai/workspace", "report": "https://wandb.ai/report"}
    assert (loaded, synced) == ([], [["wandb", "sync", 8]])
    assert dashboard.send(plan, folder, "team") == sent == json.loads((folder / "sent.json").read_text())
    assert loaded == list(sent.values())
    assert len(saved[2].sections) == len(saved[0].sections) and len(saved[3].blocks) == len(saved[1].blocks)


@pytest.mark.parametrize("mistake", ["off", "empty"])
def test_where_there_is_nothing_to_show_it_says_so(plan, run_main, capsys, mistake):
    if mistake == "off":
        plan.profile.tracking = "off"
        message = "tracking is off"
    else:
        shutil.rmtree(plan.runs_folder)
        message = "has no finished run"
    with pytest.raises(SystemExit) as end:
        run_main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_an_answer_of_w_and_b_is_one_line(plan, run_main, monkeypatch, capsys):
    import wandb

    def refuse(*args):
        raise wandb.Error("no such team\nor so")

    monkeypatch.setattr(dashboard, "write_specification", refuse)
    with pytest.raises(SystemExit) as end:
        run_main()
    assert end.value.code == 2 and capsys.readouterr().err.startswith("error: W&B: no such team.")
