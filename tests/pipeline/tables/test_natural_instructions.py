"""The rebuttal's table on Super-NaturalInstructions, from made-up records."""

import pytest

from pipeline.tables import natural_instructions, render
from tests.pipeline import made_up

LOSSES = {"full-ft": 1.5, "lora": 2.0, "lora-fa": 2.25}


@pytest.fixture
def plan(tmp_path):
    plan = made_up.plan_of(tmp_path, "rebuttal_sni")
    for run in plan.runs_of("rebuttal_sni"):
        made_up.write(run, LOSSES[run.method] - 1000 * run.lr)
        made_up.write_evaluation(run, rouge_l=12.5)
    return plan


def test_a_loss_and_a_rouge_for_each_learning_rate_beside_the_reply(plan, tmp_path):
    table = natural_instructions.build(plan, "rebuttal_sni")
    rows = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}
    assert rows["SmolLM2 (LoRA)"] == ["1.93", "12.5", "1.90", "12.5", "1.60", "12.5"]
    assert rows["paper: Llama2-7B (LoRA)"] == ["0.45", "–", "0.53", "–", "4.27", "–"]
    (best,) = (cell.text for row in table.rows for cell in row.cells if cell.bold)
    assert best == "1.10", "Full-FT at the largest"
    for path in render.write(table, tmp_path / "tables"):
        assert "1.93" in path.read_text() or path.suffix == ".csv"
    assert len(set(table.columns)) == len(table.columns)
