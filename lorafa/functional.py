"""The autograd function of LoRA-FA: what an adapted layer saves for backward is decided here."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LANES = 4  # int16 lanes in one random int64: four mask elements from one random number
_LEVELS = 1 << 16


@torch.library.custom_op("lorafa::dropped", mutates_args=())
def dropped(like: Tensor, p: float, seed: Tensor) -> Tensor:
    """Draw the dropout mask that belongs to `seed`; the same arguments always give the same mask.

    An operator of its own, so that `torch.compile` and fake tensors treat it as opaque.

    Args:
        like: Tensor whose shape and device the mask takes.
        p: Probability of dropping an element, honoured to a resolution of 2**-16.
        seed: int64 scalar on the CPU.

    Returns:
        bool tensor of the shape of `like`, True where an element is dropped.
    """
    generator = torch.Generator(like.device).manual_seed(int(seed))
    words = torch.empty(-(-like.numel() // _LANES), dtype=torch.int64, device=like.device)
    lanes = words.random_(-(2**63), None, generator=generator).view(torch.int16)
    return (lanes[: like.numel()] < round(p * _LEVELS) - _LEVELS // 2).view(like.shape)


@dropped.register_fake
def _(like: Tensor, p: float, seed: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=torch.bool, device=like.device)


def new_seed() -> Tensor:
    """Draw a mask's seed from the CPU's default generator: an int64 scalar, 8 bytes.

    Being a draw from the default generator, it follows `torch.manual_seed` and is replayed by
    `torch.utils.checkpoint`; being on the CPU, it never synchronises a device.
    """
    return torch.randint(2**63 - 1, ())


def keep_probability(p: float) -> float:
    """Probability with which `dropped` really keeps an element."""
    return 1 - round(p * _LEVELS) / _LEVELS


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


class LoraFa(Function):
    """Y = XW + b + s·dropout(X)A·B, or Y = base + s·dropout(X)A·B for a base that is computed elsewhere.

    Shapes are those of `torch.nn.Linear`: weight (out, in), A (r, in), B (out, r).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        A: Tensor,
        B: Tensor,
        scaling: float,
        p: float,
        seed: Tensor | None,
        preconditioner: Tensor | None,
    ) -> Tensor:
        """Save XA and the mask's seed."""
        dtype = _compute_dtype(x) if base is None else base.dtype
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        kept = rows if seed is None else rows.masked_fill(dropped(rows, p, seed), 0)
        xa = kept @ A.to(dtype).T
        if base is None:
            assert weight is not None
            w, b = weight, bias
            if dtype != x.dtype:  # autocast: these copies die here, backward makes them again
                w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
            y = F.linear(rows, w, b).addmm_(xa, B.to(dtype).T, alpha=scaling)
        else:
            y = torch.addmm(base.reshape(-1, B.shape[0]), xa, B.to(dtype).T, alpha=scaling)

        learns, flows = ctx.needs_input_grad[5], ctx.needs_input_grad[0]
        ctx.save_for_backward(
            xa if learns else None,
            seed if flows else None,
            weight if flows else None,
            A if flows else None,
            B,
            preconditioner if learns else None,
        )
        ctx.shape, ctx.dtype, ctx.p, ctx.scaling = x.shape, x.dtype, p, scaling
        return y.view(*x.shape[:-1], B.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give B its gradient from XA, and x its own through the mask drawn again."""
        xa, seed, weight, A, B, preconditioner = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_B = None
        if ctx.needs_input_grad[0]:
            grad_xa = (rows @ B.to(grad.dtype)).mul_(ctx.scaling)
            grad_x = grad_xa @ A.to(grad.dtype)
            if seed is not None:
                grad_x.masked_fill_(dropped(grad_x, ctx.p, seed), 0)
            if weight is not None:
                grad_x.addmm_(rows, weight.to(grad.dtype))
            grad_x = grad_x.to(ctx.dtype).view(ctx.shape)
        if xa is not None:
            grad_B = (rows.T @ xa).mul_(ctx.scaling)
            if preconditioner is not None:
                grad_B = grad_B.to(preconditioner.dtype) @ preconditioner
            grad_B = grad_B.to(B.dtype)
        grad_base = grad if ctx.needs_input_grad[1] else None
        return grad_x, grad_base, None, None, None, grad_B, None, None, None, None


def lora_fa_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    scaling: float,
    dropout: float = 0.0,
    preconditioner: Tensor | None = None,
) -> Tensor:
    """Linear layer with a LoRA-FA adapter: Y = XW + b + s·dropout(X)A·B, only B trained (paper eq. 2).

    Saves XA for backward (rows·r elements of the compute dtype) and, with dropout, the mask's seed (8 bytes);
    the rest are references to parameters. X, masks and cast copies are never kept.

    Args:
        x: Input, (..., in_features). Its dtype, or autocast's, is the compute dtype.
        weight: Frozen weight, (out_features, in_features).
        bias: Frozen bias, (out_features,), or None.
        A: Frozen projection down, (r, in_features), of any floating dtype.
        B: Trained projection up, (out_features, r), of any floating dtype; its gradient comes in that dtype.
        scaling: s, alpha / r in the paper.
        dropout: Probability of dropping an element of the adapter's input.
        preconditioner: If given, (r, r), multiplied to B's gradient from the right; see `projection`.

    Returns:
        Output, (..., out_features), in the compute dtype.

    Raises:
        ValueError: If `weight` or `bias` requires a gradient, which would never come.
        RuntimeError: On double backward, which is not implemented.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("lora_fa_linear gives weight and bias no gradient: freeze them, or use add_lora_fa")
    return LoraFa.apply(x, None, weight, bias, A, B, *_options(scaling, dropout, preconditioner))


def add_lora_fa(
    base: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    scaling: float,
    dropout: float = 0.0,
    preconditioner: Tensor | None = None,
) -> Tensor:
    """Add a LoRA-FA adapter to the output of any linear layer: base + s·dropout(X)A·B.

    For base layers that compute XW their own way (quantised, hooked, trained) and for further active
    adapters. Saves what `lora_fa_linear` saves.

    Args:
        base: Output of the base layer, (..., out_features). Its dtype is the compute dtype.
        x: Input of the base layer, (..., in_features).
        A: Frozen projection down, (r, in_features).
        B: Trained projection up, (out_features, r).
        scaling: s, alpha / r in the paper.
        dropout: Probability of dropping an element of the adapter's input.
        preconditioner: See `lora_fa_linear`.

    Returns:
        Output, (..., out_features), in the dtype of `base`.
    """
    return LoraFa.apply(x, base, None, None, A, B, *_options(scaling, dropout, preconditioner))


def _options(
    scaling: float, dropout: float, preconditioner: Tensor | None
) -> tuple[float, float, Tensor | None, Tensor | None]:
    seed = new_seed() if dropout > 0 else None
    return scaling / keep_probability(dropout), dropout, seed, preconditioner


def projection(A: Tensor, scaling: float) -> Tensor:
    """Matrix that turns B's gradient into the one whose ΔW is closest to full fine-tuning's: s⁻²(AAᵀ)⁻¹.

    The least-squares solution of min ‖s·G·A − dW‖ over G; the identity over s² when A is orthonormal (eq. 3).
    Source: PEFT's `create_lorafa_optimizer`, after a later version of the paper.

    Args:
        A: (r, in_features).
        scaling: s.

    Returns:
        fp32 (fp64 if A is) tensor, (r, r).
    """
    A = A.detach().to(torch.promote_types(A.dtype, torch.float32))
    return torch.linalg.pinv(A @ A.T, hermitian=True) / scaling**2
