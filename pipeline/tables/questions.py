"""Questions of our own: settings side by side, as in the reviewers' comparisons, with a verdict on each pair."""

import pandas as pd

from pipeline.comparison import runs
from pipeline.comparison.runs import Run
from pipeline.comparison.verdict import Comparison, Report
from pipeline.config.plan import Plan
from pipeline.tables import comparison, trained, verdicts
from pipeline.tables.table import Table

MIB = 2**20
SWEPT = ("lr", "effective_step")  # along x, every learning rate is a point; elsewhere a setting has its best


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `question`: that of a comparison, with the verdicts and what makes them in the notes.

    Raises:
        RecordError: A run's record, evaluation or predictions are missing or damaged.
    """
    results = trained.read(plan, name)
    table = comparison.of_results(plan, name, results)
    found = judged(plan, name, results)
    said = [verdicts.sentence(plan, report, one, "questions") for report, one in found]
    table.notes.extend(said)
    if found:
        table.notes.append(
            "Verdicts pair seeds and examples: GLUE's validation split, the test of translation, MMLU's questions. "
            "Each setting has its best learning rate, chosen on the same seeds. docs/statistics.md"
        )
    table.data.extend(_verdict(one, text) for (_, one), text in zip(found, said, strict=True))
    return table


def judged(plan: Plan, name: str, results: pd.DataFrame) -> list[tuple[Report, Comparison]]:
    """Compares the experiment's pairs on each model and task, each setting at its best learning rate."""
    found = []
    best = comparison.best_rates(results, comparison.keys(plan, name))
    for candidate, references in plan.experiments[name].pairs.items():
        for reference in references:
            for (model, task), at in best.groupby(["model", "task"], sort=False):
                ours, theirs = (_scored(at[at.setting == label]) for label in (candidate, reference))
                if not (ours and theirs):
                    continue
                paired = [runs.pair(plan.tasks[str(task)]["label"], ours, theirs)]
                report = verdicts.report(plan, paired, _named(plan, name, candidate, str(model)), reference)
                found.append((report, report.tasks[0]))
    return found


def points(plan: Plan, name: str) -> pd.DataFrame:
    """Returns what the figure of a `question` shows.

    Returns:
        Columns `model`, `task`, `metric`, `setting`, `method`, `rank`, `lr`, `effective_step` (s·‖a‖·lr, by which a
        step of Adam moves ΔW; missing without adapters), `memory` (MiB of a training step), `mean` and `std` of the
        score over the seeds, and `seeds` (those with a score).

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    plot = plan.experiments[name].plot
    results = trained.read(plan, name)
    scales = pd.Series([info.update_scale for info in results["info"]], dtype=float)
    results["effective_step"] = scales * results.lr
    if plot is None or plot.x not in SWEPT:
        results = comparison.best_rates(results, comparison.keys(plan, name))
    means = results.groupby(["model", "task", "metric", "setting", "method", "lr"], sort=False).agg(
        rank=("rank", "first"),
        effective_step=("effective_step", "mean"),
        memory=("memory", "max"),
        mean=("score", "mean"),
        std=("score", "std"),
        seeds=("score", "count"),
    )
    means["memory"] /= MIB
    return means.reset_index()


def _scored(at: pd.DataFrame) -> dict[int, Run]:
    """Returns the runs of a setting by seed; none where the experiment compares losses, which have no examples."""
    if "loss" in set(at.metric):
        return {}
    return {int(run.seed): runs.read(run.directory) for run in at.itertuples()}


def _named(plan: Plan, name: str, label: str, model: str) -> str:
    several = len(plan.experiments[name].models) > 1
    return f"{plan.models[model]['short']}, {label}" if several else label


def _verdict(one: Comparison, text: str) -> dict[str, object]:
    return {
        "candidate": one.candidate,
        "reference": one.reference,
        "task": one.task,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "verdict": str(one.verdict),
        "text": text,
    }
