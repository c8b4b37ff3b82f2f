"""The state of a target and the time to go, from made-up records with known times."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from pipeline import files, status
from pipeline.config.plan import Plan
from pipeline.config.planner import plan_of_arguments
from pipeline.results import locks, records
from tests.pipeline import made_up
from tests.pipeline.made_up import searched

GRID = [searched("1e-3", "2e-3"), "profile.grids.search_seeds=[0]", "profile.seeds=[0]"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("status") / "results"


@pytest.fixture
def arguments(results, monkeypatch) -> list[str]:
    """A search of eight runs, and a table of one task that waits for it; nothing of either is there yet."""
    shutil.rmtree(results, ignore_errors=True)
    monkeypatch.setenv("LORAFA_CACHE", str(results.parent / "cache"))
    only = ["profile.experiments=[search,table2,table1]", "profile.glue_tasks=[sst2]"]
    return [f"profile.results={results}", *only, *GRID]


@pytest.fixture
def plan(arguments) -> Plan:
    return plan_of_arguments(arguments)


def choose(plan: Plan, lr: float = 1e-3) -> None:
    """Ends the search."""
    winners = {run.method: {"lr": lr} for run in plan.grids["search"]}
    files.write_json(Path(plan.selection("search")), {"winners": {"minilm": winners}})


def facts(plan: Plan, target: str | None = None, price: float | None = None, jobs: int = 1) -> dict:
    return status.facts(plan, target, price, jobs)


def counts(found: dict) -> dict[str, int]:
    return {state: count for state, count in found["runs"].items() if count}


def main(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["status", *words])
    status.main()


def test_before_the_first_run_all_is_left_and_the_time_unknown(plan):
    found = facts(plan)
    assert counts(found) == {"left": 12} and found["runs_of_unknown_length"] == 12
    assert found["to_go_seconds"] == 0 and found["cost"] is None
    assert found["experiments"]["table1"]["made"] is False
    assert "of unknown length" in status.table(plan).caption


def test_every_state_is_told_from_the_others(plan):
    choose(plan)
    runs = {(run.method, run.lr): run for run in plan.runs_of("search")}
    made_up.write(runs["lora", 1e-3], 0.8)
    made_up.write(runs["lora", 2e-3], None, status=records.DIVERGED)
    made_up.write(runs["full-ft", 1e-3], None, status=records.OUT_OF_MEMORY)
    broken, stopped, held = (runs[key] for key in [("full-ft", 2e-3), ("lora-fa", 1e-3), ("lora-fa", 2e-3)])
    log = Path(plan.profile.results, "logs", f"{broken.directory.removeprefix(plan.runs_folder + '/')}.log")
    files.write_text(log, "Traceback (most recent call last):\n  File ...\nRuntimeError: no such file\n")
    config_hash = stopped.config_hash
    state = json.dumps({"global_step": 30, "max_steps": 40, "log_history": []})
    checkpoint = Path(stopped.directory, "checkpoints", config_hash, "checkpoint-30")
    files.write_text(checkpoint / "trainer_state.json", state)
    with locks.held(Path(held.directory)):
        found = facts(plan, "search")
        table = status.table(plan, "search")
    states = ("done", "running", "diverged", "out_of_memory", "failed", "interrupted")
    assert counts(found) == {**dict.fromkeys(states, 1), "left": 2}
    assert found["failed"] == {broken.directory: "RuntimeError: no such file"}
    assert "RuntimeError: no such file" in table.caption
    # LoRA took 10 s: so will full-ft, the two of prompt tuning and what runs; a quarter of the stopped run is left.
    assert found["to_go_seconds"] == pytest.approx(4 * 10 + 2.5, abs=0.5)


def test_a_trained_run_is_not_done_before_it_is_scored(plan):
    choose(plan)
    run, *others = plan.runs_of("table2")
    made_up.write(run, 0.8)
    assert counts(facts(plan, "table2")["experiments"]["table2"]) == {"to_score": 1, "left": 3}
    made_up.write_evaluation(run, score=0.8)
    found = facts(plan, "table2")["experiments"]["table2"]
    assert counts(found) == {"done": 1, "left": 3}
    assert (found["used_seconds"], found["to_go_seconds"]) == (12.0, 36.0)
    made_up.write_evaluation(others[0], score=0.8)  # without having been trained
    assert counts(facts(plan, "table2")["experiments"]["table2"]) == {"done": 1, "left": 3}


def test_the_nearest_runs_estimate_the_rest(plan):
    choose(plan)
    runs = {(run.method, run.lr): run for run in plan.runs_of("search")}
    made_up.write(runs["lora", 1e-3], 0.8, wall_time_seconds=10.0)
    made_up.write(runs["full-ft", 1e-3], 0.8, wall_time_seconds=40.0)
    found = facts(plan, "search", price=3.6, jobs=2)
    # The other of LoRA and of full-ft as long as theirs, and the four of other methods the model's mean of 25 s.
    assert found["to_go_seconds"] == 10 + 40 + 4 * 25 and found["wall_seconds_to_go"] == 75
    assert found["cost"] == pytest.approx({"used": 0.05, "to_go": 0.15})


def test_a_run_of_two_experiments_counts_once(plan):
    choose(plan)
    separately = facts(plan)["experiments"]
    assert separately["search"]["runs"]["left"] + separately["table2"]["runs"]["left"] == 12
    twice = status.Status(plan)
    assert twice.line([*twice.runs("search"), *twice.runs("search")]).states == {"left": 8}


def test_a_table_waits_for_its_search_and_a_group_has_its_members(plan):
    assert status.chosen(plan, "table2") == ["search", "table2"]
    assert status.chosen(plan, "tables") == ["search", "table1", "table2"]
    assert status.chosen(plan, "figures") == status.chosen(plan, "rebuttal") == []
    assert status.chosen(plan, "all") == status.chosen(plan, None) == ["search", "table1", "table2"]


def test_the_command_prints_a_table_or_json(arguments, monkeypatch, capsys):
    main(monkeypatch, "table2", "--json", *arguments)
    assert json.loads(capsys.readouterr().out)["target"] == "table2"
    main(monkeypatch, *arguments, "--price-per-hour", "2")
    shown = capsys.readouterr().out
    assert "cost to go" in shown and shown.split("search")[1].split()[0] == "8"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["table9"],
            "no target 'table9' (did you mean 'tables'?); there is tables, figures, rebuttal, questions, all, search",
        ),
        (["table1", "table2"], "one target at a time, not table1 and table2"),
        (["--price-per-hour", "-1"], "--price-per-hour must be a number that is not negative"),
        (["--price-per-hour", "nan"], "--price-per-hour must be a number that is not negative"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["profile=nope"], "nope"),
    ],
)
def test_bad_input_is_one_line(arguments, words, problem, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(monkeypatch, *words, *([] if "profile=nope" in words else arguments))
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and problem in line
