"""`python -m benchmarks.gpu`: its plan, its search, its file; and a run on the CPU, by the code that runs on a GPU."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.measure import Measurement, build, measure, search
from benchmarks.gpu.plan import Group, groups, largest_batches, tiny
from benchmarks.gpu.record import Results, file_name, lines
from benchmarks.rungs import KINDS, RUNGS
from lorafa.layers import LoraFaLayer
from lorafa.memory.recipe import Recipe

RECIPE = Recipe("llama-7b", "lora", batch_size=2, source_length=16)


@pytest.mark.parametrize("largest", [0, 1, 2, 7, 8, 100])
@pytest.mark.parametrize("guess", [0, 1, 7, 64])
def test_search_finds_the_largest_that_fits(largest, guess):
    assert search(lambda size: size <= largest, guess) == largest


def test_a_good_guess_needs_two_steps():
    asked = []
    search(lambda size: asked.append(size) or size <= 40, 40)
    assert asked == [40, 41]


def test_the_plan_has_the_papers_steps_and_every_rung():
    steps = [recipe for group in groups() for recipe in group.recipes]
    assert len(steps) == len(set(steps))
    assert all(RUNGS[kind] == (kind,) for kind in KINDS)
    assert {kind for recipe in steps for kind in recipe.recompute} == set(KINDS)
    assert set(RUNGS.values()) <= {recipe.recompute for recipe in steps if recipe.model == "llama-7b"}
    assert {"roberta-base", "t5-large", "llama-7b"} <= {
        recipe.model for recipe in steps if recipe.method == "full-ft"
    }
    assert {recipe.method for recipe in largest_batches()} == {"lora", "lora-frozen-a", "lora-fa"}


@pytest.mark.integration
def test_the_steps_are_those_of_the_papers_tables():
    """Or what is measured would stand beside no estimate."""
    from pipeline.fullscale.recipes import TABLES  # composes conf/, which takes seconds

    tables = ("table5", "figure5", "figure2a", "figure2b", "figure2c")
    theirs = {cell.recipe for table in tables for cell in TABLES[table]("fitted")}
    own = ("rungs", "full-ft, as far as it fits")
    assert {recipe for group in groups() if group.name not in own for recipe in group.recipes} <= theirs


def test_nf4_layers_are_those_of_bitsandbytes_and_keep_less(tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    recipe = tiny(replace(RECIPE, method="lora-fa", quantization="nf4"), tmp_path)
    model = build(recipe).model
    layers = [module for module in model.modules() if isinstance(module, LoraFaLayer)]
    assert layers and all(isinstance(layer.get_base_layer(), bnb.nn.Linear4bit) for layer in layers)
    ((_, found),) = measure([recipe], steps=1)
    ((_, plain),) = measure([replace(recipe, quantization="none")], steps=1)
    assert found.status == plain.status == "done" and found.allocated_bytes < plain.allocated_bytes


def results(path):
    return Results(path, {"device": {"name": "A card"}, "driver": "1", "versions": {}, "commit": None})


def test_the_file_is_whole_after_each_measurement(tmp_path):
    found = results(tmp_path / "a.json")
    found.add("one", RECIPE, Measurement("done", 10, 20, (1.0, 2.0)))
    assert json.loads(found.path.read_text())["steps"][0]["allocated_bytes"] == 10
    found.add("two", RECIPE, Measurement("done", 11, 21, (3.0,)))
    found.limits[RECIPE, 100] = 4
    found.predicted[RECIPE] = {"allocated_bytes": 12, "reserved_bytes": 24, "flops": 5}
    found.write()
    again = Results.read(found.path)
    assert again == found
    assert again.steps[RECIPE] == ("one", Measurement("done", 11, 21, (1.0, 2.0, 3.0)))
    assert "+9.1" in list(lines(again))[1]  # 12 bytes estimated, 11 measured


def test_a_file_of_another_card_is_not_added_to(tmp_path):
    path = tmp_path / "a.json"
    results(path).write()
    with pytest.raises(SystemExit, match="of another card, driver, version or commit"):
        gpu._results(path, "cpu")


def test_a_card_names_its_file():
    assert file_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "for --tiny models alone"),
        (["--predict", "nowhere.json"], "nowhere.json: no such file"),
        (["--device", "cpu", "--tiny", "--groups", "tabel5"], "not 'tabel5'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    with pytest.raises(SystemExit):
        gpu._parse()
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_no_time_is_said(tmp_path):
    found = results(tmp_path / "a.json")
    gpu.run(found, [Group("one", (RECIPE,))], [(RECIPE, 100)], gpu.Clock(0))
    assert Results.read(found.path).not_measured == ["one", "largest batches"]


@pytest.mark.integration
def test_steps_on_the_cpu_take_what_is_estimated(tmp_path):
    steps = [
        tiny(recipe, tmp_path)
        for recipe in (RECIPE, replace(RECIPE, method="lora-fa", recompute=RUNGS["free"]))
    ]
    refused = tiny(Recipe("roberta-base", "lora-fa", recompute=("norm",)), tmp_path)
    found = results(tmp_path / "a.json")
    limits = [(steps[0], 2**20)]
    gpu.run(found, [Group("one", (*steps, refused))], limits, gpu.Clock(5))
    found.predict()
    assert found.not_measured == []
    assert found.steps[refused][1].status.startswith("refused: RobertaForSequenceClassification has nothing")
    for step in steps:
        assert found.steps[step][1].allocated_bytes == pytest.approx(
            found.predicted[step]["allocated_bytes"], rel=0.03
        )
        assert len(found.steps[step][1].seconds) == gpu.ROUNDS * gpu.STEPS
    assert found.limits[limits[0]] >= RECIPE.batch_size
    assert "x LoRA" in next(lines(found))


BARE = """
import sys
absent = "hydra omegaconf snakemake datasets lm_eval wandb evaluate matplotlib sklearn numexpr bitsandbytes"
sys.modules.update(dict.fromkeys(absent.split()))  # importing one of them fails
import benchmarks.gpu.__main__
"""


@pytest.mark.integration
def test_a_bare_machine_has_all_that_it_imports():
    subprocess.run([sys.executable, "-c", BARE], check=True)
