"""Winners of a search, and the runs of the tables that take their learning rate from it."""

from pathlib import Path

import pytest

from pipeline import files
from pipeline.config.plan import Plan
from pipeline.config.planner import make_plan
from pipeline.errors import ConfigError, RecordError
from pipeline.results import records
from pipeline.select import select
from tests.pipeline.made_up import searched, write

RATES = (5e-4, 1e-3, 2e-3)
SEEDS = ("profile.seeds=[0,1]", "profile.grids.search_seeds=[0,1]")


@pytest.fixture
def plan(tmp_path, plans, monkeypatch) -> Plan:
    monkeypatch.setenv("LORAFA_CACHE", plans)
    monkeypatch.chdir(tmp_path)
    return make_plan("smoke", [searched(*map(str, RATES)), *SEEDS])


def finish(plan: Plan, score_of, failed=lambda run: False) -> None:
    for run in plan.runs_of("search"):
        if failed(run):
            write(run, None, records.DIVERGED)
        else:
            write(run, score_of(run))


def choose(plan: Plan) -> dict:
    chosen = select(plan, "search")
    files.write_json(Path(plan.selection("search")), chosen)
    return chosen["winners"]["minilm"]


def test_the_best_mean_over_seeds_wins_and_ties_go_to_the_smaller(plan):
    finish(plan, lambda run: {5e-4: 0.7, 1e-3: 0.8, 2e-3: 0.8}[run.lr] + 0.05 * run.seed)
    winners = choose(plan)
    assert {method: winner["lr"] for method, winner in winners.items()} == dict.fromkeys(
        ["full-ft", "prompt-tuning", "lora", "lora-fa"], 1e-3
    )
    assert winners["lora"]["score"] == pytest.approx(0.825) and winners["lora"]["runs"] == 2


def test_a_search_may_choose_by_its_worst_seed(plan):
    finish(plan, lambda run: {5e-4: 0.7, 1e-3: 0.72, 2e-3: 0.9}[run.lr] - 0.3 * (run.lr == 2e-3) * run.seed)
    assert choose(plan)["lora"]["lr"] == 2e-3
    plan.experiments["search"].choice = "worst"
    winner = choose(plan)["lora"]
    assert (winner["lr"], winner["score"]) == (1e-3, pytest.approx(0.72))


def test_searches_try_seeds_that_no_table_reports():
    plan = make_plan("mini", [])
    for name, experiment in plan.experiments.items():
        if experiment.tuned_by:
            seeds = {run.seed for run in plan.grids[name]}
            assert not seeds & {run.seed for run in plan.grids[experiment.tuned_by]}


def test_a_learning_rate_at_which_a_seed_fails_does_not_win(plan):
    finish(plan, lambda run: run.lr, failed=lambda run: run.lr == 2e-3 and run.seed == 1)
    assert choose(plan)["lora"]["lr"] == 1e-3


def test_a_search_without_a_success_says_what_to_do(plan):
    finish(plan, lambda run: 0.5, failed=lambda run: run.method == "lora")
    with pytest.raises(
        ConfigError, match=r"search\.yaml: every learning rate of lora on minilm has a run that failed"
    ):
        select(plan, "search")


def test_tuned_runs_are_those_of_the_winner(plan):
    with pytest.raises(RecordError, match=r"search\.json does not exist"):
        plan.runs_of("table2")
    finish(plan, lambda run: {"lora": -1, "lora-fa": 1}.get(run.method, 0) * run.lr)
    choose(plan)
    runs = {(run.method, run.task, run.seed): run for run in plan.runs_of("table2")}
    assert len(runs) == (3 * 2 + 1) * 2  # prompt tuning has one seed
    for method, rate, spelled in (("lora", 5e-4, "5e-4"), ("lora-fa", 2e-3, "2e-3")):
        run = runs[method, "sst2", 1]
        assert f"/lr={spelled}/" in run.directory and run.overrides[-2:] == [
            f"lr={spelled}",
            "tuned_by=search",
        ]
        assert run.lr == run.identity["lr"] == run.evaluation_identity["run"]["lr"] == rate


def test_every_run_that_a_search_may_choose_is_known(plan):
    known = set(plan.runs)
    finish(plan, lambda run: run.lr)
    choose(plan)
    assert {run.directory for run in plan.runs_of("table2")} <= known
    assert set(plan.wanted()) == {run.directory for name in plan.grids for run in plan.runs_of(name)}


def test_a_chosen_run_is_the_same_as_one_started_by_hand(plan):
    from pipeline.config.compose import compose_run
    from pipeline.config.paths import run_dir

    finish(plan, lambda run: run.lr)
    choose(plan)
    for run in plan.runs_of("table2")[:3]:
        config, cfg = compose_run(run.overrides)
        assert run_dir(cfg) == run.directory
        assert config.identity() == run.identity
        assert config.evaluation_identity() == run.evaluation_identity
        assert config.tuned_by == "search"


def test_an_unknown_run_is_one_clear_line(plan):
    with pytest.raises(ConfigError, match=r"no experiment of profile smoke has the run model=minilm/seed=9"):
        plan.run("model=minilm/seed=9")


def test_a_search_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFA_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"table2\.yaml: tuned_by: 'search' is not a search of this profile"
    ):
        make_plan("smoke", ["profile.experiments=[table2]"])


def test_choosing_experiments_changes_no_run(plan):
    alone = make_plan("smoke", [searched(*map(str, RATES)), *SEEDS, "profile.experiments=[search]"])
    assert set(alone.experiments) == {"search"} < set(plan.experiments)
    assert alone.runs_of("search") == plan.runs_of("search")
