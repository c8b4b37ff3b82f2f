"""Linear layers with a 4-bit base weight, in size and in what they allocate (QLoRA)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from lorafa.autograd import Context, TensorFunction

BLOCK = 64  # weights that share one absmax
ABSMAX_BLOCK = 256  # absmax values that share one second-level absmax


def nf4_bytes(numel: int) -> int:
    """Bytes of `numel` weights in NF4 with double quantization: 4 bits, 8 bits per 64, 32 bits per 64 × 256.

    Source: Dettmers et al. 2023 (QLoRA), §3; bitsandbytes' layout.
    """
    blocks = -(-numel // BLOCK)
    return -(-numel // 2) + blocks + 4 * -(-blocks // ABSMAX_BLOCK)


class _DequantizedLinear(TensorFunction):
    """y = x·Wᵀ for a W that is dequantized for the product, and again in backward, and never kept."""

    @staticmethod
    def forward(
        ctx: Context, x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, shape: torch.Size
    ) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.shape = shape
        return F.linear(x, x.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Context, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return grads[0] @ grads[0].new_empty(ctx.shape), None, None, None


class NF4Linear(nn.Linear):
    """A linear layer whose weight has the size of NF4 and whose products dequantize it, as bitsandbytes' do.

    It stands for `bitsandbytes.nn.Linear4bit` where only sizes matter: its numbers mean nothing.
    """

    def __init__(self, original: nn.Linear) -> None:
        super().__init__(original.in_features, original.out_features, bias=False, device="meta")
        packed = torch.empty(nf4_bytes(original.weight.numel()), dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = original.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (…, in_features) to (…, out_features)."""
        shape = torch.Size((self.out_features, self.in_features))
        return _DequantizedLinear.apply(input, self.weight, self.bias, shape)


def quantize(model: nn.Module, linears: Iterable[nn.Module]) -> None:
    """Put an `NF4Linear` in the place of each of these linear layers, wherever in the model they are."""
    chosen = {id(linear) for linear in linears}
    for path, module in list(model.named_modules()):
        if id(module) in chosen:
            assert isinstance(module, nn.Linear)
            model.set_submodule(path, NF4Linear(module))
