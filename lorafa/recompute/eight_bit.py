"""Gate and up kept in 8 bits: approximate, and for LoRA-FA alone.

What is kept gives the gradients of gate and up, and so ∂L/∂X of the layers before; each B's gradient is made of its
exact XA. Under LoRA the product of gate and up is an input that A's gradient needs: either it is kept as well, and
nothing is saved, or A's gradient is made of what was rounded.
"""

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lorafa.autograd import Context, TensorFunction
from lorafa.layers import LoraFaLayer
from lorafa.recompute import activation
from lorafa.recompute.activation import ACTIVATIONS, Gated, gated_gradients
from lorafa.recompute.classes import extended

BLOCK = 128  # neighbours that share a scale


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round to int8 with a scale for each block of neighbours: the largest of them is ±127.

    Args:
        x: Of any shape.

    Returns:
        Integers, (blocks, `BLOCK`), the last block filled up with zeros, and fp32 scales, (blocks, 1).
    """
    blocks = F.pad(x.flatten(), (0, -x.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1, keepdim=True).float() / 127
    steps = blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)
    return steps.round_().to(torch.int8), scales


def dequantized(integers: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """What `quantized` rounded, off by at most half a scale, and its rounding to `dtype`."""
    return (integers * scales).to(dtype).flatten()[: shape.numel()].view(shape)


class GatedActivation8bit(TensorFunction):
    """act(gate)·up, exact; keeps gate and up in 8 bits, so that their gradients are approximate."""

    @staticmethod
    def forward(ctx: Context, gate: Tensor, up: Tensor, name: str) -> Tensor:
        """Save both inputs, rounded."""
        ctx.save_for_backward(*quantized(gate), *quantized(up))
        ctx.activation, ctx.like = name, (gate.shape, gate.dtype)
        return ACTIVATIONS[name][0](gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Compute act(gate) again, of what was rounded."""
        gate, gate_scales, up, up_scales = ctx.saved_tensors
        gate, up = dequantized(gate, gate_scales, *ctx.like), dequantized(up, up_scales, *ctx.like)
        return *gated_gradients(grad, gate, up, ctx.activation), None


class _RoundedGated(Gated):
    """A gated feed-forward network that keeps gate and up in 8 bits: its gradient is approximate."""

    def product(self, x: Tensor, name: str) -> Tensor:
        """act(gate)·up, (..., d_ff)."""
        return GatedActivation8bit.apply(*self.gate_and_up(x), name)


def obstacle(model: nn.Module) -> str | None:
    """Why a model may not round what it keeps: it is not LoRA-FA's; None if it is."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not any(isinstance(layer, LoraFaLayer) for layer in layers):
        return "the model has no adapters of LoRA-FA, and its gradients would be made of what was rounded"
    trained = [name for layer in layers for name, p in layer.named_parameters() if p.requires_grad]
    others = sorted({name for name in trained if not name.startswith(("lora_B.", "lora_embedding_B."))})
    return f"{others[0]} trains, whose gradient would be made of what was rounded" if others else None


CLASSES = extended("Rounded", _RoundedGated, activation.GATED)
