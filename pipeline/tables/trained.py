"""Runs that are judged by training's own record: the best validation score, the time to it and the memory for it."""

import pandas as pd

from pipeline.config.metrics import METRICS
from pipeline.config.plan import Plan
from pipeline.results import records
from pipeline.tables import outcomes

BENCHMARK = "macro"  # what comparisons by a benchmark are made by, of `config.metrics.BENCHMARKS`


def read(plan: Plan, name: str) -> pd.DataFrame:
    """Reads an experiment's runs, one row each, as `outcomes.read` does.

    Returns:
        Its columns, `rank` and `lr` as numbers, with `score` (the best validation score or, where runs have one, that
        of a benchmark, in the metric's unit; missing where a run did not finish), `memory` (bytes that its training
        step keeps) and `info` (its `train_info`).

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    results = outcomes.read(plan, name)
    for key in ("rank", "lr"):
        results[key] = pd.to_numeric(results[key])
    results["info"] = [records.read(folder).train_info for folder in results.directory]
    results["score"] = pd.Series([score(info) for info in results["info"]], dtype=float)
    if results.scores.map(lambda scores: BENCHMARK in scores).any():
        results["metric"] = BENCHMARK
        results["score"] = pd.Series([scores.get(BENCHMARK) for scores in results.scores], dtype=float)
    results["memory"] = pd.Series([info.step_memory_bytes for info in results["info"]], dtype=float)
    return results


def score(info: records.TrainInfo) -> float | None:
    """Returns a finished run's best validation score, or None."""
    if not info.done or info.best is None or info.best.score is None:
        return None
    return METRICS[info.metric].points(info.best.score)
