"""A from data: the leading directions of each layer's inputs (EVA, arXiv 2410.07170), as PEFT computes them."""

from collections.abc import Iterable
from typing import Any

from peft import EvaConfig, PeftModel
from peft.tuners.lora import initialize_lora_eva_weights
from peft.tuners.lora.eva import UNSUPPORTED_LORA_MODULES
from peft.tuners.lora.layer import ParamWrapper

from lorafa.attention import LoraFaOutProjection
from lorafa.audit import audit
from lorafa.config import LoraFaConfig
from lorafa.layers import LoraFaLayer

_REFUSED = (*UNSUPPORTED_LORA_MODULES, ParamWrapper, LoraFaOutProjection)


def initialize_eva(
    model: PeftModel,
    dataloader: Iterable[Any],
    adapter_name: str = "default",
    eva_config: EvaConfig | None = None,
    **kwargs: Any,
) -> PeftModel:
    """Set A to the leading right-singular vectors of the inputs of each adapted layer, the mean taken off.

    For an adapter with `init_A="eva"`, before its first step: until then its A is not a number, so that nothing trains
    by mistake. A's rows are orthonormal, AAᵀ = I as with "orthogonal", and A stays frozen. The base model sees the
    data in evaluation and without gradients.

    Args:
        model: A model with this adapter alone, over linear layers, quantised ones included.
        dataloader: Batches, with a length. They are repeated until the directions settle. Each has to bring r rows
            or more to every adapted layer: PEFT passes over smaller ones, and does not end if all are smaller.
        adapter_name: Name of the adapter.
        eva_config: PEFT's options. By default each layer keeps its rank, ρ = 1; with a larger ρ PEFT moves rank
            between layers, and takes the adapter off those that are left with none. `whiten` gives up unit length.
        kwargs: More of what PEFT's `initialize_lora_eva_weights` takes. Its defaults are for language models, whose
            batches are dictionaries with `input_ids`; give `forward_fn`, `prepare_model_inputs_fn` and
            `prepare_layer_inputs_fn` for others.

    Returns:
        The model.

    Raises:
        ValueError: If the adapter was not made for EVA, or is over a layer that PEFT has no EVA for.
        RuntimeError: If an A is left without values, or is not frozen.
    """
    config = model.peft_config.get(adapter_name)
    if not isinstance(config, LoraFaConfig) or config.init_A != "eva":
        raise ValueError(f'initialize_eva needs init_A="eva" in the configuration of adapter {adapter_name}')
    for name, module in model.named_modules():
        if isinstance(module, LoraFaLayer) and isinstance(module, _REFUSED):
            raise ValueError(
                f"EVA is for linear layers, and {name} adapts a {type(module.get_base_layer()).__name__}: "
                "leave it out of target_modules, or choose another init_A"
            )
    config.init_lora_weights, config.eva_config = "eva", eva_config or EvaConfig(rho=1.0)
    try:
        initialize_lora_eva_weights(model, dataloader, adapter_name=adapter_name, **kwargs)
    finally:  # what is saved is plain LoRA
        config.init_lora_weights, config.eva_config = True, None
    problems = [text for text in audit(model).problems if text.startswith(f"A of adapter {adapter_name} ")]
    if problems:
        raise RuntimeError("; ".join(problems))
    return model
