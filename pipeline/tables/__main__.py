"""Writes a table from the records of its runs: `python -m pipeline.tables table2 profile=mini`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from pipeline.dag import Plan, parse_plan
from pipeline.errors import ConfigError
from pipeline.job import job
from pipeline.tables import (
    comparison,
    glue,
    memory,
    mmlu,
    natural_instructions,
    render,
    search,
    sensitivity,
    translation,
    verdicts,
)
from pipeline.tables.table import Table

BUILDERS: dict[str, Callable[[Plan, str], Table]] = {
    "glue": glue.build,
    "translation": translation.build,
    "mmlu": mmlu.build,
    "natural-instructions": natural_instructions.build,
    "search": search.build,
    "sensitivity": sensitivity.build,
    "comparison": comparison.build,
    "verdicts": verdicts.build,
    "memory": memory.build,
    "breakdown": memory.build_breakdown,
    "complexity": memory.build_complexity,
    "parameters": memory.build_parameters,
    "throughput": memory.build_throughput,
}


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.tables", description=__doc__)
    parser.add_argument("table", help="a file of conf/experiment, without .yaml")
    plan, arguments = parse_plan(parser)
    if arguments.table not in plan.experiments:
        raise ConfigError(f"no table '{arguments.table}'; there is {', '.join(plan.experiments)}")
    table = BUILDERS[plan.experiments[arguments.table].kind](plan, arguments.table)
    for file in render.write(table, Path(plan.profile.results, "tables")):
        print(file)


if __name__ == "__main__":
    main()
