"""Which experiments a target makes, in which order, and what makes them anew."""

from pathlib import Path

import pytest

from pipeline import files
from pipeline.config import targets
from pipeline.config.compose import compose_run
from pipeline.config.paths import run_dir
from pipeline.config.plan import Plan
from pipeline.config.planner import make_plan
from pipeline.config.targets import FIRST, Priorities, experiments_of, files_of
from pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("mini")


def test_the_targets_are_the_paper_s_tables_its_figures_the_rebuttal_our_questions_and_everything(plan):
    of_target = {name: set(experiments_of(plan, name)) for name in targets.TARGETS}
    tables, figures, rebuttal, questions, everything = of_target.values()
    assert {
        "table1",
        "table2",
        "table3",
        "table4",
        "table5",
        "table6",
        "table7",
        "search",
        "verdicts",
    } <= tables
    assert figures == {
        *("figure2a", "figure2b", "figure2c", "figure3", "figure4"),
        *("figure5", "figure5_throughput", "figure6"),
    }
    assert {"capacity", "equal_memory", "rebuttal_sni", "rebuttal_lengths"} <= rebuttal
    assert {"question_freezing", "question_capacity", "question_resampling"} <= questions
    parts = (tables, figures, rebuttal, questions)
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert set().union(*parts) <= everything == set(plan.experiments)
    with pytest.raises(ConfigError, match=r"no target 'table2' \(did you mean 'tables'\?\); there is tables"):
        experiments_of(plan, "table2")


def test_a_figure_comes_with_the_table_of_its_numbers(plan):
    files = files_of(plan, "figures")
    assert "results/mini/figures/figure5.svg" in files and "results/mini/tables/figure5.md" in files
    assert "results/mini/tables/figure6.md" not in files  # there is none


def test_what_needs_no_training_comes_first_then_tables_2_3_4_and_6_and_7(plan):
    priorities = Priorities(plan)

    def of(name: str) -> set[int]:
        return {
            priorities.run(run.directory.removeprefix(f"{plan.runs_folder}/"))
            for run in plan.candidates[name]
        }

    assert min(of("table2")) > max(of("table3")) and min(of("table3")) > max(of("table4"))
    assert min(of("search")) >= min(of("table2"))
    assert min(of("table4")) > min(of("table6")) > 0
    assert priorities.experiment("table5") >= FIRST > priorities.experiment("table2") > max(of("table2"))
    assert priorities.repository("datasets/nyu-mll/glue") == max(of("table2"))
    shared = {run.directory for run in plan.candidates["search"]} & {
        run.directory for run in plan.candidates["figure6"]
    }
    for directory in shared:
        assert priorities.run(directory.removeprefix(f"{plan.runs_folder}/")) == 60


def test_a_changed_library_changes_what_the_estimates_follow_from(tmp_path, monkeypatch):
    def hashed() -> str:
        targets.estimator.cache_clear()
        return targets.estimator()

    (tmp_path / "memory").mkdir()
    grid = tmp_path / "memory/paper.py"
    grid.write_text("LENGTHS = [1024]")
    monkeypatch.setattr(targets, "ESTIMATOR", (tmp_path,))
    before = hashed()
    grid.write_text("LENGTHS = [2048]")
    after = hashed()
    targets.estimator.cache_clear()
    assert before != after


def test_a_corrected_published_number_makes_its_table_anew_and_no_other(plan, tmp_path, monkeypatch):
    published = tmp_path / "results/paper"
    published.mkdir(parents=True)
    (published / "table2.csv").write_text("score\n1")
    (published / "table3.csv").write_text("score\n1")
    monkeypatch.setattr("pipeline.config.plan.ROOT", tmp_path)
    before = [plan.layout(name) for name in ("table2", "table3")]
    (published / "table2.csv").write_text("score\n2")
    after = [plan.layout(name) for name in ("table2", "table3")]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.integration
def test_more_seeds_keep_the_runs_that_there_are_and_the_searches():
    few = ["profile.experiments=[search,table2,table7]", "profile.glue_tasks=[mrpc,cola]"]
    fewer, more = make_plan("mini", few), make_plan("mini", [*few, "seeds=6"])
    assert more.profile.seeds == [0, 1, 2, 3, 4, 5]
    for name, grid in fewer.grids.items():
        identities = {run.directory: run.identity for run in more.grids[name]}
        assert all(identities[run.directory] == run.identity for run in grid)
        if isinstance(fewer.experiments[name].seeds, list):
            assert len(identities) == len(grid)
    once = sum(run.method == "prompt-tuning" for run in fewer.grids["table2"])
    assert once == 2 and len(more.grids["table2"]) - once == 2 * (len(fewer.grids["table2"]) - once)
    for number in ("0", "-1", "x", ""):
        with pytest.raises(ConfigError, match=rf"seeds={number}: must be a number of seeds"):
            make_plan("mini", [*few, f"seeds={number}"])


@pytest.mark.integration
def test_the_plan_s_identity_of_a_run_is_the_one_that_its_record_has(plan):
    """One run of each experiment, method and setting, as a job composes it."""
    chosen = {}
    for name, grid in plan.candidates.items():
        for run in grid:
            special = frozenset(key for key in run.axes if key not in ("lr", "setting"))
            chosen.setdefault((special or run.task), (name, run))
    for name, run in chosen.values():
        config, cfg = compose_run(run.overrides)
        assert config.identity() == run.identity, name
        assert run_dir(cfg) == run.directory


def test_a_run_of_several_experiments_is_the_same_run_in_all_of_them(plan):
    identities = {}
    for runs in plan.candidates.values():
        for run in runs:
            assert identities.setdefault(run.directory, run.identity) == run.identity
    assert len(set(map(files.fingerprint, identities.values()))) == len(identities)


def test_every_experiment_says_where_it_comes_from(plan):
    sections = {name: experiment.section for name, experiment in plan.experiments.items()}
    assert sections.pop("gpu_memory") == sections.pop("what_fits") == "beyond"
    assert set(sections.values()) == {"paper", "rebuttal", "reviewers", "questions"}
    assert all(Path(file).name for file in files_of(plan, "all"))
