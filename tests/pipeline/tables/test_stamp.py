"""What tables of overridden runs say of themselves."""

from types import SimpleNamespace

import pytest

from pipeline.tables import render
from pipeline.tables.stamp import overridden, stamped
from pipeline.tables.table import Cell, Row, Table

EXPERIMENT = SimpleNamespace(compares=[])
PLAN = SimpleNamespace(
    profile=SimpleNamespace(name="mini"),
    experiments={"table2": EXPERIMENT, "table5": EXPERIMENT, "pareto": SimpleNamespace(compares=["table2"])},
    grids={"table2": ["a run"], "table5": [], "pareto": []},
)
OVERRIDES = ["profile=mini", "profile.seeds=[0,1]", "model.frozen_dtype=float32"]
WORDS = "Profile mini with overrides: model.frozen_dtype=float32."


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
    assert overridden(PLAN, name, overrides) == expected


def test_they_stand_before_the_first_number_in_every_format_for_people():
    table = Table(
        "table2", "Table 2", "A stand-in.", "", ["Model", "MRPC"], [Row([Cell("MiniLM"), Cell("92")])]
    )
    for text in (render.markdown(stamped(table, WORDS)), render.html(stamped(table, WORDS))):
        assert text.index(f"{WORDS} A stand-in.") < text.index("92")
    assert stamped(table, "") == table
