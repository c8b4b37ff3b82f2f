"""A table as LaTeX: booktabs, no wider or higher than the page, with its notes below it."""

import re

from pipeline.tables.table import Cell, Row, Table

PACKAGES = ("booktabs", "adjustbox", "array")
LONG = 36  # characters; a column with longer cells is set as sentences
WIDTH = "16em"  # of such a column
ROWS = 45  # on a page; a table with more goes on in another float
_GREEK = {"α": "alpha", "β": "beta", "η": "eta", "λ": "lambda", "ρ": "rho", "χ": "chi", "Δ": "Delta"}
_SIGNS = {
    "−": "-",
    "→": r"\to",
    "≤": r"\leq",
    "≥": r"\geq",
    "≈": r"\approx",
    "<": "<",
    ">": ">",
    "|": r"\vert",
}
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789", strict=True))
_ESCAPES = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%#_${}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{letter: rf"$\{name}$" for letter, name in _GREEK.items()},
        **{sign: f"${text}$" for sign, text in _SIGNS.items()},
        **{digit: rf"\textsuperscript{{{text}}}" for digit, text in _SUPERSCRIPTS.items()},
    }
)


def latex(table: Table) -> str:
    """Renders one `table*` or, of many rows, several; for pdflatex and for XeLaTeX."""
    pages = [table.rows[start : start + ROWS] for start in range(0, len(table.rows), ROWS)] or [[]]
    floats = [_float(table, rows, number, number == len(pages) - 1) for number, rows in enumerate(pages)]
    return "\n".join([f"% needs \\usepackage{{{','.join(PACKAGES)}}}", *floats]) + "\n"


def escaped(text: str) -> str:
    """Returns text as LaTeX; what is between backticks in a typewriter's letters."""
    return re.sub(r"`([^`]+)`", r"\\texttt{\1}", text.translate(_ESCAPES))


def _float(table: Table, rows: list[Row], number: int, last: bool) -> str:
    caption = " ".join(filter(None, [f"{table.title}.", table.caption]))
    caption = f"{table.title}, continued." if number else caption
    notes = [escaped(text) for text in (table.notice, *table.notes) if text] if last else []
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            *([] if number else [rf"\label{{tab:{table.name}}}"]),
            r"\begin{adjustbox}{max width=\linewidth,max totalheight=.7\textheight}",
            rf"\begin{{tabular}}{{{''.join(_columns(table))}}}",
            r"\toprule",
            _line([escaped(name) for name in table.columns]),
            r"\midrule",
            *(line for at, row in enumerate(rows) for line in _row(row, ruled=at > 0)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
            *(
                [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\scriptsize {' '.join(notes)}}}"]
                if notes
                else []
            ),
            r"\end{table*}",
        ]
    )


def _columns(table: Table) -> list[str]:
    """Returns the columns' formats: words to the left, numbers to the right, sentences in lines."""
    found = []
    for number in range(len(table.columns)):
        longest = max((len(row.cells[number].text) for row in table.rows), default=0)
        plain = "l" if number < table.text_columns else "r"
        found.append(rf">{{\raggedright\arraybackslash}}p{{{WIDTH}}}" if longest > LONG else plain)
    return found


def _row(row: Row, ruled: bool) -> list[str]:
    cells = [_cell(cell) for cell in row.cells]
    cells = [rf"\textit{{{text}}}" for text in cells] if row.published else cells
    return [*([r"\midrule"] if row.rule and ruled else []), _line(cells)]


def _line(cells: list[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _cell(cell: Cell) -> str:
    text = escaped(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return rf"{text}\textsubscript{{{escaped(cell.subscript)}}}" if cell.subscript else text
