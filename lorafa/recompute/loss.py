"""Language-model loss that never holds all logits.

Measured against `torch.nn.functional.linear_cross_entropy` of torch 2.13, whose chunked path accumulates a
half-precision loss in half precision (10.125 for 10.289, 16 000 classes) and took 2 to 7 times as long on a
CPU. The model classes keep the names of those that they replace: transformers writes a class's name into the
configuration that it saves.
"""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.utils import ModelOutput

from lorafa.autograd import Context, TensorFunction
from lorafa.layers import is_plain
from lorafa.recompute.classes import derived

_CHUNK = 2**24  # logits that exist at a time: 64 MiB in fp32
IGNORE_INDEX = -100


class LinearCrossEntropy(TensorFunction):
    """Sum of the cross entropy of linear(X), with its gradients computed chunk by chunk in forward."""

    @staticmethod
    def forward(
        ctx: Context,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        ignore_index: int = IGNORE_INDEX,
    ) -> Tensor:
        """Save the gradients: of x, (n, d), and of the weight and bias if they are trained."""
        wants_x, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None  # type: ignore[arg-type]
        loss = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        rows = max(1, _CHUNK // weight.shape[0])
        for start in range(0, len(x), rows):
            chunk = slice(start, start + rows)
            logits = F.linear(x[chunk], weight, bias).to(loss.dtype)
            loss += F.cross_entropy(logits, target[chunk], reduction="sum", ignore_index=ignore_index)
            if not any(ctx.needs_input_grad):
                continue
            valid = (target[chunk] != ignore_index).unsqueeze(-1)
            grad = logits.softmax(-1)
            classes = target[chunk].unsqueeze(-1) * valid  # an ignored target need not be a class
            grad.scatter_add_(-1, classes, -torch.ones_like(grad[:, :1]))
            grad = grad.mul_(valid).to(x.dtype)
            if grad_x is not None:
                grad_x[chunk] = grad @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad.T.to(weight.dtype), x[chunk].to(weight.dtype))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_x, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the saved gradients."""
        grads = (None if saved is None else saved * grad.to(saved.dtype) for saved in ctx.saved_tensors)
        return *grads, None, None


def linear_cross_entropy(
    x: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Sum of the cross entropy of linear(X) over the targets that are not `ignore_index`.

    Args:
        x: Hidden states, (..., d).
        weight: The head's weight, (classes, d).
        target: Class indices, (...).
        bias: The head's bias, (classes,), or None.
        ignore_index: Target without a loss.

    Returns:
        Scalar, in fp32 at least. Nothing is saved but the gradient of x, as large as x.
    """
    rows, target = x.reshape(-1, x.shape[-1]), target.reshape(-1).to(x.device)
    return LinearCrossEntropy.apply(rows, weight, bias, target, ignore_index)


