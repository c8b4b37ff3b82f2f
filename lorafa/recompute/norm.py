"""RMSNorm that saves its input once, and the inverse scale.

`torch.nn.LayerNorm` already does: it keeps the input in its own dtype, the mean and the inverse deviation.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm


class RmsNorm(Function):
    """weight · X / rms(X), computed in fp32 at least; the normalised X is rounded to `dtype` before the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Save x and 1 / rms(x), (..., 1)."""
        wide = _widened(x)
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, scale, weight)
        ctx.dtype = dtype
        return weight * (wide * scale).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Recompute the normalised x."""
        x, scale, weight = ctx.saved_tensors
        normal = _widened(x) * scale  # not in place: x itself where it is wide already
        grad_x = grad_weight = None
        if ctx.needs_input_grad[1]:
            products = grad * normal.to(ctx.dtype)
            grad_weight = products.sum(tuple(range(products.dim() - 1))).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            grad_normal = _widened((grad * weight).to(ctx.dtype))
            inner = (grad_normal * normal).mean(-1, keepdim=True)
            grad_x = grad_normal.addcmul_(normal, inner, value=-1).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None, None


def _widened(x: Tensor) -> Tensor:
    """The tensor in fp32, or as it is if it is wider; may be the tensor itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """Root mean square layer normalisation (https://arxiv.org/abs/1910.07467).

    Args:
        x: Input, (..., d).
        weight: Scale, (d,).
        eps: Added to the mean square.
        dtype: Dtype to which the normalised input is rounded; x's if None.
    """
    return RmsNorm.apply(x, weight, eps, dtype or x.dtype)


class LeanLlamaRMSNorm(LlamaRMSNorm):
    """LLaMA's RMSNorm without the fp32 copy of its input."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class LeanT5LayerNorm(T5LayerNorm):
    """T5's RMSNorm without the fp32 copy of its input."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        half = self.weight.dtype in (torch.float16, torch.bfloat16)
        dtype = self.weight.dtype if half else torch.promote_types(hidden_states.dtype, torch.float32)
        return rms_norm(hidden_states, self.weight, self.variance_epsilon, dtype)
