"""Figure 4: training loss and validation score, against steps and against the time spent on them."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.metrics import METRICS
from pipeline.config.plan import Plan
from pipeline.figures.style import STYLES, headline
from pipeline.tables import outcomes, trained

WINDOW = 5  # training losses are of single batches; as many as this are averaged
QUANTITIES = {"loss": "Training loss", "score": "Validation"}
SCALES = {"step": "Optimizer steps", "seconds": "Training time, s"}


def numbers(plan: Plan, name: str) -> pd.DataFrame:
    """Returns the curves of a `convergence` experiment's runs, those of runs that diverged as far as they go.

    Returns:
        Columns `model`, `task`, `metric`, `method`, `seed`, `quantity` ("loss" or "score"), `step`, `seconds` (time in
        optimizer steps so far, without evaluation) and `value`.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    rows = []
    for run in trained.read(plan, name).itertuples():
        info = run.info
        seconds = {entry.step: entry.seconds for entry in info.training_seconds}
        curves = {
            "loss": [(entry.step, entry.loss) for entry in info.losses],
            "score": [(entry.step, METRICS[run.metric].points(entry.score)) for entry in info.evaluations],
        }
        about = {key: getattr(run, key) for key in ("model", "task", "metric", "method", "seed")}
        for quantity, points in curves.items():
            rows += [
                {**about, "quantity": quantity, "step": step, "seconds": seconds[step], "value": value}
                for step, value in points
            ]
    return pd.DataFrame(rows)


def draw(plan: Plan, name: str) -> Figure:
    """Draws two rows for each task, the loss and the score: mean over the seeds, and their range as a band."""
    curves = numbers(plan, name)
    tasks = list(curves.task.unique())
    rows = [(task, quantity) for task in tasks for quantity in QUANTITIES]
    figure, panels = plt.subplots(len(rows), 2, figsize=(6.4, 1.85 * len(rows)), sharey="row")
    for (task, quantity), line in zip(rows, panels, strict=True):
        chosen = curves[(curves.task == task) & (curves.quantity == quantity)]
        for axes, x in zip(line, SCALES, strict=True):
            _panel(axes, plan, chosen, quantity, x)
            axes.set_xlabel(SCALES[x])
        metric = METRICS[chosen.metric.iloc[0]].label if quantity == "score" else QUANTITIES[quantity]
        line[0].set_ylabel(metric)
        line[0].set_title(f"{plan.tasks[task]['label']}: {QUANTITIES[quantity].lower()}")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    headline(figure, outcomes.title(plan, name, outcomes.read(plan, name)))
    return figure


def _panel(axes: Axes, plan: Plan, curves: pd.DataFrame, quantity: str, x: str) -> None:
    for number, method in enumerate(curves.method.unique()):
        of_method = curves[curves.method == method]
        values = of_method.pivot(index="step", columns="seed", values="value")
        if quantity == "loss":
            values = values.rolling(WINDOW, min_periods=1).mean()
        positions = values.index if x == "step" else of_method.groupby("step").seconds.mean()
        (drawn,) = axes.plot(
            positions,
            values.mean(axis=1),
            STYLES[number % len(STYLES)],
            label=plan.methods[method]["label"],
        )
        axes.fill_between(
            positions,
            values.min(axis=1),
            values.max(axis=1),
            color=drawn.get_color(),
            alpha=0.18,
            linewidth=0,
        )
    axes.set_xlim(left=0)
