"""A finished table in a terminal, read from its Markdown."""

import re
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

# The outcome of a comparison, as pipeline.comparison words it, and its colour; the first that is found counts.
OUTCOMES = {"inconclusive": "yellow", "not inferior": "green", "inferior": "red", "superior": "green"}
MARKUP = re.compile(r"\*\*(?P<best>.+?)\*\*|<sub>(?P<deviation>.+?)</sub>|\*(?P<published>.+)\*")
STYLES = {"best": "bold green", "deviation": "dim", "published": "italic"}


def rendered(file: Path, title: str) -> RenderableType:
    """Returns a table with what stands above and below it.

    Args:
        file: As `pipeline.tables.render` has written it.
        title: Of the table.
    """
    lines = file.read_text().splitlines()
    grid = [_cells(line) for line in lines if line.startswith("|")]
    view = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold")
    for heading, rule in zip(grid[0], grid[1], strict=True):
        view.add_column(Text(heading), justify="right" if rule.endswith(":") else "left")
    for row in grid[2:]:
        published = re.fullmatch(r"\*[^*].*\*", row[0])
        view.add_row(*map(_text, row), style="dim" if published else None)
    notices = [Text(line.removeprefix("> "), "bold yellow") for line in lines if line.startswith("> ")]
    words = [line for line in lines if line and not line.startswith(("#", ">", "|"))]
    return Group(*notices, view, *map(_note, words), Text(str(file), "cyan"), Text())


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _text(cell: str) -> Text:
    """Returns a cell: the best in a column, deviations and the paper's rows each in their style."""
    text, end = Text(), 0
    for match in MARKUP.finditer(cell):
        text.append(cell[end : match.start()])
        kind = str(match.lastgroup)
        text.append(("±" if kind == "deviation" else "") + match[kind], STYLES[kind])
        end = match.end()
    return text.append(cell[end:])


def _note(line: str) -> Text:
    found = next((style for word, style in OUTCOMES.items() if word in line), "")
    return Text(line, found if line.startswith("- ") else "dim")
