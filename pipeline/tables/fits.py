"""The table of what fits a card, by method and rung of the ladder."""

import pandas as pd

from lorafa.memory.margin import MARGIN, WITHIN
from pipeline.config.plan import Plan
from pipeline.tables.memory import ESTIMATED, read_rows
from pipeline.tables.table import Cell, Row, Table

METHODS = {
    "lora-fa": "LoRA-FA",
    "lora-fa, up to loss": "LoRA-FA: norms, activations and loss computed again",
    "lora-fa, up to qkv": "… and q, k, v",
    "lora-fa, up to mlp": "… and gate and up",
    "lora-fa, up to block": "LoRA-FA: norms, loss and whole blocks",
    "lora, frozen A": "LoRA with a frozen A, as PEFT has it",
    "lora": "LoRA",
    "lora, checkpointed": "LoRA, blocks checkpointed",
    "full-ft": "Full-FT",
}


def build(plan: Plan, name: str) -> Table:
    """Builds the table: one row a method, two columns a card."""
    experiment = plan.experiments[name]
    found = read(plan, name)
    rows = []
    for method, group in found.groupby("method", sort=False):
        sizes = (text for line in group.itertuples() for text in (_shown(line.batch), _shown(line.length)))
        rows.append(Row([Cell(METHODS[str(method)]), *map(Cell, sizes)]))
    cards = found.card.unique()
    return Table(
        name=name,
        title=experiment.title,
        notice=ESTIMATED,
        caption=experiment.caption,
        columns=["Method", *(text for card in cards for text in (f"{card} GiB: batch", "length"))],
        rows=rows,
        notes=[
            f"What fits, fits with {100 * MARGIN:g} % more reserved memory than estimated, {WITHIN} "
            "(docs/memory.md), and with CUDA's context. –: nothing does. Lengths are multiples of 64 tokens."
        ],
        data=found.to_dict("records"),
        text_columns=1,
    )


def read(plan: Plan, name: str) -> pd.DataFrame:
    """Reads what `pipeline.fullscale.fits.what_fits` has found: `method`, `card`, `batch`, `length`."""
    return read_rows(plan, name)


def _shown(size: int) -> str:
    return f"{size:,}" if size else "–"
