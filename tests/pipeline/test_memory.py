"""The memory tables and figures from estimates, and measurement of real steps."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

from lorafa.memory.estimate import estimate
from lorafa.memory.recipe import Recipe
from lorafa.memory.sizes import GIB
from pipeline import memory
from pipeline.errors import ConfigError, RecordError
from pipeline.figures.__main__ import FORMATS, draw
from pipeline.fullscale import measured
from pipeline.fullscale import recipes as paper
from pipeline.tables import memory as tables
from pipeline.tables import render, throughput

SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 130,
}


@pytest.fixture(scope="module")
def estimates() -> pd.DataFrame:
    """Numbers of the right shape for every cell, without the work: 1, 2, 3, … GiB."""
    rows = []
    for table, reading in ((t, r) for t in paper.TABLES for r in paper.READINGS):
        for number, cell in enumerate(paper.TABLES[table](reading), 1):
            parts = (
                "weights",
                "adapters",
                "gradients",
                "optimizer",
                "inputs",
                "activations",
                "temporaries",
                "cache",
            )
            sizes = {f"{part}_bytes": number * GIB / 8 for part in parts}
            row = {
                "table": table,
                "reading": reading,
                "cell": memory.spell(cell),
                "device_bytes": number * GIB,
            }
            row |= {"allocated_bytes": GIB, "reserved_bytes": number * GIB, "saved_bytes": GIB, **sizes}
            rows.append({**row, "recipe": json.dumps(asdict(cell.recipe))})
    return pd.DataFrame(rows)


@pytest.fixture
def plan(results_plan, estimates):
    for table, rows in estimates.groupby("table"):
        path = Path(results_plan.memory_file(table))
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(path, index=False)
    return results_plan


def names(plan, *kinds: str) -> list[str]:
    return [name for name, experiment in plan.experiments.items() if experiment.kind in kinds]


def test_throughput_at_equal_memory_is_beside_lora_s_on_the_same_card(plan):
    lines = [("rtx-4090", "lora", 0, 0.0), ("rtx-4090", "lora-fa", 1, 900.0)]
    lines += [("a100-80gb", "lora", 8, 1000.0), ("a100-80gb", "lora-fa", 12, 1250.0)]
    columns = ["card", "method", "batch_size", "tokens_per_second"]
    path = Path(plan.memory_file("throughput_equal_memory"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(lines, columns=columns).to_csv(path, index=False)
    table = throughput.build_equal_memory(plan, "throughput_equal_memory")
    texts = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[2:] for row in texts] == [
        ["0", "–", "–"],
        ["1", "900", "–"],
        ["8", "1,000", "1.00"],
        ["12", "1,250", "1.25"],
    ]
    assert "Modelled, not measured" in render.markdown(table)


def test_every_memory_table_is_of_cells_that_exist(plan):
    assert set(names(plan, "memory", "breakdown")) == set(paper.TABLES)
    for name in names(plan, "memory"):
        table = tables.build(plan, name)
        assert len(table.rows) == len(paper.TABLES[name]("fitted"))
        for text in (render.markdown(table), render.latex(table), render.html(table)):
            assert "Not measured on a GPU" in text


def test_published_numbers_stand_beside_their_cells(plan):
    frame = tables.read_estimates(plan, "table5").set_index(["model", "method"])
    assert frame.paper[("roberta-base", "lora")] == "9.2"
    assert frame.paper[("llama-7b", "lora-fa")] == "61.49"
    assert frame.paper[("llama-7b", "full-ft")] == "OOM"
    assert frame.paper[("llama-7b", "lora-fa-lean")] == ""
    assert sum(frame.paper != "") == 18
    modules = tables.read_estimates(plan, "rebuttal_submodules").set_index(["modules", "method"])
    assert modules.paper[("no q", "lora-fa")] == "60.55"


def test_out_of_memory_is_of_the_card_that_the_paper_had(plan):
    """Figure 2b's has 40 GB, of which its cells of 28 and 29 GiB and the overhead leave some."""
    table = tables.build(plan, "figure2b")
    place = table.columns.index("Fitted / paper")
    found = {tuple(cell.text for cell in row.cells[:2]): row.cells[place].text for row in table.rows}
    assert (found["1.0", "LoRA"], found["1.0", "LoRA-FA (the paper's)"]) == ("fits", "fits too")
    assert [tables._ratio(45 * GIB, words, 40 * GIB) for words in ("OOM", "fits", "")] == [
        "OOM too",
        "OOM",
        "–",
    ]


