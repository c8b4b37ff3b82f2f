"""A table before it has a format."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """What a reader sees in one place: a number with its standard deviation, or a word; `runs` are what it is of."""

    text: str
    subscript: str = ""
    bold: bool = False
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of a table; `published` marks the paper's own numbers, `rule` a line above the row."""

    cells: list[Cell]
    published: bool = False
    rule: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its words.

    Attributes:
        name: File name without an ending.
        title: One line.
        notice: What a reader must know before the first number, such as what is a stand-in; may be empty.
        caption: What the rows and columns are.
        columns: Headings.
        rows: As many cells each as there are columns.
        notes: Footnotes.
        data: The numbers unrounded, one dictionary each, for the CSV file.
        runs: What made the runs behind the cells, by directory: `command`, `commit` and hashes.
        text_columns: How many columns, from the first, are words and not numbers.
        interactive: Whether a reader of the HTML page can sort its rows and filter them.
    """

    name: str
    title: str
    notice: str
    caption: str
    columns: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    data: list[dict[str, object]] = field(default_factory=list)
    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    text_columns: int = 1
    interactive: bool = False
