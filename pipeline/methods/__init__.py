"""The ways to fine-tune that the paper compares: Full-FT, prompt tuning, LoRA, LoRA-qv and LoRA-FA."""

from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from transformers import PreTrainedModel

from lorafa import LoraFaConfig, audit, get_lora_fa_model
from pipeline.config import RunConfig
from pipeline.models import encoder

Tuned = PreTrainedModel | PeftModel


def frozen_dtype(run: RunConfig) -> torch.dtype:
    """Returns the precision to load the model in: what is trained is float32, what is frozen may be less."""
    return torch.float32 if run.method.kind == "full-ft" else getattr(torch, run.model.frozen_dtype)


def apply(model: PreTrainedModel, run: RunConfig) -> Tuned:
    """Returns the model as the method trains it; the classification head trains in every method, as in §4.1."""
    tuned = _APPLY[run.method.kind](model, run)
    for module in tuned.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for head in module.modules_to_save.values():
                encoder.train_in_float32(head)
    return tuned


def _full_ft(model: PreTrainedModel, _run: RunConfig) -> Tuned:
    return model


def _prompt_tuning(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    assert run.method.virtual_tokens is not None
    config = PromptTuningConfig(
        task_type=TaskType.SEQ_CLS,
        num_virtual_tokens=run.method.virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,  # Lester et al. (2021), §3.2: better than random
    )
    return get_peft_model(model, config)


def _lora(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    return get_peft_model(model, LoraConfig(**_lora_arguments(run)))


def _lora_fa(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    arguments = _lora_arguments(run)
    if run.method.init_A is not None:
        arguments["init_A"] = run.method.init_A
    tuned = get_lora_fa_model(model, LoraFaConfig(**arguments))
    audit(tuned).check()
    return tuned


def _lora_arguments(run: RunConfig) -> dict[str, Any]:
    return {
        "task_type": TaskType.SEQ_CLS,
        "r": run.rank,
        "lora_alpha": run.alpha,
        "lora_dropout": run.method.dropout or 0.0,
        "target_modules": run.target_modules,
        "modules_to_save": [encoder.HEAD],
    }


_APPLY: dict[str, Callable[[PreTrainedModel, RunConfig], Tuned]] = {
    "full-ft": _full_ft,
    "prompt-tuning": _prompt_tuning,
    "lora": _lora,
    "lora-fa": _lora_fa,
}
