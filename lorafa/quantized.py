"""LoRA-FA over bitsandbytes' 4-bit (QLoRA) and 8-bit linear layers."""

from typing import Any

import bitsandbytes as bnb
from peft.tuners.lora import LoraConfig
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from peft.tuners.lora.bnb import Linear8bitLt as PeftLinear8bit
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from lorafa.layers import LoraFaLayer


class _Frozen8bit(Function):
    """Frozen 8-bit linear layer that saves nothing; bitsandbytes' own keeps its input on CUDA."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: bnb.nn.Linear8bitLt) -> Tensor:
        """Multiply as bitsandbytes does."""
        ctx.base, ctx.dtype = base, x.dtype
        return base(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Multiply with the weight dequantised."""
        state = ctx.base.state
        state.SCB = ctx.base.weight.SCB if state.SCB is None else state.SCB
        weight = dequantize_bnb_weight(ctx.base.weight, state=state)
        return (grad @ weight.to(grad.dtype)).to(ctx.dtype), None


class LoraFaLinear8bit(LoraFaLayer, PeftLinear8bit):
    """A bitsandbytes 8-bit linear layer with LoRA-FA adapters."""

    def _base_forward(self, x: Tensor) -> Tensor:
        return _Frozen8bit.apply(x, self.base_layer)


class LoraFaLinear4bit(LoraFaLayer, PeftLinear4bit):
    """A bitsandbytes 4-bit linear layer with LoRA-FA adapters (paper §3.2, QLoRA)."""


def new_quantized_layer(
    target: nn.Module, adapter_name: str, config: LoraConfig, **kwargs: Any
) -> LoraFaLayer:
    """Wrap a bitsandbytes linear layer.

    Raises:
        ValueError: If it is another of bitsandbytes' modules.
    """
    base = target.get_base_layer() if isinstance(target, LoraFaLayer) else target
    if isinstance(base, bnb.nn.Linear4bit):
        return LoraFaLinear4bit(target, adapter_name, config=config, **kwargs)
    if isinstance(base, bnb.nn.Linear8bitLt):
        return LoraFaLinear8bit(target, adapter_name, config=config, **kwargs)
    raise ValueError(f"LoRA-FA cannot adapt {kwargs.get('target_name')}, a {type(base).__name__}")
