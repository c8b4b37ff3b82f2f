"""Score against memory over every finished run of a profile, and the settings that no other one beats in both."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pipeline.config.metrics import METRICS
from pipeline.config.paths import spell
from pipeline.config.plan import FRACTION, Plan
from pipeline.figures.style import MARKERS, headline
from pipeline.results import records
from pipeline.tables import trained

MIB = 2**20
COLUMNS = 3
# Settings of runs that a search alone compares: a first rung, and what is scored on other examples.
LEFT_OUT = (FRACTION, "task.held_out")
KEYS = ["kind", "task", "metric", "model", "method", "setting"]


def numbers(plan: Plan, name: str) -> pd.DataFrame:
    """Returns every setting of the profile's experiments that has finished runs.

    Runs made by hand are left out, and those that were scored on held-out training examples.

    Returns:
        Columns `kind`, `task`, `metric`, `model`, `method`, `setting` (the run's path without its seed), `score` and
        `memory_mib` (means over the seeds), `seeds`, and `front`: no other setting of the task and model has less
        memory and a score as good.

    Raises:
        RecordError: A record is damaged.
    """
    comparable = [name for name in plan.wanted() if not any(f"/{key}=" in name for key in LEFT_OUT)]
    paths = sorted(path for name in comparable if (path := Path(name, records.NAME)).is_file())
    found = [run for path in paths if (run := _run(plan, path))]
    if not found:
        return pd.DataFrame(columns=[*KEYS, "score", "memory_mib", "seeds", "front"])
    settings = pd.DataFrame(found).groupby(KEYS, sort=False)
    means = settings.agg(score=("score", "mean"), memory_mib=("memory_mib", "mean"), seeds=("score", "count"))
    means = means.reset_index()
    groups = means.groupby(["task", "model"], sort=False)
    means["front"] = pd.concat([on_front(group) for _, group in groups])
    return means


def on_front(settings: pd.DataFrame) -> pd.Series:
    """Says which of a task's settings are not beaten: columns `memory_mib`, `score` and `metric`."""
    sign = METRICS[settings.metric.iloc[0]].sign
    order = settings.assign(score=sign * settings.score)
    order = order.sort_values(["memory_mib", "score"], ascending=[True, False])
    before = order.score.cummax().shift(fill_value=-math.inf)
    return order.score > before


def draw(plan: Plan, name: str) -> Figure:
    """Draws a panel for each task and model, ordered by kind: a point for each setting, a line along the front."""
    settings = numbers(plan, name).sort_values("kind", kind="stable")
    panels = list(settings.groupby(["task", "model"], sort=False))
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(7.2, 0.8 + 2.1 * rows), squeeze=False)
    methods = [method for method in plan.methods if method in set(settings.method)]
    methods += sorted(set(settings.method) - set(methods))
    for axes, ((task, _), points) in zip(grid.flat, panels, strict=False):
        _panel(axes, plan, points, methods)
        label = plan.tasks[str(task)]["label"] if task in plan.tasks else str(task)
        axes.set_title(label)
        axes.set_ylabel(METRICS[points.metric.iloc[0]].label)
        axes.set_xlabel("Memory of a step, MiB")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes in grid.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4)
    headline(figure, plan.experiments[name].title)
    return figure


def _run(plan: Plan, path: Path) -> dict[str, Any] | None:
    record = records.read(path.parent)
    run, info = record.run_info, record.train_info
    score, memory = trained.score(info), info.step_memory_bytes
    if score is None or memory is None:
        return None
    return {
        "kind": run.config["task"]["kind"],
        "task": run.task,
        "metric": info.metric,
        "model": run.model,
        "method": run.method,
        "setting": str(path.parent.parent.relative_to(plan.runs_folder)),
        "score": score,
        "memory_mib": memory / MIB,
    }


def _panel(axes: Axes, plan: Plan, points: pd.DataFrame, methods: list[str]) -> None:
    front = points[points.front].sort_values("memory_mib")
    axes.step(
        front.memory_mib, front.score, where="post", color="#777777", linewidth=1, zorder=1, label="Front"
    )
    for number, method in enumerate(methods):
        of_method = points[points.method == method]
        if len(of_method):
            axes.plot(
                of_method.memory_mib,
                of_method.score,
                MARKERS[number % len(MARKERS)],
                color=f"C{number % 8}",
                ms=4,
                alpha=0.75,
                label=plan.methods[method]["label"] if method in plan.methods else method,
            )
    _log_scale(axes, points.memory_mib)


def _log_scale(axes: Axes, memory: pd.Series) -> None:
    """Sets a logarithmic scale with round ticks in sight: multiples of 1, 2 and 5 of a power of ten, at least two."""
    low, high = _round_limits(memory.min() / 1.1, memory.max() * 1.1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    ticks = [tick for tick in _round_numbers(low, high) if low <= tick <= high]
    axes.set_xticks(ticks, [spell(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _round_numbers(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten, from the last at most `low` to the first at least `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    first = max(number for number in numbers if number <= low)
    return [number for number in numbers if first <= number <= min(n for n in numbers if n >= high)]


def _round_limits(low: float, high: float) -> tuple[float, float]:
    """Widens limits that have fewer than two round numbers between them."""
    numbers = _round_numbers(low, high)
    within = sum(low <= number <= high for number in numbers)
    return (low, high) if within >= 2 else (min(low, numbers[0]), max(high, numbers[-1]))
