"""Language-model loss that never holds all logits.

Measured against `torch.nn.functional.linear_cross_entropy` of torch 2.13, whose chunked path accumulates a
half-precision loss in half precision (10.125 for 10.289, 16 000 classes) and took 2 to 7 times as long on a
CPU. The model classes keep the names of those that they replace: transformers writes a class's name into the
configuration that it saves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.utils import ModelOutput

from lorafa.layers import is_plain

_CHUNK = 2**24  # logits that exist at a time: 64 MiB in fp32
IGNORE_INDEX = -100


class LinearCrossEntropy(Function):
    """Sum of the cross entropy of linear(X), with its gradients computed chunk by chunk in forward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> Tensor:
        """Save the gradients: of x, (n, d), and of the weight and bias if they are trained."""
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None  # type: ignore[arg-type]
        loss = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        rows = max(1, _CHUNK // weight.shape[0])
        for start in range(0, len(x), rows):
            chunk = slice(start, start + rows)
            logits = F.linear(x[chunk], weight, bias).to(loss.dtype)
            loss += F.cross_entropy(logits, target[chunk], reduction="sum", ignore_index=IGNORE_INDEX)
            if not any(ctx.needs_input_grad):
                continue
            valid = (target[chunk] != IGNORE_INDEX).unsqueeze(-1)
            grad = logits.softmax(-1)
            grad.scatter_add_(-1, target[chunk].clamp(min=0).unsqueeze(-1), -torch.ones_like(grad[:, :1]))
            grad = grad.mul_(valid).to(x.dtype)
            if grad_x is not None:
                grad_x[chunk] = grad @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad.T, x[chunk])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the saved gradients."""
        return *(None if saved is None else saved * grad.to(saved.dtype) for saved in ctx.saved_tensors), None


def linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sum of the cross entropy of linear(X) over the targets that are not -100.

    Args:
        x: Hidden states, (..., d).
        weight: The head's weight, (classes, d).
        target: Class indices, (...).
        bias: The head's bias, (classes,), or None.

    Returns:
        Scalar, in fp32 at least. Nothing is saved but the gradient of x, as large as x.
    """
    return LinearCrossEntropy.apply(x.reshape(-1, x.shape[-1]), weight, bias, target.reshape(-1))


@contextmanager
def _without_head(model: nn.Module) -> Iterator[nn.Linear]:
    head = model.lm_head
    model.lm_head = nn.Identity()
    try:
        yield head  # type: ignore[misc]
    finally:
        model.lm_head = head


def _can_fuse(model: Any, arguments: dict[str, Any]) -> bool:
    return (
        model.training
        and is_plain(model.lm_head)
        and arguments.get("return_dict") is not False
        and not arguments.get("logits_to_keep")
        and not torch.compiler.is_compiling()
    )


def _with_loss(outputs: ModelOutput, loss: Tensor) -> ModelOutput:
    return type(outputs)(**{**outputs, "loss": loss, "logits": None})


class LlamaForCausalLM(transformers.LlamaForCausalLM):
    """LLaMA whose training loss needs no logits: with labels, in training mode, `logits` is None."""

    @wraps(transformers.LlamaForCausalLM.forward)  # the Trainer reads the signature
    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As the parent's."""
        if labels is None or not _can_fuse(self, kwargs):
            return super().forward(*args, labels=labels, **kwargs)
        items, shifted = kwargs.pop("num_items_in_batch", None), kwargs.pop("shift_labels", None)
        if shifted is None:
            shifted = F.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
        with _without_head(self) as head:
            outputs = super().forward(*args, **kwargs)
        loss = linear_cross_entropy(outputs.logits, head.weight, shifted, head.bias)
        return _with_loss(outputs, loss / (shifted.ne(IGNORE_INDEX).sum() if items is None else items))


class T5ForConditionalGeneration(transformers.T5ForConditionalGeneration):
    """T5 whose training loss needs no logits: with labels, in training mode, `logits` is None."""

    @wraps(transformers.T5ForConditionalGeneration.forward)
    def forward(self, *args: Any, labels: Tensor | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As the parent's."""
        if args or labels is None or not _can_fuse(self, kwargs):
            return super().forward(*args, labels=labels, **kwargs)
        if kwargs.get("decoder_input_ids") is None and kwargs.get("decoder_inputs_embeds") is None:
            kwargs["decoder_input_ids"] = self._shift_right(labels)
        with _without_head(self) as head:
            outputs = super().forward(**kwargs)
        loss = linear_cross_entropy(outputs.logits, head.weight, labels, head.bias)
        return _with_loss(outputs, loss / labels.ne(IGNORE_INDEX).sum())
