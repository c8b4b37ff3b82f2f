"""The rebuttal's table on Super-NaturalInstructions, from made-up records."""

import numpy as np
import pandas as pd
import pytest

from pipeline.results import records
from pipeline.tables import natural_instructions, render
from tests.pipeline import made_up

LOSSES = {"full-ft": 1.5, "lora": 2.0, "lora-fa": 2.25}
ROUGE = {"full-ft": 50.0, "lora": 60.0, "lora-fa": 55.0}
TASK = {
    "name": "natural-instructions",
    "kind": "instructions",
    "subset": None,
    "scoring": {"benchmark": None},
}


@pytest.fixture
def plan(tmp_path):
    """Full-FT's ROUGE-L is 50, LoRA's 60 and LoRA-FA's 55, give or take 20."""
    plan = made_up.plan_of(tmp_path, "rebuttal_sni")
    for run in plan.runs_of("rebuttal_sni"):
        config = {"model": {"frozen_dtype": "float32"}, "task": TASK}
        made_up.write(run, LOSSES[run.method] - 1000 * run.lr, config=config)
        made_up.write_evaluation(run, rouge_l=12.5)
        _predict(run, ROUGE[run.method] if run.lr > 2e-4 else 0.0)
    return plan


def _predict(run, rouge_l):
    """Four questions on each of ten passages; of two methods, one likes odd passages and the other even ones."""
    passages = np.arange(40) % 10
    inputs = [
        f"Passage: what number {passage} has to say\nQuestion: {n}?" for n, passage in enumerate(passages)
    ]
    liked = (passages + (run.method == "lora")) % 2
    frame = pd.DataFrame({"input": inputs, "rouge_l": np.clip(rouge_l + 40 * liked - 20, 0, 100)})
    frame.to_parquet(f"{run.directory}/{records.PREDICTIONS}")


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


def test_each_pair_of_methods_has_a_verdict_at_the_rate_of_its_least_loss(plan):
    """Smaller rates, whose answers score next to nothing, have larger losses."""
    notes = natural_instructions.build(plan, "rebuttal_sni").notes
    found = {note.split(":")[1].strip(): note for note in notes if note.startswith("SmolLM2, ROUGE-L")}
    assert list(found) == ["LoRA − Full-FT", "LoRA-FA − Full-FT", "LoRA-FA − LoRA"]
    assert "+10.0 [" in found["LoRA − Full-FT"] and "−5.0 [" in found["LoRA-FA − LoRA"]
    assert not any("of the gain" in note for note in found.values()), "nothing untrained is in the table"
    assert not any("drawn each by itself" in note for note in notes)


def test_instances_of_one_passage_are_drawn_together(plan):
    """Forty instances of ten passages say less than forty by themselves, as which they count without their inputs."""

    def width(notes):
        (note,) = (note for note in notes if "LoRA-FA − LoRA:" in note)
        low, high = note.split("[")[1].split("]")[0].replace("−", "-").split(",")
        return float(high) - float(low)

    together = width(natural_instructions.build(plan, "rebuttal_sni").notes)
    for run in plan.runs_of("rebuttal_sni"):
        file = f"{run.directory}/{records.PREDICTIONS}"
        pd.read_parquet(file).drop(columns="input").to_parquet(file)
    notes = natural_instructions.build(plan, "rebuttal_sni").notes
    assert together > 1.9 * width(notes)
    assert any("drawn each by itself" in note for note in notes)
