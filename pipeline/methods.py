"""The ways to fine-tune that are compared: Full-FT, prompt tuning, LoRA, LoRA-qv, LoRA-FA, QLoRA and MiSS."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    EvaConfig,
    LoraConfig,
    MissConfig,
    PeftModel,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.miss import MissLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from lorafa import LoraFaConfig, Resampling, apply_recompute, audit, get_lora_fa_model, initialize_eva
from lorafa.memory.sizes import bytes_of
from lorafa.targets import select_targets
from pipeline.assets import Source
from pipeline.config.schema import RunConfig
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
    if run.method.resample is not None:  # the saved adapter is a chain of several
        run = replace(run, **_rank_of(folder))
    # The head is float32 before its weights come; PEFT's `from_pretrained` would round them.
    tuned = apply(model, replace(run, method=replace(run.method, memory_budget=None)))
    set_peft_model_state_dict(tuned, load_file(folder / SAFETENSORS_WEIGHTS_NAME))
    return tuned.eval()


def _rank_of(folder: Path) -> dict[str, Any]:
    config = LoraFaConfig.from_pretrained(str(folder))
    return {"rank": config.r, "alpha": config.lora_alpha}


@torch.no_grad()
def update_scale(model: nn.Module) -> float | None:
    """Returns s·‖a‖, by which a step of B changes ΔW: the scale times the length of A's rows.

    It is the root mean square over the adapters' layers and A's rows. MiSS has no A: it sums blocks of the input, as
    LoRA-FA does with A = [I I ... I].

    Returns:
        None for a model without such adapters.
    """
    squares = [
        module.scaling[name] ** 2
        * cast(torch.Tensor, module.lora_A[name].weight).float().square().sum(1).mean()
        for module in model.modules()
        if isinstance(module, LoraLayer)
        for name in module.active_adapters
        if name in module.lora_A
    ]
    squares += [
        torch.tensor(module.in_features / module.miss_r[name])
        for module in model.modules()
        if isinstance(module, MissLayer)
        for name in module.active_adapters
    ]
    return float(torch.stack(squares).mean().sqrt()) if squares else None


def start_from(model: Tuned, run: RunConfig, batches: Iterable[Any]) -> None:
    """Gives an A that starts from data its values.

    Args:
        model: What `apply` returned.
        run: Its configuration.
        batches: Of training data.
    """
    if run.method.init_A == "eva":
        # Every token counts, and every layer keeps its rank.
        config = EvaConfig(rho=1.0, use_label_mask=False)
        initialize_eva(cast(PeftModel, model), batches, eva_config=config, show_progress_bar=False)


def resampling(model: Tuned, run: RunConfig) -> Resampling:
    """Returns what draws A anew, for a run that asks for it."""
    assert run.method.resample is not None
    return Resampling(cast(PeftModel, model), run.method.resample, seed=run.seed)


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
    tuned = get_peft_model(model, LoraConfig(**_lora_arguments(model, run)))
    apply_recompute(tuned, run.method.recompute)
    return tuned


def _miss(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    arguments = _arguments(model, run)
    return get_peft_model(model, MissConfig(**arguments, miss_dropout=run.method.dropout or 0.0))


def _lora_fa(model: PreTrainedModel, run: RunConfig) -> PeftModel:
    method = run.method
    arguments = _lora_arguments(model, run) | {"recompute": method.recompute}
    arguments |= {key: value for key in ("init_A", "gradient") if (value := getattr(method, key)) is not None}
    if method.memory_budget is not None:
        arguments |= _within(bytes_of(method.memory_budget), run)
    tuned = get_lora_fa_model(model, LoraFaConfig(**arguments))
    if method.init_A != "eva":  # whose A is not there yet
        audit(tuned).check()
    return tuned


def _within(memory: int, run: RunConfig) -> dict[str, Any]:
    """Returns what backward computes again so that a step stays within a device's memory."""
    from lorafa.memory.budget import plan  # which takes seconds to import
    from lorafa.memory.recipe import RecipeError
    from pipeline.costs.recipe import recipe_of_run

    try:
        found = plan(recipe_of_run(run), memory)
    except RecipeError as error:
        raise ConfigError(f"method.memory_budget: {error}") from error
    print(found)
    return {"recompute": list(found.recipe.recompute), "recompute_first": found.first}


def _lora_arguments(model: PreTrainedModel, run: RunConfig) -> dict[str, Any]:
    return _arguments(model, run) | {
        "lora_alpha": run.alpha,
        "lora_dropout": run.method.dropout or 0.0,
        "use_rslora": run.method.rslora,
    }


def _arguments(model: PreTrainedModel, run: RunConfig) -> dict[str, Any]:
    kind = kind_of(run)
    assert run.method.targets is not None
    return {
        "task_type": kind.TASK_TYPE,
        "r": run.rank,
        "target_modules": select_targets(model, run.method.targets, run.method.layer_fraction),
        "modules_to_save": [kind.TRAINED_HEAD] if kind.TRAINED_HEAD else None,
    }


_APPLY: dict[str, Callable[[PreTrainedModel, RunConfig], Tuned]] = {
    "untuned": _untuned,
    "full-ft": _full_ft,
    "prompt-tuning": _prompt_tuning,
    "lora": _lora,
    "lora-fa": _lora_fa,
    "miss": _miss,
}
