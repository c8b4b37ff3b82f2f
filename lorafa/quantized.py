"""LoRA-FA over bitsandbytes' 4-bit (QLoRA) and 8-bit linear layers."""

from typing import Any, cast

import bitsandbytes as bnb
from peft.tuners.lora import LoraConfig, LoraLayer
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from peft.tuners.lora.bnb import Linear8bitLt as PeftLinear8bit
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn

from lorafa.autograd import Context, TensorFunction, remembered
from lorafa.layers import LoraFaLayer


@remembered
class _Frozen8bit(TensorFunction):
    """Frozen 8-bit linear layer that saves nothing; bitsandbytes' own keeps its input on CUDA."""

    @staticmethod
    def forward(x: Tensor, base: bnb.nn.Linear8bitLt) -> Tensor:
        """Multiply as bitsandbytes does."""
        return cast(Tensor, base(x))

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save nothing."""
        x, ctx.base = inputs
        ctx.dtype = x.dtype

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        """Multiply with the weight dequantised."""
        state = ctx.base.state
        state.SCB = ctx.base.weight.SCB if state.SCB is None else state.SCB
        weight = dequantize_bnb_weight(ctx.base.weight, state=state)
        return (grad @ weight.to(grad.dtype)).to(ctx.dtype), None


class _QuantizedLayer(LoraFaLayer):
    """Unmerging gives the very weight back: subtracting the adapter and quantising again would not."""

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into the weight, which is dequantised, changed and quantised again."""
        base: Any = self.base_layer
        if not self.merged:
            state = getattr(base, "state", None)  # 8-bit layers keep their scales there
            self._original = base.weight, state and (state.CB, state.SCB)
        super().merge(safe_merge=safe_merge, adapter_names=adapter_names)

    def unmerge(self) -> None:
        """Put the original weight back."""
        if not self.merged:
            return
        base: Any = self.base_layer
        base.weight, state = self._original
        if state is None:
            base.weight.bnb_quantized = True  # PEFT's merge cleared the flag of the old weight too
        else:
            base.state.CB, base.state.SCB = state
        self.merged_adapters.clear()
        del self._original


class LoraFaLinear8bit(_QuantizedLayer, PeftLinear8bit):
    """A bitsandbytes 8-bit linear layer with LoRA-FA adapters."""

    def _base_forward(self, x: Tensor) -> Tensor:
        return _Frozen8bit.apply(x, self.base_layer)


class LoraFaLinear4bit(_QuantizedLayer, PeftLinear4bit):
    """A bitsandbytes 4-bit linear layer with LoRA-FA adapters (paper §3.2, QLoRA)."""

    def __init__(self, base_layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        _keep_unpacked(base_layer.get_base_layer() if isinstance(base_layer, LoraLayer) else base_layer)
        super().__init__(base_layer, *args, **kwargs)

    @classmethod
    def adopt(cls, layer: LoraLayer) -> LoraFaLayer:
        """Return a layer of this class in place of PEFT's, as other layers do."""
        _keep_unpacked(layer.get_base_layer())
        return super().adopt(layer)


def _keep_unpacked(base: Any) -> None:
    """Keep bitsandbytes from packing a 4-bit weight for CPUs at the first evaluation.

    Raises:
        ValueError: If it has been packed: no gradient passes through it any more.
    """
    if getattr(base.weight.quant_state, "packing_format_for_cpu", False):
        raise ValueError("bitsandbytes has packed this layer for inference: adapt it before evaluating it")
    base.support_avx512bf16_for_cpu = False


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
