"""Chooses a search's winners: `python -m pipeline.select search profile=mini`.

For each model and method, the learning rate with the best mean over the seeds (and tasks) of the search wins, or with
the best worst run where the search says `choice: worst`, among those at which no run diverged or ran out of memory; of
equal ones, the smallest. Written with the whole ranking to
`results/<profile>/search/<search>.json`, which tables and figures that are `tuned_by` the search take it from.

With `--promote`, it chooses what a search by successive halving makes in full, by the same ranking of its first rung,
the runs that are made in part: the best `halving.keep` of each model and method, and what equals the last of these.
Written to `results/<profile>/search/<search>.promoted.json`.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import files
from pipeline.cli import job
from pipeline.config.metrics import METRICS
from pipeline.config.plan import Plan, PlannedRun
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
    ranking = _ranking(plan, search, plan.runs_of(search))
    winners: dict[str, dict[str, Any]] = {}
    for model, method, ranked in _contenders(ranking, search):
        best = ranked.iloc[0]
        winners.setdefault(model, {})[method] = {"lr": best.lr, "score": best.score, "runs": int(best.runs)}
    return _described(plan, search, ranking, winners=winners)


def promote(plan: Plan, search: str) -> dict[str, Any]:
    """Returns the learning rates that a search makes in full, `promoted` by model and method, and its first `ranking`.

    Raises:
        RecordError: A record of its first rung is missing or damaged.
        ConfigError: The search makes all of its runs in full, or all runs of a model and method failed.
    """
    halving = plan.experiments[search].halving
    if halving is None:
        raise ConfigError(
            f"conf/experiment/{search}.yaml: halving: none is set, so that all runs are made in full"
        )
    ranking = _ranking(plan, search, plan.first_rung(search))
    promoted: dict[str, dict[str, list[float]]] = {}
    for model, method, ranked in _contenders(ranking, search):
        best = ranked[ranked.failed == 0].nlargest(halving.keep, "goodness", keep="all")
        promoted.setdefault(model, {})[method] = sorted(best.lr)
    return _described(plan, search, ranking, promoted=promoted)


def _ranking(plan: Plan, search: str, runs: list[PlannedRun]) -> pd.DataFrame:
    """Returns a line for each learning rate of a model and method, the best of these first."""
    rows = []
    for run in runs:
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
    return cells.sort_values(
        ["model", "method", "failed", "goodness", "lr"], ascending=[True] * 3 + [False, True]
    )


def _contenders(ranking: pd.DataFrame, search: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yields each model and method with its lines of a ranking.

    Raises:
        ConfigError: All runs of a model and method failed.
    """
    for (model, method), ranked in ranking.groupby(["model", "method"], sort=False):
        if ranked.iloc[0].failed:
            raise ConfigError(
                f"conf/experiment/{search}.yaml: every learning rate of {method} on {model} has a run that failed: try "
                "smaller ones"
            )
        yield str(model), str(method), ranked


def _described(plan: Plan, search: str, ranking: pd.DataFrame, **chosen: dict[str, Any]) -> dict[str, Any]:
    columns = ["model", "method", "rank", "lr", "score", "std", "runs", "failed"]
    return {
        "search": search,
        "tasks": plan.experiments[search].tasks,
        **chosen,
        "ranking": json.loads(ranking[columns].to_json(orient="records", double_precision=15)),
    }


@job
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.select", description=__doc__)
    parser.add_argument("search", help="a file of conf/experiment of kind search, without .yaml")
    parser.add_argument(
        "--promote", action="store_true", help="choose what is made in full, by the first rung"
    )
    plan, arguments = parse_plan(parser)
    if arguments.search not in plan.searches():
        raise ConfigError(unknown("search", arguments.search, plan.searches()))
    choose, place = (promote, plan.promotion) if arguments.promote else (select, plan.selection)
    file = Path(place(arguments.search))
    chosen = choose(plan, arguments.search)
    files.write_json(file, {**chosen, "overrides": changing(arguments.overrides)})
    print(file)


if __name__ == "__main__":
    main()
