"""Shows finished tables in the terminal, with their verdicts and files.

python -m pipeline.show table2                 one table of the mini profile
python -m pipeline.show table2 profile=paper   of another
python -m pipeline.show tables                 those there are of a target: tables, figures, rebuttal, questions, all

It shows what is there: `python -m pipeline.status` says whether more is to be done.
"""

import sys
from pathlib import Path

from rich.console import Console

from pipeline.cli import command_line, job
from pipeline.config.plan import Plan
from pipeline.config.planner import plan_of_arguments
from pipeline.config.targets import TARGETS, experiments_of
from pipeline.display.tables import rendered
from pipeline.errors import ConfigError, RecordError, unknown
from pipeline.tables.stamp import changing, has_runs, refuse_other

WIDTH = 160  # where there is no terminal


def files_of(plan: Plan, name: str) -> dict[str, Path]:
    """Returns the files of a table, or of those of a target that are there, by experiment.

    Raises:
        ConfigError: There is no such table or target.
        RecordError: None of them has been made.
    """
    known = plan.tables()
    if name not in (*TARGETS, *known):
        raise ConfigError(unknown("table", name, [*TARGETS, *known]))
    wanted = [one for one in experiments_of(plan, name) if one in known] if name in TARGETS else [name]
    files = {one: Path(plan.profile.results, "tables", f"{one}.md") for one in wanted}
    found = {one: file for one, file in files.items() if file.is_file()}
    if not found:
        profile = plan.profile.name
        raise RecordError(
            f"{name} of profile {profile} has not been made: `python -m pipeline.status {name} profile={profile}` "
            f"says how far it is, `make tables PROFILE={profile}` makes the tables"
        )
    return found


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.show", __doc__)
    parser.add_argument("name", metavar="TABLE", help=f"a table, or a target: {', '.join(TARGETS)}")
    parser.add_argument("overrides", nargs="*", help="profile=NAME, and more Hydra overrides for every run")
    arguments = parser.parse_args()
    plan = plan_of_arguments(arguments.overrides)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for name, file in files_of(plan, arguments.name).items():
        if changing(arguments.overrides) and has_runs(plan, name):
            refuse_other(file, arguments.overrides)
        console.print(rendered(file, plan.experiments[name].title))


if __name__ == "__main__":
    main()
