"""Are a table's numbers sane? Judged by the `bar` of its experiment, for `pipeline.check` and for the table's marks."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import pandas as pd

from pipeline.config.experiment import Bar
from pipeline.config.plan import Plan
from pipeline.tables.table import Row

UNTUNED = "untuned"
MAJORITY = "majority"  # the baseline that reads nothing
ROW = "all tasks"
MARK = "‡"
NO_FLOOR = "no baseline is recorded"


@dataclass(frozen=True)
class Finding:
    """A cell of a table, or a row, beside its bar; scores are in points.

    Attributes:
        model, method: Its row.
        column: The task or metric; `ROW` for the row.
        mean: Over the seeds that have a score; of a row, the median over its tasks above the majority class.
        least: What the mean must reach; NaN where it is not known.
        deviation: Over the seeds; NaN where there is none.
        most: What the deviation may be.
        failed: Runs without a score.
        unjudged: Why it cannot be judged; empty where it can.
    """

    model: str
    method: str
    column: str
    mean: float
    least: float
    deviation: float = math.nan
    most: float = math.nan
    failed: int = 0
    unjudged: str = ""

    @property
    def flaws(self) -> list[str]:
        """What is wrong with the number; NaN is never compared."""
        if self.unjudged:
            return []
        low = "not trained" if self.column == ROW else "too low"
        flawed = {low: self.mean < self.least, "deviates too much": self.deviation > self.most}
        return [words for words, wrong in flawed.items() if wrong]

    @property
    def sane(self) -> bool:
        """Whether nothing is wrong, as far as it can be judged."""
        return not self.flaws and (bool(self.unjudged) or not self.failed)

    @property
    def verdict(self) -> str:
        """One word, or what is wrong, or why it cannot be judged."""
        if self.unjudged:
            return f"cannot be judged: {self.unjudged}"
        failed = [f"{self.failed} run{'s' * (self.failed > 1)} without a score"] * (self.failed > 0)
        words = [*self.flaws, *failed]
        return f"not ok: {', '.join(words)}" if words else "ok"


def judge(plan: Plan, name: str, results: pd.DataFrame) -> list[Finding]:
    """Judges every cell of an experiment's trained methods, and every other trained row as a whole.

    Args:
        plan: Has the experiment's bar.
        name: The experiment, of kind `glue`, `translation` or `mmlu`.
        results: Its runs, as `outcomes.read` returns them.

    Returns:
        Nothing where the experiment has no bar. Where a mean rests on one seed, or the profile's numbers mean nothing
        by design, the finding says that it cannot be judged.
    """
    bar = plan.experiments[name].bar
    if bar is None:
        return []
    scores = _SCORES[plan.experiments[name].kind](results, bar)
    trained = scores[scores.method != UNTUNED]
    findings = []
    for (model, method), rows in trained.groupby(["model", "method"], sort=False):
        cells = [
            _cell(model, method, column, runs, bar) for column, runs in rows.groupby("column", sort=False)
        ]
        findings += cells if method in bar.methods else [_row(model, method, rows, bar)]
    if not plan.profile.judged:
        reason = f"the numbers of profile {plan.profile.name} mean nothing"
        return [replace(finding, unjudged=reason) for finding in findings]
    return findings


def flaws(findings: Collection[Finding], **row: str) -> set[str]:
    """Returns the columns of a row, given as `model` and `method`, that have a number which is not sane."""
    of_row = [one for one in findings if all(getattr(one, key) == value for key, value in row.items())]
    return {one.column for one in of_row if one.flaws}


def mark(row: Row, columns: list[str], flawed: Collection[str]) -> Row:
    """Returns a row of a table with a mark at each cell whose column is flawed; `columns` names the cells in order."""
    cells = [
        replace(cell, text=cell.text + MARK) if column in flawed else cell
        for cell, column in zip(row.cells, columns, strict=True)
    ]
    return replace(row, cells=cells)


def notes(plan: Plan, name: str, findings: Collection[Finding]) -> list[str]:
    """Returns the footnote on the marks, if there are any."""
    bar = plan.experiments[name].bar
    if bar is None or not any(finding.flaws for finding in findings):
        return []
    floor = "the untuned model"
    if plan.experiments[name].kind == "glue":
        counted = " or ".join(bar.baselines).replace("_", " ")
        floor = f"the best baseline ({counted})" if counted else "the best baseline"
    above = {
        f"{bar.above:g}",
        *(f"{points:g} ({plan.tasks[task]['label']})" for task, points in bar.exceptions.items()),
    }
    return [
        f"{MARK} Not a sane number: a mean of a trained method that is not {' or '.join(sorted(above))} points above "
        f"{floor}, a deviation over seeds above {bar.deviation:g} points, or, at a row's name, a method that stayed "
        "untrained on most tasks. `python -m pipeline.check` lists them."
    ]


def _cell(model: str, method: str, column: str, runs: pd.DataFrame, bar: Bar) -> Finding:
    found = runs.score.dropna()
    finding = Finding(
        *(model, method, column),
        mean=found.mean(),
        least=runs.floor.iloc[0] + bar.exceptions.get(column, bar.above),
        deviation=found.std(ddof=1),
        most=bar.deviation,
        failed=len(runs) - len(found),
        unjudged="one seed" if runs.seed.nunique() < 2 else "",
    )
    unknown = math.isnan(finding.least) and finding.sane  # its deviation can be judged without
    return replace(finding, unjudged=finding.unjudged or NO_FLOOR) if unknown else finding


def _row(model: str, method: str, rows: pd.DataFrame, bar: Bar) -> Finding:
    """A median over tasks: one that came out well by luck does not make a trained row."""
    gains = (rows.score - rows.base).groupby(rows.column).mean()
    failed = int(rows.score.isna().sum())
    unjudged = NO_FLOOR if rows.base.isna().all() else ""
    return Finding(model, method, ROW, gains.median(), bar.above, failed=failed, unjudged=unjudged)


def _glue(results: pd.DataFrame, bar: Bar) -> pd.DataFrame:
    points = [
        {key: value for key, value in scores.items() if not bar.baselines or key in bar.baselines}
        for scores in results.baselines
    ]
    return _frame(
        results,
        results.task,
        [scores.get("score", math.nan) for scores in results.scores],
        [max(scores.values(), default=math.nan) for scores in points],
        [scores.get(MAJORITY, math.nan) for scores in points],
    )


def _translation(results: pd.DataFrame, _: Bar) -> pd.DataFrame:
    return pd.concat(
        [_over_untuned(results, [metric] * len(results), metric) for metric in ("bleu", "rouge_l")]
    )


def _mmlu(results: pd.DataFrame, _: Bar) -> pd.DataFrame:
    return _over_untuned(results, results.task, "macro")


def _over_untuned(results: pd.DataFrame, columns: Collection[str], metric: str) -> pd.DataFrame:
    points = pd.Series([scores.get(metric, math.nan) for scores in results.scores], results.index)
    untuned = points[results.method == UNTUNED].groupby(results.model).mean()
    floor = results.model.map(untuned)
    return _frame(results, columns, points, floor, floor)


def _frame(results: pd.DataFrame, column: object, score: object, floor: object, base: object) -> pd.DataFrame:
    """One row a number: its place, its score, the floor it is to exceed, and what a model that learnt nothing has."""
    return results[["model", "method", "seed"]].assign(column=column, score=score, floor=floor, base=base)


_SCORES = {"glue": _glue, "translation": _translation, "mmlu": _mmlu}
