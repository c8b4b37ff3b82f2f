"""Parameter counts against the paper's columns."""

import csv
from pathlib import Path

import pytest

from lorafa.memory.recipe import Recipe
from pipeline.fullscale.parameters import PaperRow, count, paper_rows

PAPER = Path(__file__).parents[3] / "results" / "paper" / "parameters.csv"


def printed() -> dict[tuple[str, str, str], str]:
    with PAPER.open(newline="") as file:
        return {
            (row["table"], row["model"], row["method"]): row["parameters_millions"]
            for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str, str], PaperRow]:
    return {(str(row.table), row.recipe.model, row.label): row for row in paper_rows()}


def test_every_printed_number_has_a_row(rows) -> None:
    assert rows.keys() == printed().keys()


@pytest.mark.parametrize("key", printed(), ids="-".join)
def test_the_rule_gives_the_printed_number(rows: dict[tuple[str, str, str], PaperRow], key) -> None:
    text, row = printed()[key], rows[key]
    decimals = len(text.partition(".")[2])
    ours = count(row.recipe).by_the_papers_rule(row.unit)
    assert f"{ours:.{decimals}f}" == text


def test_lora_on_llama_by_hand() -> None:
    d, ff, r, blocks = 4096, 11008, 64, 32
    a, b = 4 * d + 2 * d + ff, 4 * d + 2 * ff + d
    counted = count(Recipe("llama-7b", "lora", rank=r))
    assert counted.trainable == (a + b) * r * blocks
    assert count(Recipe("llama-7b", "lora-fa", rank=r)).trainable == b * r * blocks
    assert counted.total == 6738415616 + counted.trainable
