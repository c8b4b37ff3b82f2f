"""From a model to a model with LoRA-FA adapters, and back from a checkpoint."""

import copy

from peft import PeftModel, get_peft_model
from torch import nn

from lorafa.config import LoraFaConfig


def get_lora_fa_model(
    model: nn.Module, config: LoraFaConfig, adapter_name: str = "default", autocast_adapter_dtype: bool = True
) -> PeftModel:
    """Add LoRA-FA adapters to a model, in place, and freeze everything but their B and `modules_to_save`.

    Args:
        model: Model to adapt, of transformers or any other.
        config: Its own copy of it ends up in the model's `peft_config`.
        adapter_name: Name of the adapter.
        autocast_adapter_dtype: Keep adapter weights in fp32 over a half-precision model, as PEFT does.

    Returns:
        PEFT's wrapper of the model: train, save and merge it as any other.
    """
    return get_peft_model(
        model, copy.deepcopy(config), adapter_name=adapter_name, autocast_adapter_dtype=autocast_adapter_dtype
    )


def load(model: nn.Module, path: str, adapter_name: str = "default", is_trainable: bool = False) -> PeftModel:
    """Load a saved adapter, with its A frozen even when it is to be trained further.

    Args:
        model: The base model.
        path: Directory or hub id, saved by LoRA-FA or by PEFT's LoRA.
        adapter_name: Name of the adapter.
        is_trainable: Whether B is to be trained further.
    """
    config = LoraFaConfig.from_pretrained(path)
    config.inference_mode = not is_trainable
    return PeftModel.from_pretrained(
        model, path, adapter_name=adapter_name, is_trainable=is_trainable, config=config
    )
