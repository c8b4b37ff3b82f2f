"""Puts a method on a model, with PEFT's and this library's own classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from lorafa.memory.depth import shallow
from lorafa.memory.models import WithoutInit, build, head_of, load_config
from lorafa.memory.quantization import prepare, quantize
from lorafa.memory.recipe import Recipe, RecipeError
from lorafa.recompute.block import CHECKPOINT
from lorafa.targets import block_stacks, fused_experts, is_shorthand, linears_of

TASK_TYPES = {
    "causal-lm": TaskType.CAUSAL_LM,
    "image-text-to-text": TaskType.CAUSAL_LM,
    "seq2seq-lm": TaskType.SEQ_2_SEQ_LM,
    "sequence-classification": TaskType.SEQ_CLS,
}


Layers = dict[str, list[list[str]]]


def linear_layers(model: nn.Module, target: str = "all-linear") -> Layers:
    """Paths of the linear layers inside the blocks that a shorthand stands for, by stack and block."""
    return {
        stack: [
            [f"{stack}.{index}.{path}" for path in linears_of(block, target)]
            for index, block in enumerate(blocks)
        ]
        for stack, blocks in block_stacks(model).items()
    }


def matches(path: str, names: Sequence[str]) -> bool:
    """Whether the path ends in one of the names, part by part; no names match every path."""
    return not names or any(path == name or path.endswith(f".{name}") for name in names)


def adapt(model: PreTrainedModel, recipe: Recipe, adapted: dict[str, Sequence[bool]]) -> nn.Module:
    """Prepare a model for the recipe's method.

    Args:
        model: On any device; changed in place.
        recipe: Says the method, rank, target modules, precision, quantization and checkpointing.
        adapted: For each stack, which of its blocks carry adapters.

    Returns:
        The model to train, in training mode.

    Raises:
        RecipeError: The recipe's target modules name no linear layer of the model.
    """
    layers = linear_layers(model)
    every = (model.get_submodule(path) for blocks in layers.values() for block in blocks for path in block)
    linears = [module for module in every if isinstance(module, nn.Linear)]
    if recipe.prepared:
        prepare(model, linears)
    if recipe.checkpointing:
        options = CHECKPOINT if recipe.method == "lora-fa" else {"use_reentrant": False}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    if recipe.input_gradients or recipe.checkpointing:
        model.enable_input_require_grads()
    if recipe.method == "full-ft":
        return cast(nn.Module, model.train())
    if recipe.method == "prompt-tuning":
        adapted_model = _with_prompt(model, recipe)
    else:
        targets, experts = _targets(model, recipe, adapted), _experts(model, recipe, adapted)
        adapted_model = _with_adapters(model, recipe, targets, experts)
    if recipe.quantization != "none":  # last, as adapters choose their class by that of the base layer
        quantize(adapted_model, linears, double=recipe.quantization == "nf4")
    return adapted_model.train()


def _targets(model: nn.Module, recipe: Recipe, adapted: dict[str, Sequence[bool]]) -> list[str]:
    names = recipe.target_modules
    shorthand = names[0] if len(names) == 1 and is_shorthand(names[0]) else None
    layers = linear_layers(model, shorthand or "all-linear")
    targets = [
        path
        for stack, blocks in layers.items()
        for block, carries in zip(blocks, adapted[stack], strict=True)
        for path in block
        if carries and (shorthand or matches(path, names))
    ]
    if not targets:
        every = sorted(
            {path.rpartition(".")[2] for stack in layers.values() for block in stack for path in block}
        )
        asked = ", ".join(recipe.target_modules) or "all"
        have = ", ".join(every) or "none"
        raise RecipeError(f"target_modules {asked}: no such linear layer in the blocks; they have {have}")
    return targets


def _experts(model: nn.Module, recipe: Recipe, adapted: dict[str, Sequence[bool]]) -> list[str]:
    """Parameters that hold a block's experts, as far as they get adapters."""
    if leaves_experts(recipe):
        return []
    carrying = tuple(
        f"{stack}.{index}."
        for stack, flags in adapted.items()
        for index, carries in enumerate(flags)
        if carries
    )
    return [name for name in fused_experts(model) if name.startswith(carrying)]


def leaves_experts(recipe: Recipe) -> bool:
    """Whether experts that a block keeps in one parameter get no adapters.

    They get some with all linear layers, but for dropout, of which PEFT has none for parameters. LoRA-FA's need to know
    where the tokens of each expert begin, which fake tensors do not say.
    """
    everywhere = recipe.target_modules in ((), ("all-linear",))
    return bool(recipe.adapter_dropout) or not everywhere or recipe.method == "lora-fa"


def experts_left_alone(recipe: Recipe) -> bool:
    """Whether the recipe's model keeps a block's experts in one parameter that gets no adapters."""
    if not (recipe.method.startswith("lora") and leaves_experts(recipe)):
        return False
    config = load_config(recipe.model)
    with WithoutInit():
        return any(fused_experts(build(shallow(config, 1.0).apply(config), torch.float32)))


def _with_prompt(model: PreTrainedModel, recipe: Recipe) -> PeftModel:
    config = PromptTuningConfig(
        task_type=TASK_TYPES.get(head_of(model.config)),
        num_virtual_tokens=recipe.virtual_tokens,
        prompt_tuning_init="RANDOM",
    )
    tuned = get_peft_model(model, config)
    # A dictionary that `Module.to` does not reach.
    tuned.prompt_tokens = {name: ids.to(tuned.device) for name, ids in tuned.prompt_tokens.items()}
    return tuned


def _with_adapters(
    model: PreTrainedModel, recipe: Recipe, targets: list[str], experts: list[str]
) -> PeftModel:
    common: dict[str, Any] = {
        "r": recipe.rank,
        "lora_alpha": 2 * recipe.rank,
        "lora_dropout": recipe.adapter_dropout,
        "target_modules": "|".join(map(re.escape, targets)),
        "target_parameters": experts or None,
        "task_type": TASK_TYPES.get(head_of(model.config)),
    }
    in_fp32 = recipe.adapter_dtype == "fp32"
    if recipe.method == "lora-fa":
        from lorafa import LoraFaConfig, get_lora_fa_model

        config = LoraFaConfig(**common, recompute=list(recipe.recompute))
        return get_lora_fa_model(model, config, autocast_adapter_dtype=in_fp32)
    adapted = get_peft_model(model, LoraConfig(**common), autocast_adapter_dtype=in_fp32)
    if recipe.method == "lora-frozen-a":
        freeze_a(adapted)
    return adapted


def freeze_a(model: nn.Module) -> None:
    """Switch off the gradient of every LoRA layer's A: the paper's own implementation of LoRA-FA."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "lora_A"):
            module.lora_A.requires_grad_(False)


def adapter_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters that belong to adapters (trained or not)."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
        for name in module.adapter_layer_names
        for parameter in getattr(module, name).parameters()
    }
