"""Writes a page's tables and numbers from those of a profile: `python -m pipeline.readme profile=mini`.

The page is README.md; by `--page docs/questions.md` that of our questions, with its figures in docs/questions/; or by
`--page docs/memory.md` that of the estimates.

What it writes stands between `<!-- name -->` and `<!-- /name -->`, and nobody types there: the tables that the DAG has
made, the verdicts under them, and what the runs ran on. The words around are the page's own.
"""

import io
import json
import re
from pathlib import Path

import pandas as pd

from pipeline import export, files
from pipeline.cli import command_line, job
from pipeline.config.plan import Plan
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError, RecordError
from pipeline.results import records
from pipeline.tables.sanity import MARK
from pipeline.tables.stamp import refuse_mix

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
QUESTIONS, MEMORY = "questions.md", "memory.md"
ESTIMATED = ("what_fits", "figure3", "rebuttal_lengths", "table5")
SHOWN = ("roberta-large", "llama-7b")  # of Table 5's models
TRAINED = ("table2", "table3", "table4")
NOT_MADE = "*Not made yet: `make questions` makes it.*"


def blocks(plan: Plan) -> dict[str, str]:
    """Returns what stands between each pair of comments, from the profile's finished tables and records.

    Raises:
        ConfigError: The profile's numbers mean nothing.
        RecordError: A table or a record is missing or damaged.
    """
    results = _results(plan)
    verdicts = pd.read_csv(io.StringIO(_read(results / "tables/verdicts.csv")))
    found = {name: _trained(results, verdicts, name) for name in TRAINED}
    grid, _ = _table(results, "table5")
    rows = [line for line in grid[2:] if line.split("|")[1].strip() in SHOWN]
    directories = [Path(run.directory) for name in TRAINED for run in plan.runs_of(name)]
    return found | {"table5": "\n".join([*grid[:2], *rows]), "runs": _runs(_exported(results, directories))}


def answers(plan: Plan) -> dict[str, str]:
    """Returns what stands between each pair of comments on the page of our questions, as far as it is made.

    Raises:
        ConfigError: The profile's numbers mean nothing.
    """
    results = _results(plan)
    names = [name for name, one in plan.experiments.items() if one.section == "questions"]
    found = {name: _answer(results, name) for name in names}
    directories = [Path(run.directory) for name in names for run in plan.expected(name)]
    made = [path for path in directories if (path / records.NAME).is_file()]
    return found | {"runs": _runs(_exported(results, made)) if made else NOT_MADE}


def estimates(plan: Plan) -> dict[str, str]:
    """Returns what stands between each pair of comments on the page of memory.

    Raises:
        ConfigError: The profile's numbers mean nothing.
        RecordError: A table is missing.
    """
    results = _results(plan)
    return {name: "\n".join(_table(results, name)[0]) for name in ESTIMATED}


def _results(plan: Plan) -> Path:
    """Returns the folder of a profile's results, if its numbers mean anything."""
    if not plan.profile.judged:
        raise ConfigError(f"the numbers of profile {plan.profile.name} mean nothing: they are not for a page")
    return Path(plan.profile.results)


def _answer(results: Path, name: str) -> str:
    """Returns a question's table, below the verdicts on its pairs."""
    if not (results / f"tables/{name}.md").is_file():
        return NOT_MADE
    grid, _ = _table(results, name)
    data = pd.read_csv(results / f"tables/{name}.csv")
    said = data.text.dropna().tolist() if "text" in data else []
    return "\n\n".join(part for part in ("\n".join(grid), "\n".join(f"- {text}" for text in said)) if part)


def copy_figures(plan: Plan, folder: Path) -> None:
    """Puts the figures of our questions beside their page, as far as they are made."""
    for name, experiment in plan.experiments.items():
        figure = Path(plan.profile.results, f"figures/{name}.svg")
        if experiment.section == "questions" and figure.is_file():
            files.write_bytes(folder / figure.name, figure.read_bytes())


def fill(page: str, found: dict[str, str]) -> str:
    """Returns a page with other blocks.

    Raises:
        ConfigError: It has not exactly one place for a block.
    """
    for name, text in found.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        place = re.compile(f"(?<={re.escape(start)}).*?(?={re.escape(end)})", re.DOTALL)
        if len(place.findall(page)) != 1:
            raise ConfigError(f"the page needs one block between {start.strip()} and {end}")
        page = f"{text}\n".join(place.split(page))
    return page


def _trained(results: Path, verdicts: pd.DataFrame, name: str) -> str:
    """Returns a table of runs, below the verdicts that stand under it, with the notes on its marks."""
    grid, notes = _table(results, name)
    of_table = verdicts[verdicts.table == name]
    firsts = of_table.groupby(["model", "reference"], sort=False).head(1)  # the average, where there is one
    several = firsts.model.nunique() > 1
    lines = [
        f"- {model}: {text}" if several else f"- {text}"
        for model, text in zip(firsts.model, firsts.text, strict=True)
    ]
    marks = [note for note in notes if note.startswith((MARK, "†"))]
    return "\n\n".join(part for part in ("\n".join(lines), "\n".join(grid), *marks) if part)


def _table(results: Path, name: str) -> tuple[list[str], list[str]]:
    """Returns the lines of a finished table and its notes."""
    lines = _read(results / f"tables/{name}.md").splitlines()
    grid = [line for line in lines if line.startswith("|")]
    return grid, [line.removeprefix("- ") for line in lines if line.startswith("- ")]


def _exported(results: Path, directories: list[Path]) -> pd.DataFrame:
    """Returns the rows of some runs in the table of all."""
    runs = export.read(results)
    return runs[runs.run.isin([path.relative_to(results / "runs").as_posix() for path in directories])]


def _runs(runs: pd.DataFrame) -> str:
    """Returns one sentence on what the numbers rest on: runs, seeds, machine, precision and time."""
    machines = []
    for machine in runs[["processor", "cores", "gpus"]].drop_duplicates().itertuples():
        machines.append(
            ", ".join([f"{machine.cores} cores ({machine.processor})", *json.loads(machine.gpus)])
        )
    dtypes = runs.groupby("model").frozen_dtype.unique().explode().dropna()
    by_dtype = {dtype: ", ".join(models.index) for dtype, models in dtypes.groupby(dtypes)}
    precision = " and ".join(f"{dtype} ({models})" for dtype, models in by_dtype.items())
    hours = (runs.wall_time_seconds.sum() + runs.evaluation_wall_time_seconds.sum()) / 3600
    parts = [
        f"{len(runs)} runs on {' and '.join(machines)}",
        f"frozen weights in {precision}" if precision else "",
        f"{hours:.1f} hours of training and scoring, the runs' times added up",
    ]
    return f"*These numbers rest on {'; '.join(part for part in parts if part)}.*"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise RecordError(
            f"{path} does not exist: make the tables first (make tables, or make all)"
        ) from error


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.readme", __doc__)
    parser.add_argument("--page", type=Path, default=PAGE, help="the file to write to; README.md by default")
    plan, arguments = parse_plan(parser)
    refuse_mix(plan, [])  # a page's numbers are the profile's own
    old = _read(arguments.page)
    found = {QUESTIONS: answers, MEMORY: estimates}.get(arguments.page.name, blocks)
    new = fill(old, found(plan))
    if found is answers:
        copy_figures(plan, arguments.page.with_suffix(""))
    if new != old:
        files.write_text(arguments.page, new)
    print(f"{arguments.page}: {'written' if new != old else 'as it was'}")


if __name__ == "__main__":
    main()
