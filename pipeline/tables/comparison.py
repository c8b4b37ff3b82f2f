"""The reviewers' comparisons: one row a setting, with its parameters, the memory of a step and its scores."""

import pandas as pd

from pipeline.config.metrics import BENCHMARKS, METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.tables import outcomes, trained
from pipeline.tables.table import Cell, Row, Table

MIB = 2**20
KNOWN = METRICS | BENCHMARKS
HEADINGS = {"rank": "Rank", "alpha": "α"}
REPLIES = {
    "equal_parameters": ["equal parameters"],
    "equal_memory": ["attention only", "30 % of layers"],
    "equal_memory_batch": ["equal memory by batch size"],
}


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `comparison`; each setting has, for each task, the learning rate that is best for it.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    return of_results(plan, name, trained.read(plan, name))


def of_results(plan: Plan, name: str, results: pd.DataFrame) -> Table:
    """Builds the table from an experiment's runs as `trained.read` returns them."""
    experiment = plan.experiments[name]
    chosen = best_rates(results, keys(plan, name))
    grouped = chosen.groupby(["model", *keys(plan, name)], sort=False)
    best = chosen.groupby(["model", *keys(plan, name), "task"]).score.mean().groupby("task")
    metrics = {task: KNOWN[metric] for task, metric in results.groupby("task").metric.first().items()}
    tops = {task: metrics[task].best(values) for task, values in best}
    averaged = len(experiment.tasks) > 1 and all(metric.unit == 100 for metric in metrics.values())
    rows = []
    for (model, *values), runs in grouped:
        label = values[-1] if len(experiment.models) == 1 else f"{plan.models[model]['short']}, {values[-1]}"
        cells = [Cell(label), *(Cell(spell(_number(value))) for value in values[:-1])]
        cells.append(Cell(outcomes.count(runs.trainable_parameters.iloc[0])))
        memory = runs.memory.max() / MIB
        cells.append(Cell(f"{memory:.1f}" if memory == memory else "–"))
        for task in experiment.tasks:
            at = runs[runs.task == task]
            cells.append(outcomes.mean_cell(at, "score", tops[task], metrics[task].digits))
            cells.append(Cell(spell(float(at.lr.iloc[0]))))
        if averaged:
            means = runs.groupby("seed").agg(
                score=("score", lambda scores: scores.mean(skipna=False)),
                status=("status", "max"),
                directory=("directory", list),
            )
            cells.append(outcomes.mean_cell(means, "score"))
        rows.append(Row(cells))
    columns = ["Setting", *(HEADINGS.get(key, key) for key in keys(plan, name)[:-1]), "# TPs", "Memory, MiB"]
    for task in experiment.tasks:
        columns += [plan.tasks[task]["label"], "at η"]
    seeds = results.seed.nunique()
    benchmarked = trained.BENCHMARK in set(results.metric)
    scored = "MMLU accuracy" if benchmarked else "Best validation score"
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=[*columns, *(["Avg."] if averaged else [])],
        rows=rows,
        notes=[
            f"{scored}, mean of {seeds} seed{'s' * (seeds > 1)} with their deviation as subscript, "
            "at the learning rate with the best mean of "
            f"{', '.join(spell(float(rate)) for rate in sorted(results.lr.unique()))}.",
            "Memory is measured: the weights, gradients and optimizer states, and what the first step saves for "
            "backward, the most of the runs in the row.",
            *_replies(plan, name),
            *outcomes.footnotes(results),
        ],
        data=_data(results, plan, name),
    )


def keys(plan: Plan, name: str) -> list[str]:
    """Returns what a row is of: the axes besides the learning rate, and the setting."""
    return [*(axis for axis in plan.experiments[name].axes if axis != "lr"), "setting"]


def best_rates(results: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Returns the runs with the learning rate whose mean score is the best, for each model, `by` and task."""
    kept = []
    for _, runs in results.groupby(["model", *by, "task"], sort=False):
        # A seed without a score counts as the worst, or a rate could win by its failures.
        means = (KNOWN[runs.metric.iloc[0]].sign * runs.score).fillna(-float("inf")).groupby(runs.lr).mean()
        kept.append(runs[runs.lr == means.idxmax()])
    return pd.concat(kept)


def _number(value: object) -> object:
    text = str(value)
    return float(text) if text.replace(".", "", 1).isdigit() else value


def _replies(plan: Plan, name: str) -> list[str]:
    """Returns what the authors replied, whose runs were of another model and data."""
    if not plan.experiments[name].reference:
        return []
    published = outcomes.published(plan, name)
    texts = []
    for line in published[published.comparison.isin(REPLIES[name])].itertuples():
        where = [] if pd.isna(line.modules) or line.modules == "all" else [line.modules]
        where += [f"{line.layer_fraction:.0%} of the layers"] if line.layer_fraction < 1 else []
        memory = "" if pd.isna(line.memory_gb) else f" at {line.memory_gb:g} GB"
        where += [] if pd.isna(line.rank) else [f"rank {line.rank:g}"]
        setting = ", ".join([plan.methods[line.method]["label"], *where])
        texts.append(f"{setting}: {line.metric} {line.value:g}{memory}")
    return [f"The authors' reply, for Llama2-7B: {'; '.join(dict.fromkeys(texts))}."]


def _data(results: pd.DataFrame, plan: Plan, name: str) -> list[dict[str, object]]:
    columns = ["model", "method", *keys(plan, name), "task", "seed", "lr", "status", "metric", "score"]
    columns += ["trainable_parameters", "memory"]
    return results[columns].to_dict("records")