def causal_lm_loss(
    hidden: Tensor,
    labels: Tensor,
    head: nn.Linear,
    num_items_in_batch: Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    shift_labels: Tensor | None = None,
) -> Tensor:
    """As transformers' `ForCausalLMLoss`, of the hidden states before the head.

    Args:
        hidden: (batch, length, d).
        labels: (batch, length): position n predicts label n + 1.
        head: The model's output layer.
        num_items_in_batch: What the sum is divided by; the number of targets if None.
        ignore_index: Label without a loss.
        shift_labels: Labels that are shifted already, in place of `labels`.
    """
    target = F.pad(labels, (0, 1), value=ignore_index)[..., 1:] if shift_labels is None else shift_labels
    loss = linear_cross_entropy(hidden, head.weight, target, head.bias, ignore_index)
    items = target.ne(ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
    return loss / (items.to(loss.device) if isinstance(items, Tensor) else items)


def is_adapted(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def obstacle(model: Any, arguments: dict[str, Any]) -> str | None:
    """Why the logits of a model in training are needed after all, or None if they are not."""
    head = model.lm_head
    if not is_plain(head):
        return f"lm_head is a {type(head).__name__}"  # adapted, quantised, wrapped, offloaded
    if type(head.weight) not in (Tensor, nn.Parameter, FakeTensor) or not head.weight.is_floating_point():
        return f"the weight of lm_head is a {type(head.weight).__name__} of {head.weight.dtype}"
    if model.fused_loss is not None and model.loss_function is not model.fused_loss:
        return "the model has a loss_function of its own"
    returns = arguments.get("return_dict")
    if not (model.config.return_dict if returns is None else returns):
        return "return_dict is off"
    kept = arguments.get("logits_to_keep")
    return "logits_to_keep is given" if isinstance(kept, Tensor) or kept else None


class _WithoutLogits(nn.Module):
    """Mixed into a model class with an `lm_head`: in training, with labels, the loss needs no logits."""

    # Whether it was switched on for a model with adapters, and so ends with them (`merge_and_unload`).
    while_adapted = False
    # The `loss_function` that is computed without logits; None where the model's forward calls none.
    fused_loss: Any = None

    def _fuses(self: Any, arguments: dict[str, Any]) -> bool:
        if not self.training or arguments.get("labels") is None or torch.compiler.is_compiling():
            return False
        if self.while_adapted and not is_adapted(self):
            return False
        if reason := obstacle(self, arguments):
            warnings.warn(f'recompute=["loss"] keeps the logits: {reason}', stacklevel=4)
        return reason is None

    @contextmanager
    def _without_head(self: Any) -> Iterator[nn.Linear]:
        head = self.lm_head
        self.lm_head = nn.Identity()
        try:
            yield head
        finally:
            self.lm_head = head


def _named(forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a model's forward, all by name."""
    return dict(zip(inspect.signature(forward).parameters, args, strict=False)) | kwargs


def _with_loss(outputs: ModelOutput, loss: Tensor) -> ModelOutput:
    return type(outputs)(**{**outputs, "loss": loss, "logits": None})


class _CausalLM(_WithoutLogits):
    """A causal language model whose training loss needs no logits: with labels, in training mode, `logits` is None."""

    fused_loss = staticmethod(ForCausalLMLoss)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's."""
        arguments = _named(super().forward, args, kwargs)
        if not self._fuses(arguments):
            return super().forward(*args, **kwargs)
        options = {
            name: arguments.pop(name)
            for name in ("num_items_in_batch", "ignore_index", "shift_labels")
            if name in arguments
        }
        labels = arguments.pop("labels")
        with self._without_head() as head:
            outputs = super().forward(**arguments)
        return _with_loss(outputs, causal_lm_loss(outputs.logits, labels, head, **options))


class _Seq2SeqLM(_WithoutLogits):
    """T5 whose training loss needs no logits: with labels, in training mode, `logits` is None."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's, which knows neither a loss_function nor a count of items."""
        arguments = _named(super().forward, args, kwargs)
        if not self._fuses(arguments):
            return super().forward(*args, **kwargs)
        labels = arguments.pop("labels")
        if arguments.get("decoder_input_ids") is None and arguments.get("decoder_inputs_embeds") is None:
            arguments["decoder_input_ids"] = self._shift_right(labels)
        with self._without_head() as head:
            outputs = super().forward(**arguments)
        loss = linear_cross_entropy(outputs.logits, head.weight, labels, head.bias)
        return _with_loss(outputs, loss / labels.ne(IGNORE_INDEX).sum().to(loss.device))


CLASSES = derived(
    "",
    _CausalLM,
    transformers.LlamaForCausalLM,
    transformers.Qwen2ForCausalLM,
    transformers.Qwen3ForCausalLM,
    transformers.MistralForCausalLM,
    transformers.GemmaForCausalLM,
    transformers.Phi3ForCausalLM,
) | derived("", _Seq2SeqLM, transformers.T5ForConditionalGeneration)