def test_what_a_gpu_measured_stands_beside_its_estimate(plan, tmp_path, monkeypatch):
    cells = {frozenset(cell.key): cell.recipe for cell in paper.TABLES["figure5"]("fitted")}
    lora, lora_fa = (cells[frozenset({("method", m), ("batch_size", "16")})] for m in ("lora", "lora-fa"))
    recipe = asdict(lora)
    del recipe["packed"]  # a file that is older than the field
    steps = [
        {"recipe": json.loads(json.dumps(recipe)), "status": "done", "reserved_bytes": 70 * GIB},
        {"recipe": asdict(lora_fa), "status": "out_of_memory", "reserved_bytes": None},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"device": {"name": "A card"}, "steps": steps}))
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    table = tables.build(plan, "figure5")
    assert "Not measured" not in table.notice and table.columns[-1] == "A card, GiB"
    rows = {frozenset(cell.text for cell in row.cells[:2]): row.cells[-1].text for row in table.rows}
    assert {key: text for key, text in rows.items() if text != "–"} == {frozenset({"16", "LoRA"}): "71.2"}
    draw(plan, "figure5", tmp_path)
    assert "measured on A card" in (tmp_path / "figure5.svg").read_text()
    assert tables.build(plan, "figure2b").columns[-1] == "Saved"  # none of its steps was measured


def test_the_breakdown_adds_up_to_the_published_totals(plan):
    parts = tables.read_breakdown(plan, "figure3")
    assert parts["LoRA, published"].sum() == pytest.approx(76.0, abs=0.05)
    assert parts["LoRA-FA, published"].sum() == pytest.approx(62.1, abs=0.05)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["figure2a", "figure3", "rebuttal_ranks"])
def test_figures_are_drawn_in_every_format_and_always_alike(plan, tmp_path, name):
    files = draw(plan, name, tmp_path / "one")
    assert [file.suffix[1:] for file in files] == list(FORMATS)
    again = draw(plan, name, tmp_path / "two")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    assert "LoRA-FA" in files[0].read_text() or files[0].stat().st_size > 10_000


def test_missing_estimates_are_named(plan):
    Path(plan.memory_file("table5")).write_text("")
    with pytest.raises(RecordError, match=r"table5\.csv is missing or damaged"):
        tables.build(plan, "table5")


@pytest.mark.integration
def test_table1_counts_what_the_formulas_say(plan):
    pd.DataFrame(memory.predict("table1")).to_csv(plan.memory_file("table1"), index=False)
    table = tables.build_complexity(plan, "table1")
    texts = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[1] for row in texts] == ["formula", "by the formula", "counted"] * 4
    for predicted, counted in zip(texts[1::3], texts[2::3], strict=True):
        assert predicted[2:] == counted[2:]


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL))
    return Recipe(
        str(path),
        "lora",
        rank=4,
        batch_size=2,
        source_length=32,
        dtype="fp32",
        attention="eager",
        device="cpu",
    )


def test_a_real_step_takes_what_is_estimated(recipe):
    measured = memory.measure_step(recipe, "cpu")
    assert measured["status"] == "done"
    assert measured["allocated_bytes"] == pytest.approx(estimate(recipe).peak, rel=0.02)


@pytest.mark.slow
def test_measuring_a_table_keeps_what_is_measured(recipe, tmp_path, monkeypatch):
    cells = [paper.Cell("table5", (("method", method),), recipe) for method in ("lora",)]
    monkeypatch.setitem(paper.TABLES, "table5", lambda reading: cells)
    memory.measure("table5", "nominal", tmp_path, "cpu", snapshots=False)
    written = pd.read_csv(tmp_path / "table5.csv")
    assert list(written.status) == ["done"]
    monkeypatch.setattr(memory.subprocess, "run", None)  # a second time, nothing is run
    memory.measure("table5", "nominal", tmp_path, "cpu", snapshots=False)
    assert pd.read_csv(tmp_path / "table5.csv").equals(written)


def test_out_of_memory_is_a_result(recipe, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory, "_on_cuda", full)
    assert memory.measure_step(recipe, "cuda") == {"status": "out_of_memory"}


def test_without_a_gpu_measuring_says_so(recipe):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="there is no CUDA device; measure with --device cpu"):
        memory.measure_step(recipe, "cuda")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "recipe: "),
        ('{"modle": "x"}', "unknown field modle"),
        ('{"model": "x", "rank": 0}', "rank must be at least 1"),
    ],
)
def test_a_bad_recipe_is_one_line(text, message):
    with pytest.raises(ConfigError, match=message):
        memory._read_recipe(text)
