"""What tables of overridden runs and of meaningless numbers say of themselves; no two configurations are mixed."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from pipeline import files
from pipeline.config.plan import Plan
from pipeline.errors import ConfigError
from pipeline.figures.__main__ import draw
from pipeline.tables import render
from pipeline.tables.stamp import MEANINGLESS, described, refuse_mix, refuse_selections, stamped, warning
from pipeline.tables.table import Cell, Row, Table
from tests.pipeline import made_up

EXPERIMENT = SimpleNamespace(compares=[])
PLAN = SimpleNamespace(
    profile=SimpleNamespace(name="mini", judged=True),
    experiments={"table2": EXPERIMENT, "table5": EXPERIMENT, "pareto": SimpleNamespace(compares=["table2"])},
    grids={"table2": ["a run"], "table5": [], "pareto": []},
)
OVERRIDES = ["profile=mini", "profile.seeds=[0,1]", "model.frozen_dtype=float32"]
WORDS = "Profile mini with overrides: model.frozen_dtype=float32."


def table(name: str, words: str) -> Table:
    rows = [Row([Cell("MiniLM"), Cell("92")])]
    return stamped(Table(name, name, "A stand-in.", "", ["Model", "MRPC"], rows), words)


@pytest.fixture
def plan(tmp_path) -> Plan:
    return made_up.plan_of(tmp_path, "search", "table2", "table5", "figure4")


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("table2", OVERRIDES, WORDS),
        ("pareto", OVERRIDES, WORDS),
        ("table5", OVERRIDES, ""),  # an estimate
        ("table2", OVERRIDES[:2], ""),  # more seeds, and the runs are the same
    ],
)
def test_overrides_that_change_runs_are_named(name, overrides, expected):
    assert warning(PLAN, name, overrides) == expected


def test_numbers_that_mean_nothing_are_called_so_but_for_estimates():
    smoke = SimpleNamespace(**{**vars(PLAN), "profile": SimpleNamespace(name="smoke", judged=False)})
    assert warning(smoke, "table5", []) == "" and warning(smoke, "table2", []) == MEANINGLESS
    assert warning(smoke, "table2", ["rank=4"]) == f"{MEANINGLESS} Profile smoke with overrides: rank=4."


def test_they_stand_before_the_first_number_in_every_format_for_people():
    for text in (render.markdown(table("table2", WORDS)), render.html(table("table2", WORDS))):
        assert text.index(f"{WORDS} A stand-in.") < text.index("92")
    assert table("table2", "").notice == "A stand-in."


@pytest.mark.parametrize(
    ("made", "asked", "refused"),
    [
        ([], ["profile.seeds=[0,1]", "profile.threads=2"], ""),
        (["model.x=4", "method.targets=[a, b]"], ["method.targets=[a,b]", "model.x=4.0"], ""),
        (["model.frozen_dtype=float32"], [], "was made with overrides model.frozen_dtype=float32, and"),
        ([], ["model.frozen_dtype=float32"], "was made without overrides, and"),
        (
            ["budget.max_steps=10"],
            ["budget.max_steps=20"],
            "this would be with overrides budget.max_steps=20:",
        ),
    ],
)
def test_tables_of_other_overrides_are_refused_but_for_estimates(plan, tmp_path, made, asked, refused):
    render.write(table("table2", described(plan, made)), tmp_path / "tables")
    render.write(table("table5", ""), tmp_path / "tables")
    if not refused:
        refuse_mix(plan, asked)
        return
    with pytest.raises(ConfigError, match=f"table2.md .*{refused}") as error:
        refuse_mix(plan, asked)
    assert "\n" not in str(error.value)


def test_figures_of_other_overrides_are_refused(plan, tmp_path, monkeypatch):
    functions = iter([lambda plan, name: plt.figure(), lambda plan, name: pd.DataFrame()])
    monkeypatch.setitem(draw.__globals__, "resolve_name", lambda name: next(functions))
    overrides = ["method.targets=[query,value]", "budget.max_steps=9"]
    draw(plan, "figure4", tmp_path / "figures", described(plan, overrides))
    refuse_mix(plan, overrides)
    with pytest.raises(ConfigError, match=r"figure4\.svg was made with overrides 'method.targets"):
        refuse_mix(plan, [])


def test_a_search_among_other_runs_chooses_for_no_table(plan):
    file = Path(plan.selection("search"))
    files.write_json(file, {"winners": {}, "overrides": ["budget.max_steps=10"]})
    refuse_selections(plan, "table2", ["budget.max_steps=10"])
    refuse_selections(plan, "table5", [])
    with pytest.raises(ConfigError, match=r"search\.json was made with overrides budget\.max_steps=10, and"):
        refuse_selections(plan, "table2", ["profile=mini"])
