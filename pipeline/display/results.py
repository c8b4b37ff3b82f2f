"""What a DAG run leaves behind, for its last lines: verdicts, and files to open."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config.plan import Plan


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
            if file.is_file() and file.stat().st_mtime >= started
        ]
        files += [f"{file}  {experiment.title}" for file in new]
        lines = list(verdicts(plan, new[0])) if new and experiment.evaluated else []
        if lines:
            found += ["", experiment.title, *(f"  {line}" for line in lines)]
    return [*found, *([""] if found and files else []), *files]


def verdicts(plan: Plan, table: Path) -> Iterator[str]:
    """Yields the verdicts among the notes under a table in Markdown."""
    candidate = plan.methods.get(plan.statistics.candidate, {}).get("label")
    for line in table.read_text().splitlines():
        if line.startswith("- ") and f"{candidate} − " in line:
            yield line.removeprefix("- ")
