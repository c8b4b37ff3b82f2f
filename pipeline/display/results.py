"""What a DAG run leaves behind, for its last lines: tables with their verdicts, and files to open."""

import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from pipeline.config.plan import Plan
from pipeline.display.tables import rendered


def show(plan: Plan, started: float) -> None:
    """Shows the tables that were made since a moment in a terminal, and names the files; elsewhere the verdicts alone.

    Args:
        plan: The profile's plan.
        started: In seconds since the epoch.
    """
    if not sys.stdout.isatty():
        print(*made(plan, started), sep="\n")
        return
    console = Console(highlight=False)
    for name, experiment in plan.experiments.items():
        if table := _new(Path(plan.profile.results, "tables", f"{name}.md"), started):
            console.print(rendered(table, experiment.title))
        if figure := _new(Path(plan.profile.results, "figures", f"{name}.svg"), started):
            console.print(f"{figure}  {experiment.title}", style="cyan")


def made(plan: Plan, started: float) -> list[str]:
    """Returns the verdicts of the tables that were made since a moment, and the files, with what each is.

    Args:
        plan: The profile's plan.
        started: In seconds since the epoch.
    """
    found: list[str] = []
    files: list[str] = []
    for name, experiment in plan.experiments.items():
        results = Path(plan.profile.results)
        new = [
            file
            for file in (results / "tables" / f"{name}.md", results / "figures" / f"{name}.svg")
            if _new(file, started)
        ]
        files += [f"{file}  {experiment.title}" for file in new]
        lines = list(verdicts(plan, new[0])) if new and experiment.evaluated else []
        if lines:
            found += ["", experiment.title, *(f"  {line}" for line in lines)]
    return [*found, *([""] if found and files else []), *files]


def _new(file: Path, started: float) -> Path | None:
    return file if file.is_file() and file.stat().st_mtime >= started else None


def verdicts(plan: Plan, table: Path) -> Iterator[str]:
    """Yields the verdicts among the notes under a table in Markdown."""
    candidate = plan.methods.get(plan.statistics.candidate, {}).get("label")
    for line in table.read_text().splitlines():
        if line.startswith("- ") and f"{candidate} − " in line:
            yield line.removeprefix("- ")
