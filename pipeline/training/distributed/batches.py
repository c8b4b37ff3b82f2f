"""Incomplete last batches, which accelerate fills with the first examples so that each process has as many."""

from typing import Any

from accelerate import Accelerator
from torch import Tensor

from pipeline.training.distributed import group

IGNORED = -100  # what has no loss, to torch and transformers
LABELS = ("labels", "shift_labels")  # (rows, …)


def own_rows(accelerator: Accelerator, rows: int, dataset: Any) -> int:
    """Returns how many of the rows of this process's batch are not filling.

    Args:
        accelerator: Whose data loader the batch is from.
        rows: Of the batch, as many in each process.
        dataset: Of a known length, from which the loader takes them.
    """
    # accelerate forgets this where it skips what a resumed run has done
    last = len(dataset) % (rows * group.size())
    if group.size() == 1 or not accelerator.gradient_state.end_of_dataloader or last == 0:
        return rows
    return min(max(last - accelerator.process_index * rows, 0), rows)


def without_filling(
    accelerator: Accelerator, inputs: dict[str, Any], dataset: Any
) -> tuple[dict[str, Any], int]:
    """Returns a batch in which the rows that fill it have no loss, and how many others there are.

    If there are none, one row keeps its loss, which must not count, so that there is a mean. Numbers that a regression
    learns cannot say that they have no loss: the rows are left out, and the batch is smaller.
    """
    rows = own_rows(accelerator, len(inputs["labels"]), dataset)
    kept = max(rows, 1)
    if kept == len(inputs["labels"]):
        return inputs, rows
    if inputs["labels"].is_floating_point():
        return {key: value[:kept] for key, value in inputs.items()}, rows
    return {**inputs, **{key: _masked(inputs[key], kept) for key in LABELS if key in inputs}}, rows


def _masked(labels: Tensor, kept: int) -> Tensor:
    masked = labels.clone()
    masked[kept:] = IGNORED
    return masked
