"""A table as Markdown, LaTeX (booktabs), CSV and HTML."""

import os
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from pipeline.config.paths import RECORD
from pipeline.files import write_text
from pipeline.tables.latex import LONG, latex
from pipeline.tables.table import Cell, Table

_STYLE = [
    {"selector": "", "props": "border-collapse: collapse; font-variant-numeric: tabular-nums"},
    {"selector": "th, td", "props": "padding: .25em .7em; text-align: right; white-space: nowrap"},
    {"selector": "thead th", "props": "border-top: 2px solid; border-bottom: 1px solid"},
    {"selector": "tbody tr:last-child td", "props": "border-bottom: 2px solid"},
    {"selector": "sub", "props": "font-size: .7em"},
]
_SENTENCE = "text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: min(20em, 60vw)"
_CONTROLS = Path(__file__).with_name("controls.html")
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }}
.table {{ overflow-x: auto }}
.notice {{ background: #fff3cd; color: #000; padding: .6em 1em; border-left: 4px solid #d39e00 }}
:root {{ --soft: #595959; --rule: #999; background: Canvas; color: CanvasText }}
@media (prefers-color-scheme: dark) {{ :root {{ --soft: #b0b0b0; --rule: #666 }} }}
.table a {{ color: inherit; text-decoration-color: #999; text-underline-offset: .2em }}
.runs code {{ overflow-wrap: anywhere }}
.runs h3 {{ font-size: 1em; margin-bottom: 0 }}
.runs :target {{ outline: 2px solid #d39e00 }}
</style>
<main>
<h1>{title}</h1>
{notice}
{controls}
<div class="table" tabindex="0" role="region" aria-label="{title}">
{table}
</div>
<p>{caption}</p>
<ul>
{notes}
</ul>
{runs}
</main>
</html>
"""


def write(table: Table, folder: Path) -> list[Path]:
    """Writes the table in every format and returns the files."""
    formats = {"md": markdown, "tex": latex, "csv": csv, "html": html}
    table = replace(table, runs=_from(folder, table.runs))
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


def html(table: Table) -> str:
    """Renders a page that stands alone; a number links to the runs that it is of."""
    places = {runs: f"runs-{n}" for n, runs in enumerate(_linked(table))}

    def show(cell: Cell) -> str:
        text = f"<b>{escape(cell.text)}</b>" if cell.bold else escape(cell.text)
        text = f'<a href="#{places[cell.runs]}">{text}</a>' if cell.runs in places else text
        return f"{text}<sub>{escape(cell.subscript)}</sub>" if cell.subscript else text

    frame = _frame(table, show)
    frame.columns = pd.RangeIndex(len(table.columns))  # headings may repeat, which Styler cannot have
    classes = pd.DataFrame("", index=frame.index, columns=frame.columns)
    rules = pd.DataFrame("", index=frame.index, columns=frame.columns)
    for number, row in enumerate(table.rows):
        if row.published:
            classes.iloc[number] = "published"
            rules.iloc[number] = "color: var(--soft); font-style: italic;"
        if row.rule and number:
            rules.iloc[number] += "border-top: 1px solid var(--rule);"
    left = ", ".join(f"th:nth-child({n}), td:nth-child({n})" for n in range(1, table.text_columns + 1))
    styled = Styler(frame, uuid=table.name).hide(axis="index").set_td_classes(classes)
    styled.format_index(lambda column: escape(table.columns[column]), axis="columns")
    styles = [*_STYLE, {"selector": left, "props": "text-align: left"}]
    styled.set_table_styles(
        [*styles, *({"selector": f"td:nth-child({n})", "props": _SENTENCE} for n in _sentences(table))]
    )
    return _PAGE.format(
        title=escape(table.title),
        controls=_CONTROLS.read_text() if table.interactive else "",
        notice=f'<p class="notice">{escape(table.notice)}</p>' if table.notice else "",
        table=styled.apply(lambda _: rules, axis=None).to_html(),
        caption=escape(table.caption),
        notes="\n".join(f"<li>{escape(note)}</li>" for note in table.notes),
        runs=_runs(table, places),
    )


def _sentences(table: Table) -> list[int]:
    """Returns the numbers, from 1, of the columns whose cells are set in several lines."""
    longest = [
        max(len(row.cells[n].text) for row in table.rows) for n in range(len(table.columns)) if table.rows
    ]
    return [number for number, length in enumerate(longest, 1) if length > LONG]


def csv(table: Table) -> str:
    """Renders the numbers, unrounded, one a line."""
    return pd.DataFrame(table.data).to_csv(index=False)


def _linked(table: Table) -> dict[tuple[str, ...], str]:
    """Returns the sets of runs that cells are of, each with the row and column of the first such cell."""
    found: dict[tuple[str, ...], str] = {}
    for row in table.rows:
        for cell, column in zip(row.cells, table.columns, strict=True):
            if cell.runs and set(cell.runs) <= set(table.runs):
                found.setdefault(cell.runs, f"{row.cells[0].text}, {column}")
    return found


def _runs(table: Table, places: dict[tuple[str, ...], str]) -> str:
    """Returns the part of a page that says what made the runs."""
    parts = []
    for runs, heading in _linked(table).items():
        items = [f"<li>{_origin(table.runs[run])}</li>" for run in runs]
        parts.append(
            f'<section id="{places[runs]}"><h3>{escape(heading)}</h3><ul>{"".join(items)}</ul></section>'
        )
    return "\n".join(['<div class="runs"><h2>Runs</h2>', *parts, "</div>"]) if parts else ""


def _origin(facts: dict[str, str]) -> str:
    hashes = "; ".join(
        f"{name} {value}" for name, value in facts.items() if name not in ("command", "record")
    )
    words = f"<code>{escape(facts['command'])}</code><br>{escape(hashes)}"
    return f'{words}; <a href="{escape(facts["record"])}">record</a>' if "record" in facts else words


def _from(folder: Path, runs: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Returns the runs with where their records are, as seen from a folder."""
    return {
        run: {**facts, "record": os.path.relpath(Path(run, RECORD), folder)} for run, facts in runs.items()
    }


def _frame(table: Table, show: Callable[[Cell], str]) -> pd.DataFrame:
    return pd.DataFrame([[show(cell) for cell in row.cells] for row in table.rows], columns=table.columns)
