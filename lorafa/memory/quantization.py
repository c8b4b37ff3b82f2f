"""Linear layers with a 4-bit base weight, in size and in what they allocate (QLoRA)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from lorafa.autograd import Context, TensorFunction

BLOCK = 64  # weights that share one absmax
ABSMAX_BLOCK = 256  # absmax values that share one second-level absmax


def nf4_bytes(numel: int, double: bool = True) -> int:
    """Bytes of `numel` weights in NF4: 4 bits, and a scale per 64 of them.

    Source: Dettmers et al. 2023 (QLoRA), §3; bitsandbytes' layout.

    Args:
        numel: How many weights.
        double: Whether scales are quantized, too: 8 bits, and 32 bits per 256 of them; else they are float32.
    """
    blocks = -(-numel // BLOCK)
    return -(-numel // 2) + (blocks + 4 * -(-blocks // ABSMAX_BLOCK) if double else 4 * blocks)


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

    Args:
        original: The layer; products are in its weight's precision, whatever that of their input.
        double: As for `nf4_bytes`.
    """

    def __init__(self, original: nn.Linear, double: bool = True) -> None:
        super().__init__(original.in_features, original.out_features, bias=False, device="meta")
        packed = torch.empty(nf4_bytes(original.weight.numel(), double), dtype=torch.uint8, device="meta")
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = original.bias
        self.compute_dtype = original.weight.dtype

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (…, in_features) to (…, out_features)."""
        shape = torch.Size((self.out_features, self.in_features))
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        product = _DequantizedLinear.apply(input.to(self.compute_dtype), self.weight, bias, shape)
        return product.to(input.dtype)


def quantize(model: nn.Module, linears: Iterable[nn.Module], double: bool = True) -> None:
    """Put an `NF4Linear` in the place of each of these linear layers, wherever in the model they are."""
    chosen = {id(linear) for linear in linears}
    for path, module in list(model.named_modules()):
        if id(module) in chosen:
            assert isinstance(module, nn.Linear)
            model.set_submodule(path, NF4Linear(module, double))


def prepare(model: nn.Module, linears: Iterable[nn.Linear]) -> None:
    """Have all in float32 but the weights of layers to be quantized: PEFT's `prepare_model_for_kbit_training`."""
    quantized = {id(linear.weight) for linear in linears}
    for parameter in model.parameters():
        if id(parameter) not in quantized:
            parameter.data = parameter.data.float()
