"""Questions of our own, from made-up records with known answers."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from pipeline import files
from pipeline.config.planner import make_plan
from pipeline.errors import ConfigError
from pipeline.figures import questions as figures
from pipeline.results import records
from pipeline.tables import evidence, questions, trained
from tests.pipeline import made_up

NAME = "question_memory"
EXAMPLES = 400


def hits(run) -> int:
    """How many of the examples a run gets right: LoRA-FA of rank 32 more than LoRA of rank 4, in all seeds."""
    better = {"LoRA-FA, rank 32": 60, "LoRA-FA, rank 128": -80}.get(run.axes["setting"], 0)
    return 300 + better + 2 * run.seed - (20 if run.lr == 3e-3 else 0)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    plan = made_up.plan_of(tmp_path_factory.mktemp("results"), NAME)
    for run in plan.runs_of(NAME):
        right = hits(run)
        made_up.write(run, right / EXAMPLES, step_memory_bytes=run.rank * 2**20, update_scale=2.0)
        made_up.write_evaluation(run, score=right / EXAMPLES)
        labels = [1, 0] * (EXAMPLES // 2)
        guesses = [label if n < right else 1 - label for n, label in enumerate(labels)]
        predictions = pd.DataFrame({"split": "validation", "prediction": guesses, "label": labels})
        files.write_table(Path(run.directory, records.PREDICTIONS), predictions)
    return plan


def test_each_pair_has_a_verdict_at_the_settings_best_learning_rates(plan):
    said = {
        (one.candidate, one.reference): one
        for _, one in questions.judged(plan, NAME, trained.read(plan, NAME))
    }
    assert set(said) == {
        ("LoRA-FA, rank 32", "LoRA, rank 4"),
        ("LoRA-FA, rank 32", "LoRA, rank 8"),
        ("LoRA-FA, rank 128", "LoRA, rank 8"),
    }
    assert said["LoRA-FA, rank 32", "LoRA, rank 4"].verdict == "better"
    assert said["LoRA-FA, rank 128", "LoRA, rank 8"].verdict == "inferior"
    assert said["LoRA-FA, rank 32", "LoRA, rank 4"].seeds == (0, 1, 2)


def test_the_table_has_a_row_for_each_setting_and_the_verdicts_below(plan):
    table = questions.build(plan, NAME)
    assert [row.cells[0].text for row in table.rows] == list(plan.experiments[NAME].settings)
    assert sum("better" in note or "inferior" in note for note in table.notes) >= 3
    verdicts = [line for line in table.data if "verdict" in line]
    assert [line["verdict"] for line in verdicts] == ["better", "better", "inferior"]


def test_points_are_means_over_the_seeds(plan):
    points = questions.points(plan, NAME).set_index("setting")
    assert len(points) == len(plan.experiments[NAME].settings)
    assert points.loc["LoRA-FA, rank 32", "mean"] == pytest.approx(100 * (300 + 60 + 2) / EXAMPLES)
    assert points.loc["LoRA-FA, rank 32", "memory"] == 32
    assert points.loc["LoRA, rank 4", ["lr", "seeds"]].tolist() == [1e-3, 3]
    assert points.loc["LoRA, rank 4", "effective_step"] == pytest.approx(2e-3)


def test_the_figure_has_a_line_for_each_method(plan):
    figure = figures.draw(plan, NAME)
    (axes,) = figure.axes
    assert axes.get_xlabel() == "Memory of a training step, MiB"
    lines = {line.get_label(): line for line in axes.containers}
    assert set(lines) == {"LoRA", "LoRA-FA"}
    assert list(lines["LoRA-FA"][0].get_xdata()) == [8, 8, 32, 128]
    plt.close(figure)


def test_a_pair_of_a_setting_that_is_none_is_refused(tmp_path, monkeypatch):
    plan = make_plan("mini", [f"profile.experiments=[{NAME}]"])
    plan.experiments[NAME].pairs["LoRA-FA, rank 23"] = ["LoRA, rank 4"]
    from pipeline.config import planner

    with pytest.raises(
        ConfigError, match=r"question_memory.yaml: pairs: no setting 'LoRA-FA, rank 23' \(did you mean"
    ):
        planner._check_pairs(plan.experiments)


def test_published_runs_have_the_effective_step_of_their_settings(tmp_path):
    plan = made_up.plan_of(tmp_path, "question_evidence")
    published = evidence.read(plan, "question_evidence").set_index(["method", "rank"])
    steps = published.effective_step / published.lr
    assert steps.loc["lora-fa", 32].iloc[0] == pytest.approx(2 / 3**0.5)  # α / r, and rows of length 1/√3
    assert steps.loc["lora-rs", 64].iloc[0] == pytest.approx(8 / 3**0.5)  # α / √r
    assert steps.loc["miss", 64].iloc[0] == pytest.approx(48**0.5)  # 3072 inputs in blocks of 64
    assert published.loc["full-ft"].effective_step.isna().all()
    table = evidence.build(plan, "question_evidence")  # ours are not among this plan's experiments
    assert len(table.rows) == len(published) and all(row.published for row in table.rows)
