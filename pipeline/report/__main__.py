"""Judges the paper's claims by the tables and figures that are there: `python -m pipeline.report profile=mini`.

Writes to results/<profile>/report/: claims.* and runs.* (Markdown, LaTeX, CSV, HTML), and report.json, which the
templates of Snakemake's report read. What is missing is "not made". `make report` puts all of it in one HTML file.
"""

import argparse
import json
from pathlib import Path

from pipeline import records
from pipeline.dag import plan_of_arguments
from pipeline.job import job
from pipeline.report import overview, runs
from pipeline.tables import render


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="profile=NAME, and more Hydra overrides for every run")
    plan = plan_of_arguments(parser.parse_args().overrides)
    folder = Path(plan.profile.results, "report")
    finished = runs.read(plan)
    facts = overview.facts(plan, finished)
    files = [*render.write(overview.table(facts), folder), *render.write(runs.table(finished), folder)]
    files.append(folder / "report.json")
    records.write_text(files[-1], json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    for file in files:
        print(file)


if __name__ == "__main__":
    main()
