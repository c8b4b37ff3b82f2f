import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pipeline.config.compose import CONF, compose_run
from pipeline.config.paths import run_dir, spell, split, subdir, unplaced
from pipeline.config.planner import make_plan
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        (4e-4, "4e-4"),
        (0.0004, "4e-4"),
        (1.5e-4, "1.5e-4"),
        (0.002, "2e-3"),
        (0.05, "0.05"),
        (8, "8"),
        (8.0, "8"),
        (np.float64(0.002), "2e-3"),
        (128, "128"),
        (1e-10, "1e-10"),
        (-3e-5, "-3e-5"),
        ("all", "all"),
        ("a/b c", "a_bc"),
        (["a", 8.0], "[a,8]"),
        ({"a": 0.3}, "{a:0.3}"),
        (None, "null"),
        (True, "True"),
    ],
)
def test_one_spelling_for_a_value(value, spelling):
    assert spell(value) == spelling
    if isinstance(value, float):
        assert float(spelling) == value


def test_the_path_is_the_configuration():
    _, cfg = compose_run(["method=lora-fa", "task=rte", "seed=2", "lr=0.0004", "rank=16"])
    expected = "results/mini/runs/model=minilm/method=lora-fa/task=rte/rank=16/lr=4e-4/seed=2"
    assert run_dir(cfg) == cfg.hydra.run.dir == expected
    assert f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}" == expected


def test_methods_without_a_rank_have_none_in_their_path():
    assert "rank" not in run_dir(compose_run(["method=full-ft"])[1])


def test_an_unusual_override_gets_a_place_of_its_own():
    usual, unusual = (
        run_dir(compose_run(list(more))[1]) for more in ((), ("method.dropout=0.1", "alpha=16"))
    )
    assert unusual == usual.replace("/seed=", "/alpha=16/method.dropout=0.1/seed=")
    assert run_dir(compose_run(["profile.threads=2", "statistics.margin=2"])[1]) == usual


def test_a_sweep_by_hand_lands_where_the_dag_looks():
    plan = make_plan("mini")
    overrides = ["method=lora-fa", "task=cola", "lr=3e-3", "seed=1"]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        by_hand = compose("config", overrides, return_hydra_config=True)
    assert f"{by_hand.hydra.sweep.dir}/{by_hand.hydra.sweep.subdir}" in plan.runs


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alpha=16", "alpha=16.0"),
        ("alpha=16", "alpha=1.6e1"),
        ("trainer.weight_decay=0.10", "trainer.weight_decay=1e-1"),
        ("method.targets=qv", "method.targets='qv'"),
        ("+task.scoring_splits=[a,b]", "+task.scoring_splits=[a, 'b']"),
        ("budget.epochs=null", "budget.epochs=NULL"),
        ("+x=true", "+x=True"),
    ],
)
def test_what_an_override_says_decides_and_not_how(one, other):
    assert unplaced([one]) == unplaced([other])
    assert subdir("m", "f", "t", 8, 1e-3, unplaced([one]), 0) == subdir(
        "m", "f", "t", 8, 1e-3, unplaced([other]), 0
    )


@pytest.mark.parametrize(
    "value", [[f"task{number:03}" for number in range(400)], "x" * 300, 'a"b', "ü" * 120]
)
def test_every_override_makes_a_part_of_a_path_that_file_systems_take(value, tmp_path):
    def path(value) -> str:
        return subdir("m", "f", "t", 8, 1e-3, {"task.instructions.train_tasks": spell(value)}, 0)

    (tmp_path / path(value)).mkdir(parents=True)
    changed = [*value[:-1], "another"] if isinstance(value, list) else f"{value}y"
    assert path(changed) != path(value) == path(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, []),
        ("a=1 b=[2,3]", ["a=1", "b=[2,3]"]),
        ("a='x y' b=2", ["a=x y", "b=2"]),
        ("b=2 a='x y", ["b=2", "a=x y"]),  # as Snakemake passes on b=2 a='x y'
        ('b=2 a="x y', ["b=2", "a=x y"]),
    ],
)
def test_overrides_are_split_as_a_shell_does_though_snakemake_drops_the_last_quote(text, words):
    assert split(text) == words


def test_a_quote_that_is_never_closed_is_one_clear_line():
    with pytest.raises(ConfigError, match="a quotation mark is not closed in: a="):
        split('a="\\')
