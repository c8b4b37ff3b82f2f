"""Writes a table from the records of its runs: `python -m pipeline.tables table2 profile=mini`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from pipeline.cli import job
from pipeline.config.experiment import KINDS
from pipeline.config.plan import Plan
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError, unknown
from pipeline.tables import outcomes, render
from pipeline.tables.stamp import refuse_selections, stamped, warning
from pipeline.tables.table import Table


def build(plan: Plan, name: str) -> Table:
    """Builds an experiment's table."""
    function: Callable[[Plan, str], Table] = resolve_name(
        f"pipeline.tables.{KINDS[plan.experiments[name].kind].table}"
    )
    return outcomes.with_runs(function(plan, name))


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tables", description=__doc__)
    parser.add_argument("table", help="a file of conf/experiment, without .yaml")
    plan, arguments = parse_plan(parser)
    if arguments.table not in plan.tables():
        raise ConfigError(unknown("table", arguments.table, plan.tables()))
    refuse_selections(plan, arguments.table, arguments.overrides)
    words = warning(plan, arguments.table, arguments.overrides)
    table = stamped(build(plan, arguments.table), words)
    for file in render.write(table, Path(plan.profile.results, "tables")):
        print(file)


if __name__ == "__main__":
    main()
