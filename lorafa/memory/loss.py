"""The loss of causal language models as versions of transformers have computed it: what it keeps beside today's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from lorafa.memory.batch import WRITE
from lorafa.memory.models import head_of
from lorafa.memory.recipe import Loss

# Since which version of transformers a loss is its own, newest first.
# Source: loss/loss_utils.py and modeling_llama.py of 4.45.2, 4.46.0, 4.48.1 and 4.49.0.
SINCE: dict[tuple[int, int], Loss] = {
    (4, 49): "shifted-labels",
    (4, 46): "shifted-logits",
    (0, 0): "float-logits",
}


def loss_of_version(transformers: str) -> Loss:
    """The loss that a version of transformers, such as "4.48.1", computes.

    Raises:
        ValueError: The text is not a version.
    """
    major, minor, *_ = transformers.split(".")
    return next(loss for since, loss in SINCE.items() if (int(major), int(minor)) >= since)


def shifted_logits_loss(
    logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, **_: Any
) -> torch.Tensor:
    """Cross entropy of float32 logits that are copied to be moved by one token.

    Args:
        logits: (batch, length, vocab_size).
        labels: (batch, length); −100 counts for nothing.
        vocab_size: As the logits have it.
        _: What else transformers gives a loss.
    """
    logits = logits.float()
    shifted = logits[..., :-1, :].contiguous()
    return F.cross_entropy(shifted.view(-1, vocab_size), labels[..., 1:].contiguous().view(-1))


def set_loss(model: PreTrainedModel, loss: Loss) -> None:
    """Have a causal language model compute its loss so; others have none that is moved by a token."""
    if head_of(model.config) not in WRITE:
        return
    if loss == "shifted-logits":
        model.loss_function = shifted_logits_loss
    if loss == "float-logits":
        model.forward = _with_float_logits(model.forward)


def _with_float_logits(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that has its logits in float32, and no others, before it computes the loss."""

    @wraps(forward)
    def forward_and_loss(*args: Any, labels: torch.Tensor, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.logits = outputs.logits.float()
        outputs.loss = shifted_logits_loss(outputs.logits, labels, outputs.logits.shape[-1])
        return outputs

    return forward_and_loss
