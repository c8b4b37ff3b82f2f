"""Judges the numbers of finished tables: `python -m pipeline.check profile=mini`.

Prints each number beside the bar of its table (`bar` in conf/experiment/), and exits with 1 if one is not sane: a
trained method that is not above what needs no training, seeds that deviate by too much, a row that learnt nothing. What
rests on one seed, and profiles whose numbers mean nothing by design, cannot be judged and do not fail.
"""

import math
import sys
from collections.abc import Iterable

import pandas as pd

from pipeline.cli import command_line, job
from pipeline.config.plan import Plan
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError
from pipeline.tables import outcomes, sanity
from pipeline.tables.sanity import Finding


def judged(plan: Plan, only: Iterable[str] = ()) -> dict[str, list[Finding]]:
    """Judges the tables that have a bar, by name.

    Args:
        plan: The profile's.
        only: The tables to judge; all that there are by default.

    Raises:
        ConfigError: One of `only` has no bar.
        RecordError: A run of a table is not finished, or its record is damaged.
    """
    tables = [name for name, experiment in plan.experiments.items() if experiment.bar]
    if unknown := sorted(set(only) - set(tables)):
        raise ConfigError(
            f"no table with a bar is called {', '.join(unknown)}; there is {', '.join(tables) or 'none'}"
        )
    return {name: sanity.judge(plan, name, outcomes.read(plan, name)) for name in (list(only) or tables)}


def report(plan: Plan, findings: dict[str, list[Finding]]) -> str:
    """Returns every number beside its bar, one a line, as a Markdown table."""
    lines = [_line(plan, name, finding) for name, found in findings.items() for finding in found]
    columns = ["Cell", "Value", "Bar", "Verdict"]
    frame = pd.DataFrame(lines, columns=columns)
    return frame.to_markdown(index=False, disable_numparse=True, colalign=("left", "right", "right", "left"))


def _line(plan: Plan, name: str, finding: Finding) -> list[str]:
    row = f"{plan.models[finding.model]['short']} ({plan.methods[finding.method]['label']})"
    task = plan.tasks.get(finding.column, {}).get("label", finding.column)
    value, bar = _number(finding.mean), f"≥ {_number(finding.least)}"
    if finding.column == sanity.ROW:
        value, bar = f"{value} over majority, median", f"{bar}"
    elif not math.isnan(finding.most):
        value, bar = f"{value} ± {_number(finding.deviation)}", f"{bar} ± {_number(finding.most)}"
    title = plan.experiments[name].title.split(":")[0]
    return [f"{title}, {row}, {task}", value, bar, finding.verdict]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}".replace("-", "−")


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.check", __doc__)
    parser.add_argument(
        "--table", action="append", default=[], help="judge this table alone; may be repeated"
    )
    plan, arguments = parse_plan(parser)
    findings = judged(plan, arguments.table)
    print(report(plan, findings))
    everything = [finding for found in findings.values() for finding in found]
    insane = sum(not finding.sane for finding in everything)
    unjudged = sum(bool(finding.unjudged) for finding in everything)
    print(f"{len(everything)} numbers: {insane} not ok, {unjudged} cannot be judged")
    if insane:
        sys.exit(1)


if __name__ == "__main__":
    main()
