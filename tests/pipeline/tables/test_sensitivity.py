"""Tables 6 and 7 and the reviewers' comparisons, from made-up records with known answers."""

from dataclasses import replace

import pandas as pd
import pytest

from pipeline.config.plan import Plan
from pipeline.tables import comparison, render, sensitivity
from tests.pipeline import made_up


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    folder = tmp_path_factory.mktemp("results")
    rates = (
        "profile.grids.lr_sensitivity=[2e-4,5e-4,1e-3,2e-3,4e-3,8e-3]",
        "profile.grids.compared_lr=[5e-4,2e-3]",
        "profile.grids.sensitivity_seeds=[0,1,2]",
        "profile.grids.alpha=[1,2,4,8,16,32,64,128]",
    )
    names = ("table6", "table7", "equal_parameters", "equal_memory")
    return made_up.plan_of(folder, *names, overrides=rates)


def rows(table) -> dict[str, list[str]]:
    return {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}


def fill(plan, name, score_of) -> None:
    """Gives each run of an experiment the score, or the status, that a function of the run returns."""
    for run in plan.runs_of(name):
        result = score_of(run)
        if isinstance(result, str):
            made_up.write(run, None, status=result)
        else:
            made_up.write(run, result)


def by_init(run) -> float | str:
    """Kaiming works from 1e-3 to 4e-3, ones at 2e-4 and 1e-3 alone, normal nowhere; large rates diverge for ones."""
    init = run.axes["method.init_A"]
    if init == "kaiming_uniform":
        return {1e-3: 0.90, 2e-3: 0.94, 4e-3: 0.895}.get(run.lr, 0.6) + 0.001 * run.seed
    if init == "ones":
        if run.lr >= 4e-3:
            return "diverged"
        return {2e-4: 0.80, 1e-3: 0.82}.get(run.lr, 0.7)
    return 0.52 + 0.01 * (run.lr == 2e-3)


def test_ranges_means_and_deviations(plan):
    fill(plan, "table6", by_init)
    table = sensitivity.build(plan, "table6")
    found = rows(table)
    assert found["Kaiming uniform"] == ["{1e-3, ..., 4e-3}", "94.1", "2e-3", "–"]
    assert found["All-one"] == ["{2e-4, 1e-3}", "82.0", "1e-3", "× 4e-3, × 8e-3"]
    assert found["Std-normal"] == ["none", "53.0", "2e-3", "–"]
    (best,) = [row for row in table.rows if row.cells[2].bold]
    assert best.cells[0].text == "Kaiming uniform" and best.cells[2].subscript == "0.1"


def test_another_method_is_a_row_of_its_own(tmp_path):
    rates = ("profile.grids.lr_sensitivity=[1e-3]", "profile.grids.sensitivity_seeds=[0]")
    plan = made_up.plan_of(tmp_path, "table6", overrides=rates)
    (run,) = [run for run in plan.grids["table6"] if run.axes["method.init_A"] == "kaiming_uniform"]
    projected = replace(
        run, identity={**run.identity, "method": {**run.identity["method"], "name": "lora-fa-projected"}}
    )
    experiment = plan.experiments["table6"]
    plan.grids["table6"] = [run, projected]
    plan.experiments["table6"] = replace(experiment, methods=["lora-fa", "lora-fa-projected"])
    fill(plan, "table6", lambda one: 0.90 if one.method == "lora-fa" else 0.92)
    found = rows(sensitivity.build(plan, "table6"))
    assert found["Kaiming uniform"][1] == "90.0"
    assert found["Kaiming uniform, projected gradient (ours)"][1] == "92.0"


def test_the_papers_ranges_stand_in_rows_of_their_own(plan):
    fill(plan, "table6", by_init)
    fill(plan, "table7", lambda run: 0.9)
    table6 = rows(sensitivity.build(plan, "table6"))
    assert table6["paper: All-one"] == ["{1e-4, ..., 9e-4}", "89.72", "–", "–"]
    table7 = rows(sensitivity.build(plan, "table7"))
    assert table7["paper: 1"][:2] == [">1e-3", "73.12"] and table7["paper: 32"][:2] == [
        "{4e-4, ..., 9e-4}",
        "90",
    ]
    assert list(table7)[::2] == ["1", "2", "4", "8", "16", "32", "64", "128"]


