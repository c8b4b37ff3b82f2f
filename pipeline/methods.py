"""The ways to fine-tune that the paper compares: Full-FT, prompt tuning, LoRA, LoRA-qv, LoRA-FA, and QLoRA."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from safetensors.torch import load_file
from transformers import PreTrainedModel

from lorafa import LoraFaConfig, audit, get_lora_fa_model
from lorafa.memory.sizes import bytes_of
from lorafa.targets import select_targets
from pipeline.assets import Source
from pipeline.config.schema import RunConfig
from pipeline.costs.recipe import recipe_of_run
from pipeline.errors import ConfigError
from pipeline.models import encoder
from pipeline.tasks import kind_of

Tuned = PreTrainedModel | PeftModel


def base_dtype(run: RunConfig) -> torch.dtype:
    """Returns the precision to load the model in: what is trained is float32, what is frozen may be less."""
    return torch.float32 if run.method.kind == "full-ft" else getattr(torch, run.model.frozen_dtype)


def autocast_dtype(run: RunConfig) -> torch.dtype | None:
    """Returns the precision that float32 weights compute in (mixed precision), or None where it is their own."""
    if run.method.kind != "full-ft" or run.model.frozen_dtype == "float32":
        return None
    return getattr(torch, run.model.frozen_dtype)


def apply(model: PreTrainedModel, run: RunConfig) -> Tuned:
    """Returns the model as the method trains it; a classification head trains in every method, as in §4.1."""
    if run.method.quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    tuned = _APPLY[run.method.kind](model, run)
    for module in tuned.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for head in module.modules_to_save.values():
                encoder.train_in_float32(head)
    return tuned


def load(run: RunConfig, source: Source, folder: Path) -> Tuned:
    """Returns a finished run's model, for scoring.

    Args:
        run: Its configuration.
        source: The base model.
        folder: Where training saved the adapter, or all weights (Full-FT).
    """
    kind = kind_of(run)
    if run.method.kind == "full-ft":
        return kind.load_model(run, replace(source, path=str(folder)), base_dtype(run)).eval()
    model = kind.load_model(run, source, base_dtype(run))
    if run.method.kind == "untuned":
        return model.eval()
    # The head is float32 before its weights come; PEFT's `from_pretrained` would round them.
    tuned = apply(model, replace(run, method=replace(run.method, memory_budget=None)))
    set_peft_model_state_dict(tuned, load_file(folder / SAFETENSORS_WEIGHTS_NAME))
    return tuned.eval()


def _full_ft(model: PreTrainedModel, _run: RunConfig) -> Tuned:
    return model


def _untuned(model: PreTrainedModel, _run: RunConfig) -> Tuned:
    return model.requires_grad_(False)


def _prompt_tuning(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    assert run.method.virtual_tokens is not None
    config = PromptTuningConfig(
        task_type=kind_of(run).TASK_TYPE,
        num_virtual_tokens=run.method.virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,  # Lester et al. (2021), §3.2: better than random
    )
    return get_peft_model(model, config)


def _lora(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    return get_peft_model(model, LoraConfig(**_lora_arguments(model, run)))


def _lora_fa(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    arguments = _lora_arguments(model, run)
    if run.method.init_A is not None:
        arguments["init_A"] = run.method.init_A
    if run.method.memory_budget is not None:
        arguments |= _within(bytes_of(run.method.memory_budget), run)
    tuned = get_lora_fa_model(model, LoraFaConfig(**arguments))
    audit(tuned).check()
    return tuned


def _within(memory: int, run: RunConfig) -> dict[str, Any]:
    """Returns what backward computes again so that a step stays within a device's memory."""
    from lorafa.memory.budget import plan  # which takes seconds to import
    from lorafa.memory.recipe import RecipeError

    try:
        found = plan(recipe_of_run(run), memory)
    except RecipeError as error:
        raise ConfigError(f"method.memory_budget: {error}") from error
    print(found)
    return {"recompute": list(found.recipe.recompute), "recompute_first": found.first}


def _lora_arguments(model: PreTrainedModel, run: RunConfig) -> dict[str, Any]:
    kind = kind_of(run)
    assert run.method.targets is not None
    return {
        "task_type": kind.TASK_TYPE,
        "r": run.rank,
        "lora_alpha": run.alpha,
        "lora_dropout": run.method.dropout or 0.0,
        "target_modules": select_targets(model, run.method.targets, run.method.layer_fraction),
        "modules_to_save": [kind.TRAINED_HEAD] if kind.TRAINED_HEAD else None,
    }


_APPLY: dict[str, Callable[[PreTrainedModel, RunConfig], Tuned]] = {
    "untuned": _untuned,
    "full-ft": _full_ft,
    "prompt-tuning": _prompt_tuning,
    "lora": _lora,
    "lora-fa": _lora_fa,
}
