"""Modelled throughput: against the batch size, and with the largest batch that fits a card."""

import pandas as pd

from lorafa.memory.margin import MARGIN
from pipeline.config.plan import Plan
from pipeline.tables.memory import METHODS, read_rows
from pipeline.tables.table import Cell, Row, Table

MODELLED = (
    "Modelled, not measured: the step's matrix products at 60 % of {peak}, and the memory traffic of all other "
    "operators at 80 % of {bandwidth} (pipeline.fullscale.throughput)."
)


def build(plan: Plan, name: str) -> Table:
    """Builds Figure 5's throughput: one row a batch size, one column a method."""
    experiment = plan.experiments[name]
    speeds = read(plan, name)
    wide = speeds.pivot(index="batch_size", columns="method", values="tokens_per_second")[
        speeds.method.unique()
    ]
    rows = [
        Row([Cell(str(size)), *(Cell(f"{speed:,.0f}") for speed in line)]) for size, line in wide.iterrows()
    ]
    return Table(
        name=name,
        title=experiment.title,
        notice=MODELLED.format(peak="an A100's 312 TFLOP/s", bandwidth="its 2.04 TB/s"),
        caption=experiment.caption,
        columns=["Batch size", *(METHODS[method] for method in wide.columns)],
        rows=rows,
        notes=[
            "Tokens per second. The paper shows its throughput as a picture only, without numbers to compare with."
        ],
        data=speeds.to_dict("records"),
    )


def build_equal_memory(plan: Plan, name: str) -> Table:
    """Builds the table of throughput at equal memory: one row a card and method, beside LoRA on the same card."""
    experiment = plan.experiments[name]
    speeds = read(plan, name)
    rows = []
    for card, methods in speeds.groupby("card", sort=False):
        lora = methods.set_index("method").tokens_per_second["lora"]
        for number, line in enumerate(methods.itertuples()):
            ratio = f"{line.tokens_per_second / lora:.2f}" if lora else "–"
            numbers = [str(line.batch_size), f"{line.tokens_per_second:,.0f}", ratio]
            texts = [str(card), METHODS[str(line.method)], *(numbers if line.batch_size else ["0", "–", "–"])]
            rows.append(Row([Cell(text) for text in texts], rule=number == 0))
    return Table(
        name=name,
        title=experiment.title,
        notice=MODELLED.format(peak="the card's dense bfloat16 peak", bandwidth="its bandwidth"),
        caption=experiment.caption,
        columns=["Card", "Method", "Largest batch", "Tokens per second", "of LoRA's"],
        rows=rows,
        notes=[
            f"A batch fits if its estimate and {100 * MARGIN:g} % more of what PyTorch reserves do (docs/memory.md). "
            "Both are of the fitted reading.",
        ],
        data=speeds.to_dict("records"),
        text_columns=2,
    )


def read(plan: Plan, name: str) -> pd.DataFrame:
    """Reads the modelled throughput: columns `method`, `batch_size` (and `card`) and `tokens_per_second`."""
    return read_rows(plan, name)
