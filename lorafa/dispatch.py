"""Which LoRA-FA layer adapts which module."""

import copy
from typing import Any, cast

from peft.tuners.lora import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorafa.attention import LoraFaMultiheadAttention, LoraFaOutProjection
from lorafa.conv import LoraFaConv1d, LoraFaConv2d, LoraFaConv3d
from lorafa.embedding import LoraFaEmbedding
from lorafa.layers import LoraFaLayer, LoraFaLinear
from lorafa.parameters import ParamWrapper

# The first type that a module is of decides. PEFT's `dispatch_default` knows the same.
LAYERS: dict[type[nn.Module], type[LoraFaLayer]] = {
    nn.modules.linear.NonDynamicallyQuantizableLinear: LoraFaOutProjection,
    nn.Linear: LoraFaLinear,
    Conv1D: LoraFaLinear,
    nn.Embedding: LoraFaEmbedding,
    nn.Conv1d: LoraFaConv1d,
    nn.Conv2d: LoraFaConv2d,
    nn.Conv3d: LoraFaConv3d,
    nn.MultiheadAttention: LoraFaMultiheadAttention,
}
# What backward keeps of each kind, for the documentation.
_XA = "XA: r numbers for each row of the input"
KEPT = {
    "torch.nn.Linear": _XA,
    "transformers.pytorch_utils.Conv1D": f"{_XA}; `fan_in_fan_out` follows from the module",
    "bitsandbytes.nn.Linear4bit": _XA,
    "bitsandbytes.nn.Linear8bitLt": _XA,
    "torch.nn.Conv1d": "XA, the output of A: r channels; A takes the dilation, which PEFT leaves out",
    "torch.nn.Conv2d": "as `Conv1d`. Padding by `reflect` or `replicate` keeps the input, as torch's own does",
    "torch.nn.Conv3d": "as `Conv1d`",
    "torch.nn.Embedding": "the tokens, which the caller has anyway. A begins random and B at zero, unlike PEFT's",
    "torch.nn.MultiheadAttention": "XA of each input, and of the output projection. PEFT 0.21.2 adds the output "
    "projection's adapter twice, and so does this: a checkpoint means the same. Dropout is applied, unlike PEFT's",
    "out_proj": "of an attention that is not itself adapted: its input, as under PEFT; there it has no effect",
    "target_parameters": f"{_XA}, in products; see below",
}


def new_layer(
    target: nn.Module,
    adapter_name: str,
    config: LoraConfig,
    parameter_name: str | None = None,
    **kwargs: Any,
) -> LoraFaLayer:
    """Wrap a module, as PEFT's dispatcher of custom modules asks.

    Args:
        target: Module to adapt, which may have adapters.
        adapter_name: Name of the new adapter.
        config: Its configuration.
        parameter_name: Parameter of `target` that is adapted, if PEFT was given `target_parameters`.
        kwargs: What PEFT passes to its layers: r, lora_alpha, target_name, ...

    Raises:
        ValueError: If LoRA-FA has no layer for such a module.
    """
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    name = kwargs.get("target_name")
    if kwargs.get("tied_adapter"):
        raise ValueError(
            f"LoRA-FA cannot tie the adapters of {name}: its A would be the trained B of the embedding. "
            "Set ensure_weight_tying=False"
        )
    if parameter_name is not None:
        return ParamWrapper(target, adapter_name, parameter_name, config=config, **kwargs)
    if type(base).__module__.startswith("bitsandbytes."):
        from lorafa.quantized import new_quantized_layer

        return new_quantized_layer(target, adapter_name, config=config, **kwargs)
    layer: Any = next((layer for kind, layer in LAYERS.items() if isinstance(base, kind)), None)
    if layer is None or not all(p.is_floating_point() for p in base.parameters(recurse=False)):
        kinds = ", ".join(kind.__name__ for kind in LAYERS if not kind.__name__.startswith("NonDynamically"))
        raise ValueError(
            f"LoRA-FA cannot adapt {name}, a {type(base).__name__}: it adapts floating-point {kinds}, "
            "bitsandbytes' 4- and 8-bit linear layers, and parameters by target_parameters"
        )
    transposed = isinstance(base, Conv1D)
    if config.fan_in_fan_out != transposed:  # it follows from the module; other layers have their own
        config = copy.copy(config)
        config.fan_in_fan_out = transposed
    if transposed:
        kwargs["is_target_conv_1d_layer"] = True
    return cast(LoraFaLayer, layer(target, adapter_name, config=config, **kwargs))
