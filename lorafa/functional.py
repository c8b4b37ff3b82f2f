"""The autograd function of LoRA-FA: what an adapted layer saves for backward is decided here."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from lorafa.autograd import Context, remembered

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
    return (lanes[: like.numel()] < _dropped_levels(p) - _LEVELS // 2).view(like.shape)


@dropped.register_fake
def _(like: Tensor, p: float, seed: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=torch.bool, device=like.device)


@dropped.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, ...], like: Tensor, p: float, seed: Tensor
) -> tuple[Tensor, int | None]:
    like_dim, _, seed_dim = in_dims
    example = like if like_dim is None else like.select(like_dim, 0)
    if seed_dim is None:  # randomness="same": one mask for every example
        return dropped(example, p, seed), None
    return torch.stack([dropped(example, p, own) for own in seed.unbind(seed_dim)]), 0


def _dropped_levels(p: float) -> int:
    """How many of the equally probable levels are dropped; one is kept as long as p < 1."""
    return min(round(p * _LEVELS), _LEVELS - 1)


def new_seed() -> Tensor:
    """Draw a mask's seed from the CPU's default generator: an int64 scalar, 8 bytes.

    Being a draw from the default generator, it follows `torch.manual_seed` and is replayed by
    `torch.utils.checkpoint`; being on the CPU, it never synchronises a device.
    """
    return torch.randint(2**63 - 1, ())


def keep_probability(p: float) -> float:
    """Probability with which `dropped` really keeps an element."""
    return 1 - _dropped_levels(p) / _LEVELS


def dtype_of_product(x: Tensor) -> torch.dtype:
    """Dtype in which a product with an input is computed: autocast's, where there is autocast."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


@remembered
class LoraFa(Function):
    """Y = XW + b + s·dropout(X)A·B, or Y = base + s·dropout(X)A·B for a base that is computed elsewhere.

    Shapes are those of `torch.nn.Linear`, with the rows of X in one dimension: X (rows, in), weight (out, in),
    A (r, in), B (out, r). Returns Y and XA; the second is an output so that derivatives flow through it.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
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
    ) -> tuple[Tensor, Tensor]:
        """Compute Y and XA."""
        dtype = dtype_of_product(x) if base is None else base.dtype
        with _no_autocast(x):
            rows = x.to(dtype)
            xa = (rows if seed is None else rows.masked_fill(dropped(rows, p, seed), 0)) @ A.to(dtype).T
            if base is not None:
                return torch.addmm(base, xa, B.to(dtype).T, alpha=scaling), xa
            assert weight is not None
            # Under autocast these casts are copies, which die here: backward makes them again.
            y = F.linear(rows, weight.to(dtype), None if bias is None else bias.to(dtype))
            return _add_product(y, xa, B.to(dtype).T, scaling), xa

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save XA and the mask's seed."""
        x, _, weight, _, A, B, ctx.scaling, ctx.p, seed, preconditioner = inputs
        y, xa = output
        learns, flows = ctx.needs_input_grad[5], ctx.needs_input_grad[0]
        ctx.save_for_backward(
            xa if learns else None,
            seed if flows else None,
            weight if flows else None,
            A if flows else None,
            B,
            preconditioner if learns else None,
        )
        ctx.save_for_forward(x, xa, seed, weight, A, B)  # released when the forward pass is over
        ctx.set_materialize_grads(False)
        ctx.x_dtype, ctx.dtype = x.dtype, y.dtype

    @staticmethod
    def backward(ctx: Context, grad: Tensor | None, grad_xa: Tensor | None) -> tuple[Tensor | None, ...]:
        """Give B its gradient from XA, and x its own through the mask drawn again.

        The gradient of XA is None but in second derivatives.
        """
        xa, seed, weight, A, B, preconditioner = ctx.saved_tensors
        given = grad if grad is not None else grad_xa
        if given is None:
            return (None,) * 10
        grad_x = grad_B = None
        with _no_autocast(given):
            if ctx.needs_input_grad[0]:
                if grad is not None:
                    through = (grad @ B.to(grad.dtype)).mul_(ctx.scaling)
                    grad_xa = through if grad_xa is None else through + grad_xa
                assert grad_xa is not None
                grad_x = grad_xa @ A.to(grad_xa.dtype)
                if seed is not None:
                    mask = dropped(grad_x, ctx.p, seed)
                    grad_x = grad_x.masked_fill(mask, 0) if _batches() else grad_x.masked_fill_(mask, 0)
                if weight is not None and grad is not None:
                    grad_x = _add_product(grad_x, grad, weight.to(grad.dtype))
                grad_x = grad_x.to(ctx.x_dtype)
            if xa is not None and grad is not None:
                grad_B = (grad.T @ xa).mul_(ctx.scaling)
                if preconditioner is not None:
                    grad_B = grad_B.to(preconditioner.dtype) @ preconditioner
                grad_B = grad_B.to(B.dtype)
        grad_base = grad if ctx.needs_input_grad[1] else None
        return grad_x, grad_base, None, None, None, grad_B, None, None, None, None