def test_one_diverged_seed_ends_a_range(plan):
    fill(
        plan,
        "table6",
        lambda run: "diverged" if (run.lr, run.seed) == (2e-3, 1) else 0.9,
    )
    table = sensitivity.build(plan, "table6")
    assert rows(table)["Kaiming uniform"][0] == "{2e-4, 5e-4, 1e-3, 4e-3, 8e-3}"
    assert rows(table)["Kaiming uniform"][3] == "× 2e-3"


def test_a_value_that_always_diverges_has_a_word(plan):
    fill(plan, "table7", lambda run: "diverged" if run.axes["alpha"] == "128" else 0.9)
    row = rows(sensitivity.build(plan, "table7"))["128"]
    assert row[:3] == ["none", "diverged", "–"]


@pytest.mark.parametrize(
    ("working", "text"),
    [
        ([], "none"),
        ([1e-3], "{1e-3}"),
        ([1e-3, 2e-3], "{1e-3, 2e-3}"),
        ([5e-4, 1e-3, 2e-3], "{5e-4, ..., 2e-3}"),
        ([5e-4, 2e-3, 4e-3], "{5e-4, 2e-3, 4e-3}"),
    ],
)
def test_ranges_are_written_as_the_paper_does(working, text):
    assert sensitivity.rates(working, [2e-4, 5e-4, 1e-3, 2e-3, 4e-3]) == text


def test_every_format_renders(plan):
    fill(plan, "table7", lambda run: 0.9)
    table = sensitivity.build(plan, "table7")
    for text in (render.markdown(table), render.latex(table), render.html(table)):
        assert "recast sentences" in text
    assert render.csv(table).splitlines()[0] == "alpha,lr,mean,std,seeds,diverged,works"


def frame(scores: dict[float, list[float | None]], metric: str = "accuracy") -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "model": "m",
                "setting": "s",
                "task": "t",
                "metric": metric,
                "lr": lr,
                "seed": seed,
                "score": score,
            }
            for lr, values in scores.items()
            for seed, score in enumerate(values)
        ]
    )


def test_the_best_mean_chooses_the_rate_and_failures_never_win():
    assert set(comparison.best_rates(frame({1e-3: [80, 90], 2e-3: [84, 85]}), ["setting"]).lr) == {1e-3}
    assert set(comparison.best_rates(frame({1e-3: [99, None], 2e-3: [84, 85]}), ["setting"]).lr) == {2e-3}
    assert set(
        comparison.best_rates(frame({1e-3: [0.5, 0.6], 2e-3: [0.4, 0.5]}, "loss"), ["setting"]).lr
    ) == {2e-3}


def test_a_comparison_has_a_row_for_each_setting(plan):
    for run in plan.runs_of("equal_parameters"):
        fa = run.method == "lora-fa"
        made_up.write(run, 0.90 + 0.02 * fa + 0.01 * run.seed, step_memory_bytes=(60 if fa else 100) * 2**20,
                      trainable_parameters=1_700_000 if fa else 1_600_000)  # fmt: skip
    table = comparison.build(plan, "equal_parameters")
    found = rows(table)
    assert table.columns[:4] == ["Setting", "# TPs", "Memory, MiB", "MRPC"] and table.columns[-1] == "Avg."
    assert found["LoRA, rank 64"][:3] == ["1.6M", "100.0", "91.0"]
    assert found["LoRA-FA, rank 128"][:3] == ["1.7M", "60.0", "93.0"]
    fa = next(row for row in table.rows if row.cells[0].text.startswith("LoRA-FA"))
    assert fa.cells[3].bold and fa.cells[3].subscript == "1.0" and fa.cells[-1].text == "93.0"
    assert any("eval_loss 0.45" in note for note in table.notes)


def test_equal_memory_quotes_the_authors_replies(plan):
    for run in plan.runs_of("equal_memory"):
        made_up.write(run, 0.9)
    (reply,) = [note for note in comparison.build(plan, "equal_memory").notes if "reply" in note]
    assert "LoRA, attention, rank 64: mmlu 47.4 at 64.44 GB" in reply
    assert "LoRA, 30% of the layers, rank 64: mmlu 45.4 at 61.92 GB" in reply
    assert reply.count("LoRA-FA, rank 64: mmlu 54.1 at 62.51 GB") == 1
