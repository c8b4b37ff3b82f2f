"""RMSNorm that saves its input once, and the inverse scale.

`torch.nn.LayerNorm` already does: it keeps the input in its own dtype, the mean and the inverse deviation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from lorafa.autograd import Context, TensorFunction
from lorafa.recompute.classes import derived


class RmsNorm(TensorFunction):
    """weight · X / rms(X), computed in fp32 at least.

    The normalised X is rounded to `dtype` before the product, and the product to `out`, if that is given.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, out: torch.dtype | None
    ) -> Tensor:
        """Save x and 1 / rms(x), (..., 1)."""
        scale = torch.rsqrt(_widened(x).pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, scale, weight)
        ctx.dtype, ctx.out = dtype, out
        return RmsNorm.output(ctx, x, scale, weight)

    @staticmethod
    def output(ctx: Context, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
        """The normalised x times the weight, of what is saved."""
        y = weight * (_widened(x) * scale).to(ctx.dtype)
        return y if ctx.out is None else y.to(ctx.out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
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
        return grad_x, grad_weight, None, None, None


def _widened(x: Tensor) -> Tensor:
    """The tensor in fp32, or as it is if it is wider; may be the tensor itself."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def is_norm(node: object) -> bool:
    """Whether a node of autograd's graph is of `rms_norm`."""
    return isinstance(node, RmsNorm._backward_cls)


def norm_output(node: Any, rows: slice | None = None) -> Tensor:
    """The output of `rms_norm` once more, from its node: all of it, or some of its rows, (rows, d)."""
    x, scale, weight = node.saved_tensors
    if rows is not None:
        x, scale = x.flatten(0, -2)[rows], scale.flatten(0, -2)[rows]
    return RmsNorm.output(node, x, scale, weight)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype | None = None, out: torch.dtype | None = None
) -> Tensor:
    """Root mean square layer normalisation (https://arxiv.org/abs/1910.07467).

    Args:
        x: Input, (..., d).
        weight: Scale, (d,).
        eps: Added to the mean square.
        dtype: Dtype to which the normalised input is rounded; x's if None.
        out: Dtype of the output; what the product with the weight gives if None.
    """
    return RmsNorm.apply(x, weight, eps, dtype or x.dtype, out)


class _LlamaLike(nn.Module):
    """LLaMA's RMSNorm without the fp32 copy of its input."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class _T5(_LlamaLike):
    """T5's RMSNorm without the fp32 copy of its input."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        half = self.weight.dtype in (torch.float16, torch.bfloat16)
        dtype = self.weight.dtype if half else torch.promote_types(hidden_states.dtype, torch.float32)
        return rms_norm(hidden_states, self.weight, self.variance_epsilon, dtype)


class _Gemma(nn.Module):
    """Gemma's RMSNorm, by 1 + weight in fp32, without the fp32 copies of its input."""

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last dimension."""
        return rms_norm(x, 1 + _widened(self.weight), self.eps, _widened(x[:0]).dtype, x.dtype)


CLASSES = {
    **derived("Lean", _LlamaLike, LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm, MistralRMSNorm, Phi3RMSNorm),
    **derived("Lean", _T5, T5LayerNorm),
    **derived("Lean", _Gemma, GemmaRMSNorm),
}
