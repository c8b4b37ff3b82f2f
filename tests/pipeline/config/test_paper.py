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
from pipeline.costs.shapes import Shape, shape_of
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


def planned(run: RunConfig) -> Shape:
    """The shape by which a run is planned."""
    return shape_of(run.identity(), run.evaluation_identity()["scoring"], run.profile)


def test_five_facts_are_each_in_one_file(conf):
    """Training reads the run, a plan its shape, the memory tables a recipe, and a search its grid."""
    facts = {"rank": 32, "targets": "qv", "dropout": 0.2, "batch_size": 2}
    before = run_of("llama2-7b", "lora", "natural-instructions")
    (cell, *_), grid = recipes.cells("figure3", "nominal"), recipes.experiments()["rebuttal_layers"]
    compared = recipes.experiments()["equal_parameters"].axes["lr"]
    conf("model/llama2-7b.yaml", "rank: 64", "rank: 32")
    conf("model/llama2-7b.yaml", "targets: all-linear", "targets: qv")
    conf("model/llama2-7b.yaml", "adapter_dropout: 0.1", "adapter_dropout: 0.2")
    conf("model/llama2-7b.yaml", "batch_size: 4", "batch_size: 2")
    conf("profile/paper.yaml", "compared_lr: [7e-5, ", "compared_lr: [6e-5, ")
    after = run_of("llama2-7b", "lora", "natural-instructions")
    assert (after.rank, after.method.targets, after.method.dropout, after.budget.batch_size) == (
        *facts.values(),
    )
    shape = planned(after)
    assert {fact: getattr(shape, fact) for fact in facts} == facts
    assert all(getattr(planned(before), fact) != value for fact, value in facts.items())
    step, (changed, *_) = recipe_of_run(after), recipes.cells("figure3", "nominal")
    for recipe in (step, changed.recipe):
        assert (recipe.rank, recipe.adapter_dropout) == (32, 0.2)
        assert recipe.target_modules == ("qv",)
    assert (step.batch_size, cell.recipe.rank, cell.recipe.target_modules) == (2, 64, ())
    again = recipes.experiments()
    assert (compared[0], again["equal_parameters"].axes["lr"][0]) == (7e-5, 6e-5)
    assert again["rebuttal_layers"] == grid  # what does not follow from them stays


def test_the_appendix_s_settings_are_those_of_the_experiments():
    experiments, _, _ = compose_experiments(["profile=paper"])
    assert experiments["table6"].overrides == {"budget.batch_size": 32}
    assert min(experiments["table6"].axes["lr"]) == 1e-5
    assert experiments["table6"].axes["method.init_A"]["lora-fa-projected"] == ["kaiming_uniform"]
    assert max(experiments["table7"].axes["lr"]) == 9e-3
    assert experiments["figure4"].overrides == {"budget.batch_size": 4 * 320}
    assert min(experiments["search"].axes["lr"]["full-ft"]) == 1e-5
    assert experiments["search"].overrides == {
        "+task.held_out": 0.1
    }  # no example of Table 2 chooses its rates
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