class DualLoraFa(LoraFa):
    """`LoraFa` with forward-mode derivatives, which `torch.compile` does not take."""

    @staticmethod
    def jvp(ctx: Context, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        """Push the tangents of all tensors forward, frozen ones included."""
        x, xa, seed, weight, A, B = ctx.saved_for_forward
        dx, base, dweight, dbias, dA, dB = (
            None if tangent is None else tangent.to(ctx.dtype) for tangent in tangents[:6]
        )

        def down(rows: Tensor, projection: Tensor) -> Tensor:
            rows = rows.to(ctx.dtype)
            kept = rows if seed is None else rows.masked_fill(dropped(rows, ctx.p, seed), 0)
            return kept @ projection.to(ctx.dtype).T

        y, through = xa.new_zeros(x.shape[0], B.shape[0]), torch.zeros_like(xa)
        with _no_autocast(x):
            if dx is not None:
                through = through + down(dx, A)
                y = y if weight is None else y + dx @ weight.to(ctx.dtype).T
            if dA is not None:
                through = through + down(x, dA)
            if dweight is not None:
                y = y + x.to(ctx.dtype) @ dweight.T
            if dB is not None:
                y = y + xa @ dB.T * ctx.scaling
            for added in (base, dbias):
                y = y if added is None else y + added
            return y + through @ B.to(ctx.dtype).T * ctx.scaling, through


def _batches() -> bool:
    """Whether a transform of `torch.func` is running; vmap forbids to write into what is not batched."""
    return torch._C._are_functorch_transforms_active()


def _add_product(y: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """Return y + alpha·ab, in the memory of y, a temporary, where that is possible.

    A compiler chooses the memory itself; PyTorch 2.11's gives zeros as gradients of what a function writes in place.
    """
    if _batches() or torch.compiler.is_compiling():
        return torch.addmm(y, a, b, alpha=alpha)
    return y.addmm_(a, b, alpha=alpha)


def _no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Keep autocast from changing the dtypes that the function chose itself."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


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
    return _apply(x, None, weight, bias, A, B, scaling, dropout, preconditioner)


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
    return _apply(x, base, None, None, A, B, scaling, dropout, preconditioner)


def _apply(
    x: Tensor,
    base: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    scaling: float,
    dropout: float,
    preconditioner: Tensor | None,
) -> Tensor:
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout must be in [0, 1], not {dropout}")
    if A.requires_grad:
        raise ValueError("LoRA-FA gives A no gradient: freeze it")
    if torch.jit.is_tracing():  # a traced graph can hold operators, not functions written in Python
        return _traceable(x, base, weight, bias, A, B, scaling, dropout)
    seed = new_seed() if 0 < dropout < 1 else None
    scaling = 0.0 if dropout == 1 else scaling / keep_probability(dropout)
    rows = x.reshape(-1, x.shape[-1])
    rows_base = None if base is None else base.reshape(-1, B.shape[0])
    function = LoraFa if torch.compiler.is_compiling() else DualLoraFa
    y: Tensor = function.apply(rows, rows_base, weight, bias, A, B, scaling, dropout, seed, preconditioner)[0]
    # Reshaped as torch.matmul does it: to autograd a new tensor and not a view, which in-place operations
    # could change only with a copy of the gradient.
    return y if x.dim() == 2 else cast(Tensor, torch.ops.aten._unsafe_view(y, (*x.shape[:-1], B.shape[0])))


def _traceable(
    x: Tensor,
    base: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    scaling: float,
    dropout: float,
) -> Tensor:
    y = base
    if y is None:
        assert weight is not None
        y = F.linear(x, weight, bias)
    kept = F.dropout(x.to(y.dtype), dropout) if dropout else x.to(y.dtype)
    return y + F.linear(F.linear(kept, A.to(y.dtype)), B.to(y.dtype)) * scaling


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
    return pseudo_inverse(gram(A)) / scaling**2


def gram(A: Tensor) -> Tensor:
    """AAᵀ, the inner products of A's rows, in fp32 (fp64 if A is), with or without autocast."""
    A = A.detach().to(torch.promote_types(A.dtype, torch.float32))
    with _no_autocast(A):
        return A @ A.T


def pseudo_inverse(products: Tensor) -> Tensor:
    """Pseudo-inverse of AAᵀ: the inverse, where A's rows are independent."""
    with _no_autocast(products):
        return cast(Tensor, torch.linalg.pinv(products, hermitian=True))
