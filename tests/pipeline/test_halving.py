"""Searches by successive halving: which runs there are, which of them are promoted, and what becomes of these."""

import re
from pathlib import Path

import pytest

from pipeline import files, status
from pipeline.config.compose import compose_run
from pipeline.config.paths import run_dir
from pipeline.config.plan import FRACTION, Plan, PlannedRun
from pipeline.config.planner import make_plan
from pipeline.errors import ConfigError, RecordError
from pipeline.results import grid, records
from pipeline.select import promote, select
from pipeline.tables import render
from pipeline.tables import search as table
from tests.pipeline.made_up import searched, write
from tests.pipeline.project import Project

METHODS = ("full-ft", "prompt-tuning", "lora", "lora-fa")
RATES = (5e-4, 1e-3, 2e-3)
HALVING = "profile.grids.halving={fraction:0.25,keep:1}"
SEEDS = "profile.grids.search_seeds=[0,1]"


@pytest.fixture
def plan(tmp_path, plans, monkeypatch) -> Plan:
    monkeypatch.setenv("LORAFA_CACHE", plans)
    monkeypatch.chdir(tmp_path)
    return make_plan("smoke", [searched(*map(str, RATES)), HALVING, SEEDS, "profile.experiments=[search]"])


def finish(runs: list[PlannedRun], score_of, failed=lambda run: False) -> None:
    for run in runs:
        if failed(run):
            write(run, None, records.DIVERGED)
        else:
            write(run, score_of(run))


def promoted(plan: Plan) -> dict[str, list[float]]:
    chosen = promote(plan, "search")
    files.write_json(Path(plan.promotion("search")), chosen)
    return chosen["promoted"]["minilm"]


def test_every_candidate_is_made_in_part_and_the_best_in_full(plan):
    rung = plan.first_rung("search")
    assert [(run.method, run.lr, run.seed) for run in rung] == [
        (method, lr, seed) for method in METHODS for lr in RATES for seed in (0, 1)
    ]
    with pytest.raises(RecordError, match=r"search\.promoted\.json does not exist"):
        plan.runs_of("search")
    assert len(plan.expected("search")) == len(rung) + len(METHODS) * 2  # one rate of each, on two seeds
    finish(rung, lambda run: run.lr if run.method == "lora" else -run.lr)
    assert promoted(plan) == {method: [2e-3 if method == "lora" else 5e-4] for method in METHODS}
    whole = plan.runs_of("search")
    assert {(run.method, run.lr) for run in whole} == {
        (method, 2e-3 if method == "lora" else 5e-4) for method in METHODS
    }
    assert [run.directory for run in plan.expected("search")] == [run.directory for run in [*rung, *whole]]
    assert {run.directory for run in [*rung, *plan.grids["search"]]} <= set(plan.runs)
    assert plan.sources("search") == [f"{run.directory}/{records.NAME}" for run in [*rung, *whole]]


def test_a_run_of_the_first_rung_is_the_same_as_one_started_by_hand(plan):
    run = plan.first_rung("search")[0]
    config, cfg = compose_run(run.overrides)
    assert run_dir(cfg) == run.directory and f"/{FRACTION}=0.25/" in run.directory
    assert config.identity() == run.identity
    whole = compose_run(plan.grids["search"][0].overrides)[0]
    assert "fraction" not in whole.identity()["budget"]
    assert whole.budget.steps(100) == (6, 3)
    assert config.budget.steps(100) == (2, 1)  # a quarter of 6, rounded up


def test_a_part_of_an_epoch_is_evaluated_at_its_end():
    run, _ = compose_run(["profile=weekend", "model=t5-small", "task=wmt16-en-ro", "budget.fraction=0.1"])
    assert run.budget.steps(610_320) == (954, 954)  # of 9,537 steps of 64 examples


def test_what_equals_the_last_that_is_promoted_is_promoted_too(plan):
    """A rung at which all of a method's runs are at the majority class has told nothing apart."""
    finish(plan.first_rung("search"), lambda run: 0.5 if run.method == "lora" else run.lr)
    assert promoted(plan) == {method: list(RATES) if method == "lora" else [2e-3] for method in METHODS}


def test_a_learning_rate_at_which_a_seed_fails_is_not_promoted(plan):
    plan.experiments["search"].halving.keep = 3
    finish(plan.first_rung("search"), lambda run: run.lr, lambda run: run.lr == 2e-3 and run.seed == 1)
    assert promoted(plan)["lora"] == [5e-4, 1e-3]
    finish(plan.first_rung("search"), lambda run: run.lr, lambda run: run.method == "lora")
    with pytest.raises(ConfigError, match=r"search\.yaml: every learning rate of lora on minilm has a run"):
        promote(plan, "search")


