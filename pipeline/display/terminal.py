"""Lines that stay, above progress lines that move; without a terminal, plain lines alone."""

import os
import sys
import threading
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.display.tally import Line
from pipeline.status import spell_time

STDERR = 2


def is_terminal() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    return os.isatty(STDERR) and os.environ.get("TERM", "dumb") != "dumb"


class Plain:
    """Lines, one after the other."""

    moves = False

    def print(self, text: str, style: str | None = None) -> None:
        """Prints a line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Has nothing to put back."""


class Terminal:
    """Progress lines at the bottom of a terminal.

    What jobs print would run into them. So standard error, theirs too, goes through a pipe while they stand.

    Args:
        lines: Returns them.
    """

    moves = True

    def __init__(self, lines: Callable[[], list[Line]]) -> None:
        sys.stderr.flush()
        self._screen = os.dup(STDERR)
        self._console = Console(
            file=os.fdopen(os.dup(self._screen), "w"), force_terminal=True, highlight=False
        )
        self._lines = lines
        read_end, write_end = os.pipe()
        os.dup2(write_end, STDERR)
        os.close(write_end)
        self._reader = threading.Thread(target=self._pass_on, args=(read_end,), daemon=True)
        self._reader.start()
        options = {"redirect_stdout": False, "redirect_stderr": False, "refresh_per_second": 2}
        self._live = Live(console=self._console, get_renderable=self._render, **options)  # type: ignore[arg-type]
        self._live.start()

    def print(self, text: str, style: str | None = None) -> None:
        """Prints a line above the progress lines."""
        self._console.print(Text(text, style=style or ""), soft_wrap=True)

    def close(self) -> None:
        """Takes the progress lines away, and gives standard error back."""
        sys.stderr.flush()
        os.dup2(self._screen, STDERR)
        self._reader.join(timeout=2)  # whoever holds the pipe still has his last words printed
        self._live.stop()

    def _pass_on(self, read_end: int) -> None:
        with os.fdopen(read_end, errors="replace") as stream:
            for line in stream:
                self.print(line.rstrip("\n"))

    def _render(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        for _ in range(4):
            grid.add_column(no_wrap=True)
        for line in self._lines():
            time = "" if line.done >= line.total or not line.unit else _left(line)
            bar = ProgressBar(total=max(line.total, 1), completed=line.done, width=24)
            grid.add_row(line.title, bar, f"{line.done}/{line.total}", time)
        return Group(Text(""), grid)


def _left(line: Line) -> str:
    return f"{spell_time(line.seconds)} left" if line.seconds is not None else "time unknown yet"


def spelled(line: Line) -> str:
    """Returns a line in words: Table 2: 42 of 96 runs, 12 min 10 s left."""
    name = line.title if len(line.title) < 40 else line.title.split(":")[0]
    left = f", {_left(line)}" if line.unit and line.done < line.total else ""
    return f"{name}: {line.done} of {line.total}{f' {line.unit}' * bool(line.unit)}{left}"
