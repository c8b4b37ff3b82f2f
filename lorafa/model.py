"""From a model to a model with LoRA-FA adapters, and back from a checkpoint."""

import copy
from pathlib import Path

from peft import PeftModel, get_peft_model
from torch import nn

from lorafa.config import LoraFaConfig
from lorafa.recompute import apply_recompute
from lorafa.targets import SHORTHANDS, select_targets


def get_lora_fa_model(
    model: nn.Module, config: LoraFaConfig, adapter_name: str = "default", autocast_adapter_dtype: bool = True
) -> PeftModel:
    """Add LoRA-FA adapters to a model, in place, and freeze everything but their B and `modules_to_save`.

    Args:
        model: Model to adapt, of transformers or any other; or one that has adapters and gets one more,
            inactive until `set_adapter`.
        config: Configuration; the model's `peft_config` gets a copy with the names of the adapted layers.
        adapter_name: Name of the adapter.
        autocast_adapter_dtype: Keep adapter weights in fp32 over a half-precision model, as PEFT does.

    Returns:
        PEFT's wrapper of the model: train, save and merge it as any other.

    Raises:
        ValueError: If the targets are not in the model, or not linear layers.
    """
    config = copy.deepcopy(config)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if config.target_modules in SHORTHANDS:
        config.target_modules = select_targets(base, str(config.target_modules), config.layer_fraction)
    elif config.layer_fraction < 1:
        raise ValueError(f"layer_fraction needs target_modules to be one of {', '.join(SHORTHANDS)}")
    if isinstance(model, PeftModel):
        model.add_adapter(adapter_name, config, autocast_adapter_dtype=autocast_adapter_dtype)
        adapted = model
    else:
        adapted = get_peft_model(
            model, config, adapter_name=adapter_name, autocast_adapter_dtype=autocast_adapter_dtype
        )
    apply_recompute(adapted, config.recompute)
    return adapted


def load(
    model: nn.Module, path: str | Path, adapter_name: str = "default", is_trainable: bool = False
) -> PeftModel:
    """Load a saved adapter, with its A frozen even when it is to be trained further.

    Args:
        model: The base model.
        path: Directory or hub id, saved by LoRA-FA or by PEFT's LoRA.
        adapter_name: Name of the adapter.
        is_trainable: Whether B is to be trained further.

    Returns:
        PEFT's wrapper of the model, recomputing what the saved configuration says.
    """
    config = LoraFaConfig.from_pretrained(str(path))
    config.inference_mode = not is_trainable
    adapted = PeftModel.from_pretrained(
        model, path, adapter_name=adapter_name, is_trainable=is_trainable, config=config
    )
    apply_recompute(adapted, config.recompute)
    return adapted
