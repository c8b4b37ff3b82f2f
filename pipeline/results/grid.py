"""The combinations of a grid of runs, seeds taken together: how far each is, its score so far, and the best of them."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from pipeline.config.compose import combinations, compose_run
from pipeline.config.metrics import METRICS
from pipeline.config.plan import FRACTION, PlannedRun
from pipeline.results.progress import State, progress

NAMED = ("profile", "model", "method", "task", "seed")  # what a cell says besides its axes


@dataclass
class Cell:
    """One combination of a grid.

    Attributes:
        model, method, task: What is trained on what.
        axes: The values of the grid's axes.
        states: State to number of seeds.
        metric: What `score` is.
        score: Mean over seeds of the best score so far; None before the first evaluation.
        best: Whether none of the same row is better.
        problems: Why seeds failed.
    """

    model: str
    method: str
    task: str
    axes: dict[str, str]
    states: dict[str, int]
    metric: str
    score: float | None
    problems: list[str]
    best: bool = False

    @property
    def row(self) -> tuple[str | None, ...]:
        """What is compared: cells of one row differ in their axes alone, and are all of whole runs or all of parts."""
        return self.model, self.method, self.task, self.axes.get(FRACTION)


def cells(runs: Iterable[PlannedRun]) -> list[Cell]:
    """Looks at every run of a grid and returns its combinations."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps([run.model, run.method, run.task, run.axes]), []).append(run)
    result = [_cell(seeds) for seeds in groups.values()]
    for row in {cell.row for cell in result}:
        scored = [cell for cell in result if cell.row == row and cell.score is not None]
        if len(scored) > 1:
            METRICS[scored[0].metric].best(scored, key=lambda cell: cell.score).best = True
    return result


def sweep(overrides: Sequence[str]) -> list[PlannedRun]:
    """Returns the runs of a sweep by hand.

    Args:
        overrides: As for `python -m pipeline.train -m`: `rank=1,2,4` is swept, `task=mrpc` is fixed.

    Raises:
        ConfigError: Hydra does not understand an override, or a combination is not possible.
    """
    swept = combinations(overrides)
    found = []
    for combination in swept:
        run, _ = compose_run(combination)
        axes = dict(
            override.lstrip("+~").split("=", 1)
            for override in combination
            if any(override not in other for other in swept)
        )
        axes = {key: value for key, value in axes.items() if key not in NAMED}
        scoring = asdict(run.task.scoring)
        found.append(PlannedRun(run.identity(), scoring, combination, axes, run.profile.results))
    return found


def totals(grid: list[Cell]) -> dict[str, int]:
    """Returns how many runs of a grid are in each state."""
    counts: Counter[str] = sum((Counter(cell.states) for cell in grid), Counter())
    return {state: counts[state] for state in State if counts[state]}


def table(grid: list[Cell], title: str) -> Table:
    """Lays a grid out: a line for each combination, the best of a model, method and task marked."""
    axes = list(dict.fromkeys(axis for cell in grid for axis in cell.axes))
    result = Table("model", "method", "task", *axes, "runs", "score", title=title)
    previous = grid[0].row if grid else None
    for cell in grid:
        if cell.row != previous:
            result.add_section()
        previous = cell.row
        score = "" if cell.score is None else f"{cell.metric} {cell.score:.4f}{' ←' if cell.best else ''}"
        result.add_row(
            cell.model,
            cell.method,
            cell.task,
            *(cell.axes.get(axis, "") for axis in axes),
            "; ".join([_counted(cell.states), *dict.fromkeys(cell.problems)]),
            score,
            style="bold" if cell.best else None,
        )
    result.caption = _counted(totals(grid))
    return result


def _cell(runs: list[PlannedRun]) -> Cell:
    found = [progress(Path(run.directory), run.config_hash) for run in runs]
    metric = runs[0].identity["task"]["metric"]
    scores = [score for one in found if (score := one.best(metric)) is not None]
    return Cell(
        model=runs[0].model,
        method=runs[0].method,
        task=runs[0].task,
        axes=runs[0].axes,
        states=dict(Counter(str(one.state) for one in found)),
        metric=metric,
        score=statistics.mean(scores) if scores else None,
        problems=[one.problem for one in found if one.problem],
    )


def _counted(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {State(state).words}" for state, count in states.items())
