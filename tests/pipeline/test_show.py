"""A finished table in the terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import show
from pipeline.display.tables import rendered
from pipeline.errors import ConfigError, RecordError
from pipeline.tables import render
from pipeline.tables.table import Cell, Row, Table
from tests.pipeline import made_up


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [
        Row([Cell("MiniLM (Lo-FA)"), Cell("92.3", subscript="1.1", bold=True)]),
        Row([Cell("paper: R-B (Lo-FA)"), Cell("90")], published=True),
    ]
    notes = ["LoRA-FA − LoRA: −0.2 [−0.9, 0.5], not inferior at margin 1.0.", "Three seeds."]
    table = Table("table2", "Table 2", "A stand-in.", "Accuracy.", ["Model", "MRPC"], rows, notes)
    return render.write(table, tmp_path / "tables")[0]


def test_numbers_verdicts_and_the_file_are_there_and_markup_is_not(file):
    console = Console(width=100, record=True, file=io.StringIO(), force_terminal=True)
    console.print(rendered(file, "Table 2: GLUE"))
    coloured, text = console.export_text(styles=True, clear=False), console.export_text()
    assert "Table 2: GLUE" in text and "92.3±1.1" in text and "paper: R-B (Lo-FA)" in text
    assert "**" not in text and "<sub>" not in text and str(file) in text.replace("\n", "")
    assert "\x1b[32m- LoRA-FA − LoRA: −0.2 [−0.9, 0.5], not inferior at margin 1.0." in coloured


def test_what_is_not_there_is_told(tmp_path):
    plan = made_up.plan_of(tmp_path)
    with pytest.raises(ConfigError, match=r"no table 'tabel2' \(did you mean 'table2'\?\)"):
        show.files_of(plan, "tabel2")
    with pytest.raises(
        RecordError, match=r"`python -m pipeline.status table2 profile=mini` says how far it is"
    ):
        show.files_of(plan, "table2")
    for name in ("table2", "table3"):
        made = tmp_path / "tables" / f"{name}.md"
        made.parent.mkdir(exist_ok=True)
        made.write_text("")
    assert list(show.files_of(plan, "tables")) == ["table2", "table3"]
