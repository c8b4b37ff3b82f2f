"""Table 1's formulas against the paper's text and against real layers."""

import csv
from pathlib import Path

import pytest

from pipeline.fullscale import analytic
from pipeline.fullscale.table1 import FORMULAS, table1

PAPER = Path(__file__).parents[3] / "results" / "paper"


@pytest.fixture(scope="module")
def entries() -> dict[tuple[str, str], tuple[int, int]]:
    return {(e.method, e.quantity): (e.predicted, e.metered) for e in table1(d=256, r=4, b=2, s=32)}


def test_formulas_are_as_printed() -> None:
    with (PAPER / "table1.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            printed = {name.removesuffix("_bytes"): text for name, text in row.items() if name != "method"}
            assert FORMULAS[row["method"]] == printed


def test_real_layers_take_what_the_formulas_say(entries: dict) -> None:
    assert len(entries) == 20
    for cell, (predicted, metered) in entries.items():
        assert metered == predicted, cell


def test_with_dropout_only_our_layer_keeps_to_the_formula() -> None:
    metered = {
        e.method: e.metered for e in table1(d=256, r=4, b=2, s=32, dropout=0.1) if e.quantity == "activation"
    }
    mask, saved = 2 * 32 * 256, 2 * 2 * 32 * 4
    assert metered["lora-frozen-a"] == saved + mask
    assert metered["lora-fa"] == saved + 8  # the mask's seed


def test_llama_65b_examples_of_the_introduction() -> None:
    # "reduces the activation memory in a linear layer of LLaMA-65B (d = 8192, r = 4) by 2048 times", and §2.2.
    assert (
        analytic.full_ft(8192, 4, 4, 2048).activation == 2048 * analytic.lora_fa(8192, 4, 4, 2048).activation
    )
    trained = analytic.full_ft(8192, 4, 1, 1).trainable_parameters
    assert trained == 2048 * analytic.lora_fa(8192, 4, 1, 1).trainable_parameters
    # "more than 50GB of activation memory in all LoRA layers" at batch 4 × 2048, in 80 blocks.
    assert analytic.lora_activations(4, 2048, 8192, 4, 80) > 50e9


def test_totals() -> None:
    d, r, L = 4096, 64, 32
    n, n_r = analytic.parameters(d, L), analytic.lora_parameters(d, r, L)
    assert (n, n_r) == (12 * d**2 * L, 18 * d * r * L)
    assert analytic.lora_fa_parameters(d, r, L) == n_r / 2
    assert analytic.full_ft_states(d, L) == 16 * n
    assert analytic.lora_states(d, r, L) - analytic.lora_fa_states(d, r, L) == 7 * n_r
    assert analytic.lora_activations(2, 8, d, r, L) == 14 * 2 * 8 * d * L + 12 * 2 * 8 * r * L
