"""The planner's page: its numbers are the estimator's, and its commands ask for the same estimate."""

import json
import re
from pathlib import Path

import pytest

from lorafa.memory import page
from lorafa.memory.__main__ import main, new_parser, recipe_of
from lorafa.memory.estimate import estimate
from lorafa.memory.recipe import Recipe

GRID = page.Grid(ranks=(4, 8), lengths=(64, 512), batches=(2,))


@pytest.fixture(scope="module")
def written(small_models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "plan.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MIB", 1)  # bytes, which a small model has few of
        page.write(file, [small_models["llama"]], Recipe("any", attention="flash"), GRID)
    return file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_point_of_the_page_is_what_its_command_estimates(
    written: str, small_models: dict[str, str]
) -> None:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', written, re.DOTALL)
    data, model = json.loads(text), small_models["llama"]
    offered = data["models"][model]
    assert len(offered["words"]) == len(data["choices"]) == len(page.CHOICES)
    assert offered["lengths"] == [64], "the model has 130 positions"
    for choice, (by_rank,) in zip(offered["words"], offered["points"], strict=True):
        for rank, (cell,) in zip(data["ranks"], by_rank, strict=False):
            words = (
                f"--model {model} {choice['options']} --rank {rank} --length 64 --batch 2 {data['options']}"
            )
            found = estimate(recipe_of(new_parser().parse_args(words.split())))
            assert sum(cell) == found.reserved
            assert cell[data["parts"].index("cache")] == found.breakdown["cache"]


@pytest.mark.integration
def test_the_page_asks_nothing_of_a_network(written: str) -> None:
    assert not re.search(r"https?:|src=|<link|@import|fetch\(", written)


@pytest.mark.parametrize(
    "setting",
    [
        Recipe("any"),
        Recipe("any", dtype="fp32", autocast="bf16", adapter_dropout=0.05, checkpointing=True),
        Recipe("any", target_modules=("q_proj", "v_proj"), quantization="nf4", shards=2, attention="flash"),
    ],
)
def test_the_options_of_a_setting_say_it_again(setting: Recipe) -> None:
    assert recipe_of(new_parser().parse_args(["--model", "any", *page.options(setting).split()])) == setting


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("base_model.model.model.layers.*.input_layernorm", "norms"),
        ("base_model.model.model.layers.*.self_attn.q_proj", "attention"),
        ("encoder.block.*.layer.1.DenseReluDense.act", "feed-forward"),
        ("roberta.encoder.layer.*.attention.output.dense", "attention"),
        ("roberta.encoder.layer.*.output.dense", "feed-forward"),
        ("decoder.block.*.layer.1.dropout", "elsewhere in the blocks"),
        ("base_model.model", "logits and loss"),
        ("", "logits and loss"),
    ],
)
def test_a_module_is_of_one_kind(module: str, kind: str) -> None:
    assert page.kind_of(module) == kind


def test_what_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--html", str(tmp_path / "none" / "plan.html")])
    assert "there is no folder" in capsys.readouterr().err
