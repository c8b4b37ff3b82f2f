"""A table as Markdown, LaTeX (booktabs), CSV and HTML."""

from collections.abc import Callable
from html import escape
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from pipeline.files import write_text
from pipeline.tables.table import Cell, Table

_LATEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "$": r"\$",
        "±": r"$\pm$",
        "−": "$-$",
        "~": r"\textasciitilde{}",
    }
)
_STYLE = [
    {"selector": "", "props": "border-collapse: collapse; font-variant-numeric: tabular-nums"},
    {"selector": "th, td", "props": "padding: .25em .7em; text-align: right; white-space: nowrap"},
    {"selector": "thead th", "props": "border-top: 2px solid; border-bottom: 1px solid"},
    {"selector": "tbody tr:last-child td", "props": "border-bottom: 2px solid"},
    {"selector": "sub", "props": "font-size: .7em"},
]
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }}
.table {{ overflow-x: auto }}
.notice {{ background: #fff3cd; color: #000; padding: .6em 1em; border-left: 4px solid #d39e00 }}
.published td {{ color: #666; font-style: italic }}
</style>
<h1>{title}</h1>
{notice}
<div class="table">
{table}
</div>
<p>{caption}</p>
<ul>
{notes}
</ul>
</html>
"""


def write(table: Table, folder: Path) -> list[Path]:
    """Writes the table in every format and returns the files."""
    formats = {"md": markdown, "tex": latex, "csv": csv, "html": html}
    paths = {ending: folder / f"{table.name}.{ending}" for ending in formats}
    for ending, render in formats.items():
        write_text(paths[ending], render(table))
    return list(paths.values())


def markdown(table: Table) -> str:
    """Renders for GitHub and terminals; the paper's rows are in italics."""

    def show(cell: Cell) -> str:
        text = f"**{cell.text}**" if cell.bold else cell.text
        return f"{text}<sub>{cell.subscript}</sub>" if cell.subscript else text

    frame = _frame(table, show)
    for number, row in enumerate(table.rows):
        if row.published:
            frame.iloc[number, 0] = f"*{frame.iloc[number, 0]}*"
    words = table.text_columns
    alignment = ["left"] * words + ["right"] * (len(table.columns) - words)
    parts = [f"# {table.title}"]
    parts += [f"> {table.notice}"] if table.notice else []
    parts += [frame.to_markdown(index=False, colalign=alignment, disable_numparse=True), table.caption]
    parts += ["\n".join(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n\n".join(parts) + "\n"


def latex(table: Table) -> str:
    """Renders a `table` environment for booktabs."""

    def show(cell: Cell) -> str:
        text = cell.text.translate(_LATEX)
        text = rf"\textbf{{{text}}}" if cell.bold else text
        return rf"{text}\textsubscript{{{cell.subscript.translate(_LATEX)}}}" if cell.subscript else text

    frame = _frame(table, show).rename(columns=lambda name: name.translate(_LATEX))
    words = " ".join([f"{table.title}.", table.notice, table.caption, *table.notes]).translate(_LATEX)
    body = (
        Styler(frame)
        .hide(axis="index")
        .to_latex(
            hrules=True,
            column_format="l" * table.text_columns + "r" * (len(table.columns) - table.text_columns),
            caption=words,
            label=f"tab:{table.name}",
            position_float="centering",
            environment="table*",
        )
    )
    lines = body.splitlines()
    first = lines.index(r"\midrule") + 1
    for number, row in reversed(list(enumerate(table.rows))):
        if row.rule and number:
            lines.insert(first + number, r"\midrule")
    return "% needs \\usepackage{booktabs}\n" + "\n".join(lines) + "\n"


def html(table: Table) -> str:
    """Renders a page that stands alone."""

    def show(cell: Cell) -> str:
        text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
        return f"{text}<sub>{escape(cell.subscript)}</sub>" if cell.subscript else text

    frame = _frame(table, show)
    frame.columns = pd.RangeIndex(len(table.columns))  # headings may repeat, which Styler cannot have
    classes = pd.DataFrame("", index=frame.index, columns=frame.columns)
    rules = pd.DataFrame("", index=frame.index, columns=frame.columns)
    for number, row in enumerate(table.rows):
        if row.published:
            classes.iloc[number] = "published"
            rules.iloc[number] = "color: #666; font-style: italic;"
        if row.rule and number:
            rules.iloc[number] += "border-top: 1px solid #999;"
    left = ", ".join(f"th:nth-child({n}), td:nth-child({n})" for n in range(1, table.text_columns + 1))
    styled = Styler(frame, uuid=table.name).hide(axis="index").set_td_classes(classes)
    styled.format_index(lambda column: escape(table.columns[column]), axis="columns")
    styled.set_table_styles([*_STYLE, {"selector": left, "props": "text-align: left"}])
    return _PAGE.format(
        title=escape(table.title),
        notice=f'<p class="notice">{escape(table.notice)}</p>' if table.notice else "",
        table=styled.apply(lambda _: rules, axis=None).to_html(),
        caption=escape(table.caption),
        notes="\n".join(f"<li>{escape(note)}</li>" for note in table.notes),
    )


def csv(table: Table) -> str:
    """Renders the numbers, unrounded, one a line."""
    return pd.DataFrame(table.data).to_csv(index=False)


def _frame(table: Table, show: Callable[[Cell], str]) -> pd.DataFrame:
    return pd.DataFrame([[show(cell) for cell in row.cells] for row in table.rows], columns=table.columns)