def test_the_worst_seed_may_choose_what_is_promoted(plan):
    plan.experiments["search"].choice = "worst"
    finish(plan.first_rung("search"), lambda run: {5e-4: 0.7, 1e-3: 0.72, 2e-3: 0.9 - 0.3 * run.seed}[run.lr])
    assert promoted(plan)["lora"] == [1e-3]


def test_runs_in_full_choose_the_winner_and_the_table_tells_both(plan):
    plan.experiments["search"].halving.keep = 2
    finish(plan.first_rung("search"), lambda run: {5e-4: 0.7, 1e-3: 0.8, 2e-3: 0.9}[run.lr])
    promoted(plan)
    finish(plan.runs_of("search"), lambda run: {1e-3: 0.95, 2e-3: 0.85}[run.lr])
    winners = select(plan, "search")["winners"]["minilm"]
    assert winners["lora"] == {"lr": 1e-3, "score": pytest.approx(0.95), "runs": 2}
    text = render.markdown(table.build(plan, "search"))
    (row,) = [line for line in text.splitlines() if line.startswith("| MiniLM (LoRA) ")]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [
        "(70.0)<sub>0.0</sub>",
        "**95.0**<sub>0.0</sub>",
        "85.0<sub>0.0</sub>",
    ]
    assert "In parentheses: after 0.25 of the steps" in text
    best = [cell for cell in grid.cells(plan.expected("search")) if cell.best and cell.method == "lora"]
    assert [(cell.axes["lr"], FRACTION in cell.axes) for cell in best] == [("2e-3", True), ("1e-3", False)]


def test_status_says_what_is_open_until_the_first_rung_is_finished(plan):
    finish(plan.first_rung("search"), lambda run: run.lr)
    facts = status.facts(plan, "search", None, 1)
    assert {state: count for state, count in facts["runs"].items() if count} == {"done": 24, "left": 8}
    assert facts["runs_of_unknown_length"] == 8  # parts of runs do not say how long a whole one takes
    (words,) = status.open_choices(plan, ["search"])
    assert "24 runs make 0.25 of their steps" in words and "8 runs, are then made in full" in words
    promoted(plan)
    assert status.open_choices(plan, ["search"]) == []


def test_a_search_in_full_knows_of_no_rungs(plan):
    assert '"halving"' in plan.layout("search")
    plan.experiments["search"].halving = None
    assert plan.runs_of("search") == plan.expected("search") == plan.grids["search"]
    assert '"halving"' not in plan.layout("search") and plan.halved() == []
    with pytest.raises(ConfigError, match=r"search\.yaml: halving: none is set"):
        promote(plan, "search")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "profile.grids.halving={fraction:1.0,keep:1}",
            "halving.fraction: must be above 0 and below 1, got 1.0",
        ),
        ("profile.grids.halving={fraction:0.5,keep:0}", "halving.keep: must be at least 1, got 0"),
        ("budget.fraction=0", "budget.fraction: must be above 0 and below 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, monkeypatch, override, message):
    monkeypatch.setenv("LORAFA_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_plan("smoke", [override, "profile.experiments=[search]"])


@pytest.mark.slow
def test_the_dag_is_completed_when_the_first_rung_is_finished(tmp_path, tiny_overrides):
    project = Project(tmp_path, tiny_overrides)
    for name in ("search", "table2"):
        file = tmp_path / f"conf/experiment/{name}.yaml"
        file.write_text(file.read_text().replace("[full-ft, prompt-tuning, lora, lora-fa]", "[lora-fa]"))
    project.overrides += [searched("1e-3", "2e-3"), HALVING]
    first = {"train": 2, "promote": 1, "select": 1, "table": 2, "tables": 1, "total": 7}
    assert project.planned() == first  # a run in full and one of Table 2 follow
    result = project.snakemake()
    assert result.returncode == 0, result.stderr
    chosen = files.read_json(tmp_path / "results/smoke/search/search.promoted.json")["promoted"]
    whole = len(chosen["minilm"]["lora-fa"])  # two, if their few examples do not tell them apart
    assert f"{2 + whole + 1} runs done in" in result.stdout and "0 left" in result.stdout
    of_search = [path for path in project.records if "task=mrpc" in path.parts]
    steps = [records.read(path.parent).train_info.steps for path in of_search]
    assert sorted(steps) == [2] * 2 + [6] * whole
    assert project.planned() == {}
    of_search[0].unlink()
    assert project.planned()["train"] == 1
