"""Verdicts: is LoRA-FA as good as LoRA and Full-FT? For the lines under Tables 2 to 4, and in one table."""

from collections.abc import Iterator
from dataclasses import asdict

import pandas as pd
from scipy.stats import norm

from pipeline.comparison import runs
from pipeline.comparison.paired import TaskRuns, compare
from pipeline.comparison.runs import Run
from pipeline.comparison.verdict import AVERAGE, RANDOM_SEEDS, Comparison, Report, Retention, Verdict
from pipeline.config.plan import Plan
from pipeline.tables import outcomes
from pipeline.tables.sanity import UNTUNED
from pipeline.tables.table import Cell, Row, Table


def build(plan: Plan, name: str) -> Table:
    """Builds the table of all comparisons in the experiments that `name` compares.

    Raises:
        RecordError: A run's evaluation is missing or damaged.
    """
    experiment = plan.experiments[name]
    rows, data = [], []
    independent: set[str] = set()
    compared = [other for other in experiment.compares if other in plan.experiments]
    for other in compared:
        for model, report in reports(plan, other):
            averaged = [report.average] if len(report.tasks) > 1 else []
            for number, comparison in enumerate([*averaged, *report.tasks]):
                source = plan.experiments[other].title.split(":")[0]
                needed = comparison.seeds_to_decide(plan.statistics.power)
                cells = [*_cells(plan, comparison), Cell("–" if needed is None else str(needed))]
                rows.append(Row([Cell(source), Cell(model), *cells], rule=number == 0))
                more = {"seeds_to_decide": needed, "text": sentence(plan, report, comparison)}
                data.append({"table": other, "model": model, **_numbers(comparison), **more})
                independent.update(comparison.independent)
    results = pd.concat([outcomes.read(plan, other) for other in compared], ignore_index=True)
    settings = plan.statistics
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=[
            *("Table", "Model", "Comparison", "Task"),
            *(
                "Difference",
                f"{settings.confidence:.0%} interval",
                "p",
                "p, Holm",
                "Verdict",
                "Gain kept",
                "Ahead",
                "Seeds to decide",
            ),
        ],
        rows=rows,
        notes=[
            f"Not inferior: worse by less than {settings.margin:g} points, the margin of conf/config.yaml. p is "
            "one-sided, of the hypothesis that the deficit is the margin or more; Holm's corrects for several tasks.",
            "Gain kept: the candidate's gain over the majority class, or over the untuned model, as a share of the "
            f"reference's; bold where it is shown to be at least {1 - settings.fraction:.0%}, a margin that "
            "grows with what there is to lose. Ahead: in what share of the pairs of runs, one of each method, it is.",
            f"With fewer than {RANDOM_SEEDS} seeds a verdict is about those seeds alone. docs/statistics.md "
            "says how intervals are computed and what they cannot say.",
            f"Seeds to decide: how many in all would decide an inconclusive verdict with {settings.power:.0%} power, "
            "should the difference and its deviation over seeds stay as they are seen.",
            *independent_note(independent),
        ],
        data=data,
        text_columns=4,
    )


def independent_note(tasks: set[str]) -> list[str]:
    """Returns the note on tasks whose examples count as drawn each by itself, if there are any."""
    if not tasks:
        return []
    return [
        f"Examples of {', '.join(sorted(tasks))} count as drawn each by itself: their texts are not at hand, so "
        "nothing tells which of them are of the same sentence."
    ]


def lines(plan: Plan, name: str) -> list[str]:
    """Returns one line for each model and comparison, for the notes under an experiment's table."""
    found = []
    judged = list(reports(plan, name))
    for label, report in judged:
        comparison = report.average if len(report.tasks) > 1 else report.tasks[0]
        subject = f"{label}: " if len({other for other, _ in judged}) > 1 else ""
        found.append(f"{subject}{sentence(plan, report, comparison)}")
    return found


def sentence(plan: Plan, report: Report, comparison: Comparison, target: str = "tables") -> str:
    """Returns a comparison in words; of an average, with the tasks that hold at once; with what would decide it.

    Args:
        plan: The profile's plan.
        report: Where the comparison is from.
        comparison: The one that is meant.
        target: What makes the runs.
    """
    parts = [comparison.text]
    parts += [comparison.more] if comparison.more else []
    parts += [report.text] if comparison.task == AVERAGE and len(report.tasks) > 1 else []
    parts += [advice(plan, comparison, target)] if comparison.verdict is Verdict.INCONCLUSIVE else []
    return "".join(f"{part}. " for part in parts).strip()


