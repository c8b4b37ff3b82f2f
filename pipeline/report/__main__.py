"""Judges the paper's claims by the tables and figures that are there: `python -m pipeline.report profile=mini`.

Writes to results/<profile>/report/: claims.* and runs.* (Markdown, LaTeX, CSV, HTML), and report.json, which the
templates of Snakemake's report read. What is missing is "not made"; what was made with other overrides is refused.
`make report` puts all of it in one HTML file.
"""

from pathlib import Path

from pipeline.cli import command_line, job
from pipeline.config.planner import parse_plan
from pipeline.files import write_json


@job
def main() -> None:
    """Runs the command line."""
    plan, arguments = parse_plan(command_line("pipeline.report", __doc__))
    from pipeline.report import overview, runs
    from pipeline.tables import render
    from pipeline.tables.stamp import described, refuse_mix, stamped

    refuse_mix(plan, arguments.overrides)
    folder = Path(plan.profile.results, "report")
    finished = runs.read(plan)
    facts = overview.facts(plan, finished)
    claims = stamped(overview.table(facts), described(plan, arguments.overrides))
    files = [*render.write(claims, folder), *render.write(runs.table(finished), folder)]
    files.append(folder / "report.json")
    write_json(files[-1], facts)
    for file in files:
        print(file)


if __name__ == "__main__":
    main()
