"""Tables in LaTeX that compiles and fits the page, and in HTML whose long cells break."""

import re
import shutil
import subprocess

import pytest

from pipeline.tables import latex, render
from pipeline.tables.table import Cell, Row, Table

SIGNS = r"2²⁰ α η → − ± × ≥ ρ χ Δ ‡ § – “en-ro” ș ă & % # _ $ { } ~ ^ \ < > | [1, 2] `a_b`"
SENTENCE = "python -m pipeline.train model=minilm method=lora-fa task=sst2 budget.evaluations=10"


def table(name: str, columns: int, rows: int, sentences: int = 0) -> Table:
    words = [*[SENTENCE] * sentences, *["12.3"] * (columns - sentences)]
    return Table(
        name=name,
        title=f"Table {name}: α",
        notice="Stand-ins. " * 30,
        caption=SIGNS,
        columns=[f"Task_{n}" for n in range(columns)],
        rows=[
            Row(
                [Cell(SIGNS[:6], "0.1", bold=True), *map(Cell, words[1:])],
                published=n % 2 > 0,
                rule=n % 3 == 0,
            )
            for n in range(rows)
        ],
        notes=[SIGNS, "A note."] * 5,
        text_columns=1,
    )


TABLES = [
    table("small", 3, 4),
    table("wide", 24, 6),
    table("sentences", 7, 20, sentences=4),
    table("long", 4, 100),
]


@pytest.mark.integration
@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex here: apt-get install texlive-latex-extra"
)
@pytest.mark.parametrize("options", ["a4paper", "twocolumn"])
def test_every_table_compiles_and_fits_the_page(tmp_path, options):
    packages = ",".join(latex.PACKAGES)
    body = "\n".join(render.latex(table) for table in TABLES)
    text = f"\\documentclass[{options}]{{article}}\\usepackage{{{packages}}}\\begin{{document}}{body}\\end{{document}}"
    (tmp_path / "all.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(
        r"^(?:Overfull|Missing character|LaTeX Warning: Float too large).*", done.stdout, re.MULTILINE
    )


def test_notes_stand_below_and_not_in_the_caption():
    text = render.latex(TABLES[0])
    (caption,) = re.findall(r"\\caption\{(.*)\}", text)
    assert (
        caption.startswith(r"Table small: $\alpha$. 2\textsuperscript{2}\textsuperscript{0}")
        and "Stand-ins" not in caption
    )
    assert text.index("Stand-ins") > text.index(r"\end{tabular}")


def test_a_long_table_goes_on_with_all_rows_and_one_label():
    text = render.latex(TABLES[3])
    assert text.count(r"\begin{table*}") == 3 and text.count(r"\label") == 1
    assert text.count("12.3") == 100 * 3


def test_long_cells_break_and_rows_are_sorted_where_the_table_says_so():
    page = render.html(TABLES[2])
    assert "td:nth-child(4)" in page and "td:nth-child(5)" not in page
    assert 'type="search"' not in page
    assert 'type="search"' in render.html(
        Table("t", "t", "", "c", ["a"], [Row([Cell("b")])], interactive=True)
    )