def advice(plan: Plan, comparison: Comparison, target: str = "tables") -> str:
    """Returns how many more seeds would decide an inconclusive comparison, and the command that runs them."""
    profile = "" if plan.profile.name == "mini" else f" PROFILE={plan.profile.name}"
    command = f"`make {target}{profile} SEEDS="
    if comparison.fixed and len(plan.profile.seeds) >= RANDOM_SEEDS:
        return f"Its seeds are fixed in conf/profile/{plan.profile.name}.yaml, profile.grids"
    if comparison.fixed:
        least = RANDOM_SEEDS
        return f"How many seeds would decide it, {least} of them will show: {command}{least}`"
    needed = comparison.seeds_to_decide(plan.statistics.power)
    if needed is None:
        distance = abs(comparison.difference + comparison.margin)
        error = comparison.example_error * norm.isf(comparison.alpha)
        return (
            f"More seeds would hardly decide it: it is {distance:.1f} points from the margin, and the examples alone "
            f"make it uncertain by ±{error:.1f}"
        )
    more = needed - len(comparison.seeds)
    return (
        f"Should it stay as it is seen, {more} more seed{'s' * (more > 1)} would decide it with "
        f"{plan.statistics.power:.0%} power: {command}{needed}`"
    )


def reports(plan: Plan, name: str) -> Iterator[tuple[str, Report]]:
    """Yields a label and its comparisons of the candidate with each reference that the experiment has.

    Table 4's data sets are compared by themselves: their models answer the same questions, so no average over them.
    """
    settings, experiment = plan.statistics, plan.experiments[name]
    for model in experiment.models:
        scored = {task: _scored(plan, name, model, task) for task in experiment.tasks}
        for reference in settings.references:
            if not {settings.candidate, reference} <= set(experiment.methods):
                continue
            together = [[task] for task in scored] if experiment.kind == "mmlu" else [list(scored)]
            for part in together:
                paired = [_pair(plan, task, scored[task], reference) for task in part]
                labels = (plan.methods[method]["label"] for method in (settings.candidate, reference))
                label = plan.models[model]["short"]
                yield (
                    (f"{label}-{plan.tasks[part[0]]['label']}" if experiment.kind == "mmlu" else label),
                    report(plan, paired, *labels),
                )


def report(plan: Plan, tasks: list[TaskRuns], candidate: str, reference: str) -> Report:
    """Compares two methods, or settings, by their labels, with the margins of the configuration."""
    settings = plan.statistics
    return compare(
        tasks,
        candidate,
        reference,
        margin=settings.margin,
        fraction=settings.fraction,
        confidence=settings.confidence,
    )


def _scored(plan: Plan, name: str, model: str, task: str) -> dict[str, dict[int, Run]]:
    """Returns the runs of each method that is compared, and of the untuned model, by seed."""
    compared = {plan.statistics.candidate, *plan.statistics.references, UNTUNED}
    found: dict[str, dict[int, Run]] = {method: {} for method in compared}
    for run in plan.runs_of(name):
        if run.model == model and run.task == task and run.method in compared:
            found[run.method][run.seed] = runs.read(run.directory)
    return found


def _pair(plan: Plan, task: str, scored: dict[str, dict[int, Run]], reference: str) -> TaskRuns:
    untuned = next(iter(scored[UNTUNED].values()), None)
    return runs.pair(plan.tasks[task]["label"], scored[plan.statistics.candidate], scored[reference], untuned)


def _cells(plan: Plan, comparison: Comparison) -> list[Cell]:
    subject = Cell(f"{comparison.candidate} − {comparison.reference}")
    task = Cell("average" if comparison.task == AVERAGE else comparison.task)
    if comparison.reason:
        return [
            subject,
            task,
            *[Cell("–")] * 4,
            Cell(f"{comparison.verdict}, {comparison.reason}"),
            *[Cell("–")] * 2,
        ]
    bold = comparison.verdict in (Verdict.BETTER, Verdict.NOT_INFERIOR)
    return [
        subject,
        task,
        Cell(_signed(comparison.difference)),
        Cell(f"[{_signed(comparison.low)}, {_signed(comparison.high)}]"),
        Cell(f"{comparison.p_value:.3f}"),
        Cell("–" if comparison.task == AVERAGE else f"{comparison.p_holm:.3f}"),
        Cell(str(comparison.verdict), bold=bold),
        _kept(comparison.retention),
        Cell(f"{comparison.improvement:.0%}"),
    ]


def _kept(retention: Retention | None) -> Cell:
    return Cell(f"{retention.kept:.0%}".replace("-", "−"), bold=retention.low > 0) if retention else Cell("–")


def _signed(number: float) -> str:
    return f"{number:+.1f}".replace("-", "−")


def _numbers(comparison: Comparison) -> dict[str, object]:
    """Returns what the CSV file has of a comparison, one value a column."""
    numbers = {
        key: value for key, value in asdict(comparison).items() if key not in ("retention", "independent")
    }
    kept = asdict(comparison.retention) if comparison.retention else {}
    return {
        **numbers,
        "left_out": len(comparison.left_out),
        "seeds": len(comparison.seeds),
        "collapsed": sum(comparison.collapsed),
        **{f"gain_{key}": kept.get(key) for key in ("kept", "wanted", "low", "high")},
        "verdict": str(comparison.verdict),
    }
