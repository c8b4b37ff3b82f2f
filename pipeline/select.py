"""Chooses a search's winners: `python -m pipeline.select search profile=mini`.

For each model and method, the learning rate with the best mean over the seeds (and tasks) of the search wins, or with
the best worst run where the search says `choice: worst`, among those at which no run diverged or ran out of memory; of
equal ones, the smallest. Written with the whole ranking to
`results/<profile>/search/<search>.json`, which tables and figures that are `tuned_by` the search take it from.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import files
from pipeline.cli import job
from pipeline.config.metrics import METRICS
from pipeline.config.plan import Plan
from pipeline.config.planner import parse_plan
from pipeline.errors import ConfigError, unknown
from pipeline.results import records
from pipeline.tables.stamp import changing


def select(plan: Plan, search: str) -> dict[str, Any]:
    """Returns a search's `winners` by model and method, and its `ranking`, best first.

    Raises:
        RecordError: A run's record is missing or damaged.
        ConfigError: All runs of a model and method failed.
    """
    rows = []
    for run in plan.runs_of(search):
        info = records.read(run.directory).train_info
        score = info.best.score if info.done and info.best else None
        rows.append(
            {
                "model": run.model,
                "method": run.method,
                "rank": run.rank,
                "lr": run.lr,
                "score": math.nan if score is None else score,
                "goodness": math.nan if score is None else METRICS[info.metric].sign * score,
                "failed": not info.done,
            }
        )
    goodness = {"mean": "mean", "worst": "min"}[plan.experiments[search].choice]
    groups = pd.DataFrame(rows).groupby(["model", "method", "rank", "lr"], dropna=False, sort=False)
    cells = groups.agg(
        score=("score", "mean"),
        std=("score", "std"),
        goodness=("goodness", goodness),
        runs=("score", "size"),
        failed=("failed", "sum"),
    ).reset_index()
    ranking = cells.sort_values(
        ["model", "method", "failed", "goodness", "lr"], ascending=[True] * 3 + [False, True]
    )
    winners: dict[str, dict[str, Any]] = {}
    for (model, method), ranked in ranking.groupby(["model", "method"], sort=False):
        best = ranked.iloc[0]
        if best.failed:
            raise ConfigError(
                f"conf/experiment/{search}.yaml: every learning rate of {method} on {model} has a run that failed: try "
                "smaller ones"
            )
        winners.setdefault(model, {})[method] = {"lr": best.lr, "score": best.score, "runs": int(best.runs)}
    columns = ["model", "method", "rank", "lr", "score", "std", "runs", "failed"]
    return {
        "search": search,
        "tasks": plan.experiments[search].tasks,
        "winners": winners,
        "ranking": json.loads(ranking[columns].to_json(orient="records", double_precision=15)),
    }


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.select", description=__doc__)
    parser.add_argument("search", help="a file of conf/experiment of kind search, without .yaml")
    plan, arguments = parse_plan(parser)
    if arguments.search not in plan.searches():
        raise ConfigError(unknown("search", arguments.search, plan.searches()))
    file = Path(plan.selection(arguments.search))
    chosen = select(plan, arguments.search)
    files.write_json(file, {**chosen, "overrides": changing(arguments.overrides)})
    print(file)


if __name__ == "__main__":
    main()
