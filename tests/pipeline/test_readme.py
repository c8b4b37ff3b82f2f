"""README's tables and numbers, made from tables that never were."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline import files, readme
from pipeline.config.planner import make_plan
from pipeline.errors import ConfigError, RecordError
from pipeline.tables import render
from pipeline.tables.table import Cell, Row, Table
from tests.pipeline import made_up
from tests.pipeline.made_up import planned, write, write_evaluation

NAMES = ("table2", "table3", "table4", "table5", "runs")
PAGE = "# Title\n\nwords 12.3\n\n" + "\n\n".join(
    f"<!-- {name} -->\nold 45.6\n<!-- /{name} -->\n\nbetween" for name in NAMES
)
VERDICTS = [
    ("table2", "MiniLM", "LoRA", "average", "LoRA-FA − LoRA: +0.3 [−0.5, 1.1], not inferior at margin 1.0."),
    ("table2", "MiniLM", "LoRA", "MRPC", "LoRA-FA − LoRA: −9.0, a task's own."),
    ("table2", "MiniLM", "Full-FT", "average", "LoRA-FA − Full-FT: +2.0 [1.0, 3.0], better."),
    ("table3", "T5", "LoRA", "En-Ro", "LoRA-FA − LoRA: −4.2 [−7.4, −1.1], inferior."),
    (
        "table4",
        "SmolLM2-Alpaca",
        "LoRA",
        "Alpaca",
        "LoRA-FA − LoRA: −0.1 [−2.0, 1.8], inconclusive. 4 more seeds.",
    ),
    ("table4", "SmolLM2-FLANv2", "LoRA", "FLAN v2", "LoRA-FA − LoRA: +0.2 [−0.2, 0.6], not inferior."),
]


@pytest.fixture
def plan(tmp_path):
    """A profile whose tables are made and whose runs are recorded."""
    results = tmp_path / "results"
    marked = ["‡ Not a sane number.", "Rows in italics are the paper's."]
    grids = {
        "table2": [["MiniLM (Lo-FA)", "71.9‡"]],
        "table3": [["T5 (LoRA)", "60.1"]],
        "table4": [["SmolLM2-Alpaca (LoRA)", "64.4"], ["SmolLM2-FLANv2 (LoRA)", "58.3"]],
        "table5": [["llama-7b", "76.5"], ["t5-small", "11.1"], ["roberta-large", "22.1"]],
    }
    for name, rows in grids.items():
        cells = [Row([Cell(text) for text in row]) for row in rows]
        notes = marked if name == "table2" else marked[1:]
        render.write(Table(name, name, "", "", ["Row", "Score"], cells, notes), results / "tables")
    columns = ["table", "model", "reference", "task", "text"]
    pd.DataFrame(VERDICTS, columns=columns).to_csv(results / "tables/verdicts.csv", index=False)
    runs = [run(results, method, seed) for method in ("lora", "lora-fa") for seed in (0, 1)]
    for one in [*runs, run(results, "by-hand", 0)]:
        write(one, 0.8, wall_time_seconds=1800.0)
        write_evaluation(one, score=0.8)
    profile = SimpleNamespace(name="mini", results=str(results), judged=True)
    return SimpleNamespace(
        profile=profile, experiments={}, runs_of=lambda name: runs if name == "table2" else []
    )


def run(results, method, seed):
    return planned(results, "minilm", method, "sst2", seed, rank=8, lr=0.001)


def block(page, name):
    return page.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]


def test_every_block_is_written_and_the_words_around_stay(plan):
    page = readme.fill(PAGE, readme.blocks(plan))
    assert "45.6" not in page and page.startswith("# Title\n\nwords 12.3\n")
    assert page.count("between") == len(NAMES)
    two, four = block(page, "table2"), block(page, "table4")
    assert two.splitlines()[:2] == [f"- {VERDICTS[0][-1]}", f"- {VERDICTS[2][-1]}"]  # not the task's own
    assert "| MiniLM (Lo-FA) |" in two and "71.9‡" in two and two.endswith("‡ Not a sane number.")
    assert "SmolLM2-Alpaca (LoRA)" in four and "SmolLM2-FLANv2 (LoRA)" in four  # both halves
    assert f"- SmolLM2-FLANv2: {VERDICTS[5][-1]}" in four.splitlines()
    assert "llama-7b" in block(page, "table5") and "t5-small" not in block(page, "table5")
    # Four runs of half an hour and two seconds each; the run by hand is in no table.
    runs = block(page, "runs")
    assert "4 runs on 2 cores (x86_64)" in runs and "2.0 hours" in runs


def test_the_second_time_changes_nothing(plan, tmp_path, monkeypatch, capsys):
    file = tmp_path / "page.md"
    file.write_text(PAGE)
    monkeypatch.setattr(readme, "parse_plan", lambda parser: (plan, parser.parse_args(["--page", str(file)])))
    readme.main()
    once = file.read_text()
    readme.main()
    assert file.read_text() == once != PAGE
    assert capsys.readouterr().out.splitlines() == [f"{file}: written", f"{file}: as it was"]


def test_our_page_has_a_place_for_every_block():
    page = readme.PAGE.read_text()
    assert readme.fill(page, dict.fromkeys(NAMES, "new")) != page


def test_the_precision_is_that_of_the_runs():
    rows = {"run": ["a", "b"], "model": ["minilm", "t5"], "frozen_dtype": ["float32", "bfloat16"]}
    machine = {"processor": "x86_64", "cores": 2, "gpus": '["H100"]'}
    runs = pd.DataFrame({**rows, **machine, "wall_time_seconds": 1800.0, "evaluation_wall_time_seconds": 0.0})
    text = readme._runs(runs)
    assert "2 cores (x86_64), H100" in text and "bfloat16 (t5) and float32 (minilm)" in text


@pytest.mark.parametrize("missing", ["table2.md", "table5.md", "verdicts.csv"])
def test_without_its_tables_there_is_no_page(plan, missing):
    Path(plan.profile.results, "tables", missing).unlink()
    with pytest.raises(RecordError, match="does not exist: make the tables first"):
        readme.blocks(plan)


def test_numbers_that_mean_nothing_are_not_for_a_page(plan):
    plan.profile.judged = False
    with pytest.raises(ConfigError, match="mean nothing"):
        readme.blocks(plan)


def test_a_page_without_a_place_is_refused(plan):
    with pytest.raises(ConfigError, match="one block between <!-- table2 --> and <!-- /table2 -->"):
        readme.fill(PAGE.replace("<!-- /table2 -->", ""), readme.blocks(plan))


def test_the_page_of_questions_has_what_is_made_and_says_what_is_not(tmp_path):
    plan = made_up.plan_of(tmp_path, "question_memory", "question_8bit", "table2")
    rows = [Row([Cell("LoRA, rank 4"), Cell("88.0")])]
    data = [{"setting": "LoRA, rank 4", "score": 88.0}, {"candidate": "A", "text": "A − B: +1.0, better."}]
    table = Table("question_memory", "Question 2", "", "", ["Setting", "CoLA"], rows, ["a note"], data)
    render.write(table, tmp_path / "tables")
    files.write_text(tmp_path / "figures/question_memory.svg", "<svg/>")
    found = readme.answers(plan)
    assert found["question_memory"].splitlines()[-1] == "- A − B: +1.0, better."
    assert (
        "| LoRA, rank 4 |   88.0 |" in found["question_memory"] and "a note" not in found["question_memory"]
    )
    assert found["question_8bit"] == found["runs"] == readme.NOT_MADE and "table2" not in found
    readme.copy_figures(plan, tmp_path / "page")
    assert [file.name for file in (tmp_path / "page").iterdir()] == ["question_memory.svg"]


def test_the_page_of_questions_has_a_place_for_each():
    plan = make_plan("mini")
    page = (readme.ROOT / "docs" / readme.QUESTIONS).read_text()
    assert readme.fill(page, readme.answers(plan))


def test_the_page_of_memory_has_a_place_for_each_table_of_estimates(plan):
    for name in readme.ESTIMATED:
        table = Table(name, name, "", "", ["Row", "GiB"], [Row([Cell(name), Cell("12.3")])], ["a note"])
        render.write(table, Path(plan.profile.results, "tables"))
    page = readme.fill((readme.ROOT / "docs" / readme.MEMORY).read_text(), readme.estimates(plan))
    for name in readme.ESTIMATED:
        assert f"| {name}" in block(page, name) and "a note" not in block(page, name)
    Path(plan.profile.results, "tables/what_fits.md").unlink()
    with pytest.raises(RecordError, match=r"what_fits\.md does not exist"):
        readme.estimates(plan)
