"""One description of the paper: a fact that is changed in one file of conf/ changes everything that follows from it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from pipeline.config import compose, planner
from pipeline.config.compose import CONF, compose_experiments, compose_run
from pipeline.config.schema import RunConfig
from pipeline.costs.recipe import recipe_of_run
from pipeline.costs.shapes import shape_of
from pipeline.fullscale import recipes


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Puts other words into a file of a copy of conf/, and forgets what was composed before."""
    copied = tmp_path / "conf"
    shutil.copytree(CONF, copied)
    for module in (compose, planner, recipes):
        monkeypatch.setattr(module, "CONF", copied)

    def forget() -> None:
        GlobalHydra.instance().clear()
        recipes.composed.cache_clear()
        recipes.experiments.cache_clear()

    def change(file: str, old: str, new: str) -> None:
        text = (copied / file).read_text()
        assert text.count(old) == 1, f"{file} has not one {old!r}"
        (copied / file).write_text(text.replace(old, new))
        forget()

    forget()
    yield change
    forget()


def run_of(model: str, method: str, task: str) -> RunConfig:
    return compose_run(["profile=paper", f"model={model}", f"method={method}", f"task={task}"])[0]


def planned(run: RunConfig) -> object:
    """The shape by which a run is planned."""
    return shape_of(run.identity(), run.evaluation_identity()["scoring"], run.profile)


@pytest.mark.parametrize(
    ("file", "old", "new", "fact"),
    [
        ("model/roberta-base.yaml", "rank: 8", "rank: 16", "rank"),
        ("model/roberta-base.yaml", "targets: all-linear", "targets: qv", "targets"),
        ("model/roberta-base.yaml", "adapter_dropout: 0.1", "adapter_dropout: 0.2", "dropout"),
    ],
)
def test_a_fact_about_adapters_is_in_one_file(conf, file, old, new, fact):
    """Training reads the run, plans its shape, and the memory tables and counts its recipe."""
    before = run_of("roberta-base", "lora", "mrpc")
    cells = recipes.cells("table5", "nominal")
    conf(file, old, new)
    after = run_of("roberta-base", "lora", "mrpc")
    assert before.identity() != after.identity()
    assert getattr(planned(before), fact) != getattr(planned(after), fact)
    assert recipe_of_run(before) != recipe_of_run(after)
    changed = {
        dict(one.key)["model"]
        for one, other in zip(cells, recipes.cells("table5", "nominal"), strict=True)
        if one.recipe != other.recipe
    }
    assert changed == {"roberta-base"}


def test_a_batch_size_is_in_one_file(conf):
    before = run_of("roberta-base", "lora", "mrpc")
    conf("model/roberta-base.yaml", "batch_size: 64", "batch_size: 48")
    after = run_of("roberta-base", "lora", "mrpc")
    assert (before.budget.batch_size, after.budget.batch_size) == (64, 48)
    assert (planned(before).batch_size, planned(after).batch_size) == (64, 48)
    assert (recipe_of_run(before).batch_size, recipe_of_run(after).batch_size) == (64, 48)


def test_a_grid_is_in_one_file(conf):
    def searched() -> list[float]:
        return compose_experiments(["profile=paper"])[0]["search"].axes["lr"]["lora"]

    assert searched()[0] == 5e-5
    conf("profile/paper.yaml", "    lr: [5e-5, 6e-5,", "    lr: [4e-5, 6e-5,")
    assert searched()[0] == 4e-5


def test_the_appendix_s_settings_are_those_of_the_experiments():
    experiments, _, _ = compose_experiments(["profile=paper"])
    assert experiments["table6"].overrides == {"budget.batch_size": 32}
    assert min(experiments["table6"].axes["lr"]) == 1e-5
    assert max(experiments["table7"].axes["lr"]) == 9e-3
    assert experiments["figure4"].overrides == {"budget.batch_size": 4 * 320}
    assert min(experiments["search"].axes["lr"]["full-ft"]) == 1e-5
    for name in ("equal_parameters", "equal_memory", "lora_qv_ranks"):
        assert experiments[name].models == ["llama2-7b"]
    small, _, _ = compose_experiments(["profile=mini"])
    assert small["equal_memory"].models == ["minilm"] and small["table6"].overrides == {}


@pytest.mark.parametrize(("task", "epochs"), [("mrpc", 5), ("sst2", 3)])
def test_glue_has_two_recipes(task, epochs):
    words = ["profile=paper", "model=roberta-base", "method=full-ft", f"task={task}"]
    transformers, _ = compose_run([*words, "recipe=transformers"])
    assert (transformers.budget.epochs, transformers.budget.max_length, transformers.lr) == (
        epochs,
        128,
        2e-5,
    )
    assert transformers.trainer.weight_decay == transformers.trainer.warmup_ratio == 0
    lora, _ = compose_run([*words, "recipe=lora"])
    assert lora.budget.epochs == run_of("roberta-base", "full-ft", task).budget.epochs > epochs
    assert "epochs" not in lora.identity()["trainer"]
