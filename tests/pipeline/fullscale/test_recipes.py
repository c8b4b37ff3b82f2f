"""The paper's numbers against the estimator's, at the recipes and readings of pipeline.fullscale.recipes."""

from pathlib import Path

import pytest

from lorafa.memory.cards import CARDS
from lorafa.memory.estimate import estimate
from lorafa.memory.sizes import GIB
from pipeline.fullscale.recipes import TABLES, card_of, device_memory, published

table5 = TABLES["table5"]
PAPER = Path(__file__).parents[3] / "results" / "paper"
T5 = [pytest.param(f"t5-{size}", marks=pytest.mark.slow) for size in ("small", "base", "large")]
# docs/memory.md, "Where the estimate does not meet the paper".
EXCEPTIONS = {("t5-large", "lora"): 0.15}


@pytest.mark.integration
@pytest.mark.parametrize("model", ["roberta-base", "roberta-large", "llama-7b", *T5])
def test_table5_is_within_a_tenth_of_the_paper(model: str) -> None:
    fitted = [cell for cell in table5("fitted") if ("model", model) in cell.key]
    cells, theirs = {cell.key: cell.recipe for cell in fitted}, published("table5", PAPER)
    for key, recipe in cells.items():
        ours = estimate(recipe)
        text = theirs.get(frozenset(key))
        if text is None:  # ours has no published number; it must need less than the paper's method
            (rival,) = (cells[other] for other in cells if dict(other) == dict(key) | {"method": "lora-fa"})
            assert ours.peak < estimate(rival).peak, key
        elif text == "OOM":
            assert device_memory(ours) > card_of("table5", PAPER), key
        else:
            tolerance = EXCEPTIONS.get(tuple(text for _, text in key), 0.1)
            assert device_memory(ours) / GIB == pytest.approx(float(text), rel=tolerance), key


def test_roberta_cells_need_no_fitting() -> None:
    nominal = {cell.key: cell.recipe for cell in table5("nominal")}
    for cell in table5("fitted"):
        if cell.recipe.model.startswith("roberta"):
            assert nominal[cell.key] == cell.recipe


@pytest.mark.parametrize("table", TABLES)
def test_every_published_cell_has_a_recipe(table: str) -> None:
    keys = {frozenset(cell.key) for cell in TABLES[table]("nominal")}
    numbers = published(table, PAPER)
    assert set(numbers) <= keys
    assert all(text == "fits" or text == "OOM" or float(text) > 0 for text in numbers.values())


def test_a_table_s_card_is_the_paper_s() -> None:
    """Figure 2b is of 40 GB (§4.2), where LoRA is out of memory; Table 5 of 80 GB."""
    names = {"table5": "a100-80gb", "figure2b": "a100-40gb", "figure2c": "a100-80gb"}
    assert {table: card_of(table, PAPER) for table in names} == {
        table: CARDS[name] for table, name in names.items()
    }


@pytest.mark.integration
def test_ours_saves_what_it_claims_on_llama() -> None:
    cells = {dict(cell.key)["method"]: cell.recipe for cell in TABLES["figure3"]("fitted")}
    assert estimate(cells["lora-fa-lean"]).peak <= 0.62 * estimate(cells["lora"]).peak
