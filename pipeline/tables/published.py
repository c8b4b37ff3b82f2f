"""The table of GPU memory that others have measured, beside estimates."""

from typing import Any

import pandas as pd

from lorafa.memory.margin import MARGIN
from pipeline.config.plan import Plan
from pipeline.tables.memory import read_rows
from pipeline.tables.table import Cell, Row, Table

NOTICE = "Estimated without a GPU, and measured by others on theirs: each row's source is in the CSV file beside this."


def build(plan: Plan, name: str) -> Table:
    """Builds the table: one row a measurement, by source, and below each source its median and worst error."""
    experiment = plan.experiments[name]
    compared = read(plan, name)
    rows = []
    for source, group in compared.groupby("source", sort=False):
        for number, line in enumerate(group.itertuples()):
            rows.append(Row(_cells(line), rule=number == 0))
        rows += _summary(str(source), errors_of(group))
    rows += _summary("all", errors_of(compared), rule=True)
    return Table(
        name=name,
        title=experiment.title,
        notice=NOTICE,
        caption=experiment.caption,
        columns=["Source", "Step", "What", "Measured, GiB", "Estimated, GiB", "Error, %"],
        rows=rows,
        notes=_notes(compared),
        data=compared.to_dict("records"),
        text_columns=3,
    )


def read(plan: Plan, name: str) -> pd.DataFrame:
    """Reads what `pipeline.published.compare` has found; `counts`: nothing was fitted on a row, nor is it excluded."""
    compared = read_rows(plan, name)
    compared["excluded"] = compared.excluded.fillna("")
    compared["counts"] = ~compared.fitted & (compared.excluded == "")
    return compared


def errors_of(compared: pd.DataFrame) -> pd.Series:
    """Returns the errors of the rows that count, in per cent."""
    return compared[compared.counts].error_percent


def _cells(line: Any) -> list[Cell]:
    mark = "=" * line.fitted + "†" * bool(line.excluded)
    sizes = (f"{size:.2f}" for size in (line.measured_gib, line.estimated_gib))
    texts = [line.source, line.setting, line.measured, *sizes, f"{line.error_percent:+.1f}{mark}"]
    return [Cell(text) for text in texts]


def _summary(source: str, errors: pd.Series, rule: bool = False) -> list[Row]:
    if errors.empty:
        return []
    worst = errors[errors.abs().idxmax()]
    kinds = {"median": errors.median(), "median of the absolute": errors.abs().median(), "worst": worst}
    words = f"{len(errors)} rows that count"
    texts = [[source, words, kind, "", "", f"{error:+.1f}"] for kind, error in kinds.items()]
    return [
        Row([Cell(t, bold=True) for t in text], rule=rule and number == 0)
        for number, text in enumerate(texts)
    ]


def _notes(compared: pd.DataFrame) -> list[str]:
    above = (compared.measured_gib > compared.estimated_gib * (1 + MARGIN))[compared.counts]
    reasons = compared[compared.excluded != ""].groupby(["source", "excluded"], sort=False).size()
    left_out = "; ".join(f"{source}, {count}: {reason}" for (source, reason), count in reasons.items())
    return [
        "= The source does not state the length of its batches. One length was fitted on this row, and is that of all "
        "of the source's rows that state none; the row itself does not count.",
        f"† Excluded for its setting, and does not count. {left_out}.",
        f"{above.sum()} of {len(above)} rows that count measured more than the estimate and {100 * MARGIN:g} %, which "
        "is the margin of `lorafa.memory.margin`.",
    ]
