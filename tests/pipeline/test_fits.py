"""What fits a card, as a table and a figure."""

from pathlib import Path

import pandas as pd
import pytest

from lorafa.memory.cards import USUAL
from lorafa.memory.methods import side_by_side
from lorafa.memory.recipe import Recipe
from pipeline.figures.__main__ import FORMATS, draw
from pipeline.fullscale.recipes import cells
from pipeline.tables import fits, render


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    (cell,) = cells("what_fits", "nominal")
    return cell.recipe


def test_the_step_is_of_the_papers_model_at_its_rank(recipe):
    assert (recipe.model.partition("?")[0], recipe.rank, recipe.attention) == ("llama-7b", 64, "flash")
    assert (recipe.batch_size, recipe.source_length, recipe.adapter_dropout) == (1, 1024, 0.0)


def test_every_method_and_rung_has_a_row_and_a_name(recipe):
    others = side_by_side(recipe, rungs=True)
    assert set(others) == set(fits.METHODS)
    assert others["lora, frozen A"].method == "lora-frozen-a"
    assert [name for name, other in others.items() if other.checkpointing] == ["lora, checkpointed"]
    assert others["lora-fa, up to mlp"].recompute == ("norm", "activation", "loss", "qkv", "mlp")


def test_table_and_figure(results_plan, tmp_path):
    rows = [
        {"method": method, "card": card, "batch": number * (card // 24), "length": 1024 * number * card}
        for number, method in enumerate(reversed(fits.METHODS))
        for card in USUAL
    ]
    path = Path(results_plan.memory_file("what_fits"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    table = fits.build(results_plan, "what_fits")
    assert [cell.text for cell in table.rows[0].cells] == ["Full-FT", *("–",) * 6]
    assert [cell.text for cell in table.rows[1].cells][-2:] == ["3", "81,920"]
    assert "Not measured on a GPU" in render.markdown(table)
    files = draw(results_plan, "what_fits", tmp_path)
    assert [file.suffix[1:] for file in files] == list(FORMATS)
