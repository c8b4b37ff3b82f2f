"""What others have published of LoRA-FA and its relatives, with the settings that they ran, beside ours."""

import math
from typing import Any

import pandas as pd

from lorafa.memory.sizes import GIB
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.tables import outcomes, questions
from pipeline.tables.table import Cell, Row, Table

LABELS = {
    "full-ft": "Full-FT",
    "lora": "LoRA",
    "lora-fa": "LoRA-FA",
    "lora-rs": "LoRA, rsLoRA's scale",
    "miss": "MiSS",
}


def build(plan: Plan, name: str) -> Table:
    """Builds the table: one row a published run, and one for each setting of the experiments that it compares with.

    Raises:
        RecordError: A run's record is missing or damaged.
    """
    experiment = plan.experiments[name]
    published = read(plan, name)
    rows = [_published_row(line) for line in published.itertuples()]
    ours = [points for other in experiment.compares if other in plan.grids for points in _best(plan, other)]
    rows += [_our_row(plan, point, first=number == 0) for number, point in enumerate(ours)]
    results = [outcomes.read(plan, other) for other in experiment.compares if other in plan.grids]
    return Table(
        name=name,
        title=experiment.title,
        notice=outcomes.notice(pd.concat(results, ignore_index=True)) if results else "",
        caption=experiment.caption,
        columns=[
            *("Method", "Model and task", "Run of", "Rank", "η", "s·‖a‖", "Effective step"),
            *("Memory, GiB", "# TPs", "Score"),
        ],
        rows=rows,
        notes=[
            "Rows in italics are of PEFT's method comparison (huggingface/peft, method_comparison/MetaMathQA), each at "
            "the one learning rate that it was run with; the file, commit and versions are in the CSV file beside "
            "this. Memory is what was reserved at most.",
            "s·‖a‖ is computed: the scale times the length of A's rows at the start, 1/√3 for Kaiming's, √(n/r) for "
            "the blocks of MiSS with n inputs. PEFT's LoRA-FA projects B's gradient.",
            "In July 2026, PEFT's LoRA-FA reserves what LoRA does, and not what it did before: the inputs of A were "
            "kept, as they are where A takes a gradient. Its score of that month is none of a frozen A.",
            "Ours: each setting at its best learning rate, the mean of the seeds with their deviation as subscript; "
            "other models, tasks and metrics, so that only rows of one model compare.",
        ],
        data=published.to_dict("records"),
        text_columns=3,
    )


def read(plan: Plan, name: str) -> pd.DataFrame:
    """Reads the published runs, with `row_scale` (s·‖a‖) and `effective_step` (s·‖a‖·lr); missing without adapters."""
    published = outcomes.published(plan, name)
    published["row_scale"] = [_row_scale(line) for line in published.itertuples()]
    published["effective_step"] = published.row_scale * published.lr
    return published


def _row_scale(line: Any) -> float:
    if pd.isna(line.rank):
        return math.nan
    if line.init_A == "shards":  # MiSS, which has no scale
        return math.sqrt(line.in_features / line.rank)
    return line.alpha / (math.sqrt(line.rank) if line.rslora else line.rank) / math.sqrt(3)


def _best(plan: Plan, name: str) -> list[Any]:
    points = questions.points(plan, name)
    best = points.loc[points.groupby("setting", sort=False)["mean"].idxmax()]
    return list(best.itertuples())


def _published_row(line: Any) -> Row:
    texts = [
        LABELS[line.method],
        f"{line.model.partition('/')[2]}, {line.task}",
        line.created,
        _number(line.rank, "g"),
        spell(float(line.lr)),
        _number(line.row_scale, ".2f"),
        _step(line.effective_step),
        f"{line.reserved_max_bytes / GIB:.2f}",
        outcomes.count(int(line.trainable_parameters)),
        f"{100 * line.accuracy:.1f}",
    ]
    return Row([Cell(text) for text in texts], published=True)


def _our_row(plan: Plan, point: Any, first: bool) -> Row:
    texts = [
        point.setting,
        f"{plan.models[point.model]['short']}, {plan.tasks[point.task]['label']}",
        "ours",
        _number(point.rank, "g"),
        spell(float(point.lr)),
        _number(point.effective_step / point.lr, ".2f"),
        _step(point.effective_step),
        f"{point.memory / 1024:.2f}",
        "–",
    ]
    spread = f"{point.std:.1f}" if point.seeds > 1 else ""
    return Row([*map(Cell, texts), Cell(f"{point.mean:.1f}", spread)], rule=first)


def _step(value: float) -> str:
    return "–" if pd.isna(value) else spell(float(f"{value:.1e}"))


def _number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else f"{value:{form}}"
