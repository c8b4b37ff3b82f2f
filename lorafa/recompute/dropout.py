"""Dropout that saves the seed of its mask and draws the mask again in backward (paper §3.2)."""

from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lorafa.autograd import Context, TensorFunction
from lorafa.functional import dropped, keep_probability, new_seed
from lorafa.recompute.classes import Classes


class ReplayedDropout(TensorFunction):
    """Dropout whose mask belongs to a seed."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, p: float, seed: Tensor) -> Tensor:
        """Save the seed, 8 bytes."""
        ctx.save_for_backward(seed)
        ctx.p = p
        return x.masked_fill(dropped(x, p, seed), 0).mul_(1 / keep_probability(p))

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None, None]:
        """Draw the mask again."""
        (seed,) = ctx.saved_tensors
        return grad.masked_fill(dropped(grad, ctx.p, seed), 0).mul_(1 / keep_probability(ctx.p)), None, None


def replayed_dropout(x: Tensor, dropout: nn.Module) -> Tensor:
    """Apply a `torch.nn.Dropout`, or the identity that PEFT has in its place, and keep no mask."""
    p = getattr(dropout, "p", 0.0)
    if not dropout.training or getattr(dropout, "inplace", False) or not 0 < p < 1:
        return nn.Dropout.forward(dropout, x) if isinstance(dropout, nn.Dropout) else dropout(x)
    return ReplayedDropout.apply(x, p, new_seed())


class LeanDropout(nn.Dropout):
    """`torch.nn.Dropout` that keeps no mask."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of a tensor of any shape."""
        return replayed_dropout(x, self)


CLASSES: Classes = {nn.Dropout: LeanDropout}
