"""Gradients of B on the way to it."""

from torch import Tensor

from lorafa.autograd import Context, TensorFunction


class _ProjectGradient(TensorFunction):
    generate_vmap_rule = True

    @staticmethod
    def forward(B: Tensor, preconditioner: Tensor) -> Tensor:
        return B.view_as(B)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        (preconditioner,) = ctx.saved_tensors
        return (grad.to(preconditioner.dtype) @ preconditioner).to(grad.dtype), None


class _ScaleGradient(TensorFunction):
    generate_vmap_rule = True

    @staticmethod
    def forward(B: Tensor, factor: float) -> Tensor:
        return B.view_as(B)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def scale_gradient(B: Tensor, factor: float) -> Tensor:
    """Return B as it is, with its gradient multiplied by a number on its way back."""
    return B if factor == 1 else _ScaleGradient.apply(B, factor)


def project_gradient(B: Tensor, preconditioner: Tensor | None) -> Tensor:
    """Return B as it is, with its gradient multiplied from the right on its way back.

    Args:
        B: (..., out, r).
        preconditioner: (..., r, r), of `lorafa.functional.projection`; None leaves the gradient alone.
    """
    return B if preconditioner is None else _ProjectGradient.apply(B, preconditioner)
