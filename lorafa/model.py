"""From a model to a model with LoRA-FA adapters, and back from a checkpoint."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import peft
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from lorafa.config import LoraFaConfig, is_lora_fa
from lorafa.layers import LoraFaLayer
from lorafa.recompute import apply_recompute
from lorafa.targets import SHORTHANDS, layers, resolve_targets, warn_left_out

if TYPE_CHECKING:
    from lorafa.memory.budget import Budget, Plan


def get_lora_fa_model(
    model: nn.Module,
    config: LoraFaConfig,
    adapter_name: str = "default",
    autocast_adapter_dtype: bool = True,
    memory_budget: "Budget | str | None" = None,
) -> PeftModel:
    """Add LoRA-FA adapters to a model, in place, and freeze everything but their B and `modules_to_save`.

    Args:
        model: Model to adapt, of transformers or any other; or one that has adapters, of LoRA-FA or of LoRA, and
            gets one more, inactive until `set_adapter`. The adapters that it has stay of their kind.
        config: Configuration; the model's `peft_config` gets a copy with the names of the adapted layers.
        adapter_name: Name of the adapter.
        autocast_adapter_dtype: Keep adapter weights in fp32 over a half-precision model, as PEFT does.
        memory_budget: What a training step may take, or the device's memory alone, such as "24GiB"; the configuration's
            if None. If there is one, it decides what is recomputed, in place of the configuration, and prints it: the
            cheapest that fits by the estimate of `lorafa.memory`.

    Returns:
        PEFT's wrapper of the model: train, save and merge it as any other. `memory_plan` is what the budget came to.

    Raises:
        ValueError: If the targets are not in the model, or LoRA-FA has no layer for one of them; or if no
            recomputation meets the budget, or the model has adapters and its budget was given.
    """
    memory_budget = memory_budget or config.memory_budget
    if isinstance(model, PeftModel):
        if memory_budget is not None:
            raise ValueError("memory_budget is for a model without adapters: what it recomputes is decided")
        _own(model).add_adapter(adapter_name, config, autocast_adapter_dtype=autocast_adapter_dtype)
        return model
    config = _resolved(model, config)
    found = _spend(model, config, memory_budget, autocast_adapter_dtype) if memory_budget else None
    wanted = copy.deepcopy(config)  # PEFT changes it
    adapted = peft.get_peft_model(
        model, config, adapter_name=adapter_name, autocast_adapter_dtype=autocast_adapter_dtype
    )
    warn_left_out(model, wanted)
    _recompute(adapted, config)
    own = _own(adapted)
    own.memory_plan = found
    return own


def load(
    model: nn.Module,
    path: str | Path,
    adapter_name: str = "default",
    is_trainable: bool = False,
    subfolder: str | None = None,
    revision: str | None = None,
    **kwargs: Any,
) -> PeftModel:
    """Load a saved adapter as LoRA-FA's, with its A frozen even when it is to be trained further.

    Args:
        model: The base model, or one that has adapters and gets one more, inactive until `set_adapter`.
        path: Directory or hub id, saved by LoRA-FA or by PEFT's LoRA, however that was initialised.
        adapter_name: Name of the adapter.
        is_trainable: Whether B is to be trained further.
        subfolder: Directory within `path`.
        revision: Branch, tag or commit of the hub's repository.
        kwargs: More of what PEFT's `PeftModel.from_pretrained` takes, as `token` or `cache_dir`.

    Returns:
        PEFT's wrapper of the model, recomputing what the saved configuration says.

    Raises:
        ValueError: If the adapter is one that LoRA-FA cannot represent.
    """
    hub = {"subfolder": subfolder, "revision": revision}
    kwargs |= {name: value for name, value in hub.items() if value is not None}
    if isinstance(model, PeftModel):
        _own(model)._load_lora_fa(str(path), adapter_name, is_trainable=is_trainable, **kwargs)
        return model
    config = LoraFaConfig.from_pretrained(str(path), **kwargs)
    adapted = PeftModel.from_pretrained(
        model, path, adapter_name=adapter_name, is_trainable=is_trainable, config=config, **kwargs
    )
    _recompute(adapted, config)
    return _own(adapted)


class LoraFaModel(PeftModel):
    """PEFT's wrapper of a model, where it would forget or undo what makes an adapter LoRA-FA's.

    Attributes:
        memory_plan: What a budget of memory decided; None without one.
    """

    memory_plan: "Plan | None" = None

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, *args: Any, **kwargs: Any) -> None:
        """Add an adapter of the kind that its configuration says, inactive until `set_adapter`.

        Raises:
            ValueError: If a layer that is to be adapted has adapters of a kind that cannot have LoRA-FA's beside.
        """
        if isinstance(peft_config, LoraFaConfig):
            peft_config = _resolved(self.get_base_model(), peft_config)
            _adopt(self, peft_config)
        super().add_adapter(adapter_name, peft_config, *args, **kwargs)
        _adopt(self)
        if isinstance(peft_config, LoraFaConfig):
            _recompute(self, peft_config)

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load a saved adapter: one that LoRA-FA saved as its own, with all options, and PEFT's as LoRA's."""
        hub, _ = self._split_kwargs(kwargs)
        if adapter_name not in self.peft_config and is_lora_fa(str(model_id), **hub):
            return self._load_lora_fa(str(model_id), adapter_name, *args, **kwargs)
        loaded = super().load_adapter(model_id, adapter_name, *args, **kwargs)
        _adopt(self)
        return loaded

    def _load_lora_fa(
        self, path: str, adapter_name: str, is_trainable: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        hub, _ = self._split_kwargs(kwargs)
        config = LoraFaConfig.from_pretrained(path, **hub)
        config.inference_mode = not is_trainable
        adding = {
            name: kwargs[name] for name in ("low_cpu_mem_usage", "autocast_adapter_dtype") if name in kwargs
        }
        self.add_adapter(adapter_name, config, **adding)
        if is_trainable:
            self.set_requires_grad(adapter_name)
        return super().load_adapter(path, adapter_name, is_trainable, *args, **kwargs)

    def add_weighted_adapter(self, adapters: list[str], *args: Any, **kwargs: Any) -> None:
        """Combine adapters into a new one, as PEFT does; its A is made of theirs and not initialised."""
        tuner: Any = self.base_model
        config = self.peft_config.get(adapters[0]) if adapters else None
        if not isinstance(config, LoraFaConfig):
            tuner.add_weighted_adapter(adapters, *args, **kwargs)
            return
        init = config.init_A
        config.init_A = "kaiming_uniform"  # PEFT copies the first one's configuration
        try:
            tuner.add_weighted_adapter(adapters, *args, **kwargs)
        finally:
            config.init_A = init

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Run the base model; afterwards, what was frozen is frozen (the layers see to their own adapters)."""
        active = self.active_adapters
        wrappers = [module for module in self.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
        frozen = [p for wrapper in wrappers for p in wrapper.parameters() if not p.requires_grad]
        try:
            with super().disable_adapter():
                yield
        finally:
            if self.active_adapters == active:
                for parameter in frozen:
                    parameter.requires_grad_(False)


class LoraFaModelForSequenceClassification(LoraFaModel, peft.PeftModelForSequenceClassification):
    """For sequence classification."""


class LoraFaModelForCausalLM(LoraFaModel, peft.PeftModelForCausalLM):
    """For causal language models."""


class LoraFaModelForSeq2SeqLM(LoraFaModel, peft.PeftModelForSeq2SeqLM):
    """For encoder-decoder language models."""


class LoraFaModelForTokenClassification(LoraFaModel, peft.PeftModelForTokenClassification):
    """For token classification."""


class LoraFaModelForQuestionAnswering(LoraFaModel, peft.PeftModelForQuestionAnswering):
    """For extractive question answering."""


class LoraFaModelForFeatureExtraction(LoraFaModel, peft.PeftModelForFeatureExtraction):
    """For feature extraction."""


_OWN: dict[type[PeftModel], type[LoraFaModel]] = {PeftModel: LoraFaModel} | {
    own.__bases__[1]: own for own in LoraFaModel.__subclasses__()
}


def _own(model: PeftModel) -> LoraFaModel:
    """Make PEFT's wrapper one of ours, in place; one that somebody derived from PEFT's stays as it is."""
    model.__class__ = _OWN.get(type(model), type(model))
    return cast(LoraFaModel, model)


def _refuse_misspelt(model: nn.Module, config: LoraFaConfig) -> None:
    """Name the shorthand that was meant, where what was given is like one and no layer's name."""
    close = get_close_matches(str(config.target_modules), SHORTHANDS, n=1)
    if not isinstance(config.target_modules, str) or not close or close[0] == config.target_modules:
        return
    if not any(check_target_module_exists(config, name) for name, _ in model.named_modules()):
        raise ValueError(f"target_modules={config.target_modules!r} is no layer: did you mean {close[0]!r}?")


def _resolved(model: nn.Module, config: LoraFaConfig) -> LoraFaConfig:
    """Copy of the configuration with the names of the layers for a shorthand."""
    config = copy.deepcopy(config)
    _refuse_misspelt(model, config)
    if isinstance(config.target_modules, str) and config.target_modules in SHORTHANDS:
        resolve_targets(model, config, config.layer_fraction)
    elif config.layer_fraction < 1:
        inside = tuple(f"{name}." for name, _ in layers(model, config.layer_fraction))
        targets = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
        if not all(name.startswith(inside) for name in targets):  # names that a shorthand became are
            raise ValueError(f"layer_fraction needs target_modules to be one of {', '.join(SHORTHANDS)}")
    return config


def _spend(model: Any, config: LoraFaConfig, budget: "Budget | str", fp32_adapters: bool) -> "Plan":
    """Decide what a configuration recomputes, by a budget of memory."""
    from lorafa.memory.budget import Budget, within  # which takes seconds to import

    found = within(model, config, Budget(budget) if isinstance(budget, str) else budget, fp32_adapters)
    print(found)
    config.recompute, config.recompute_first = sorted(found.recipe.recompute), found.first
    return found


def _recompute(model: nn.Module, config: LoraFaConfig) -> None:
    """Have a model recompute what a configuration says, in all blocks and in the first."""
    apply_recompute(model, config.recompute)
    for kind, blocks in config.recompute_first.items():
        apply_recompute(model, [kind], range(blocks))


def _adopt(model: nn.Module, config: LoraConfig | None = None) -> None:
    """Turn PEFT's LoRA layers into layers that can have adapters of both kinds; those that they have stay LoRA's.

    Raises:
        ValueError: If there is none for a layer that `config` is to adapt.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, LoraLayer) or isinstance(module, LoraFaLayer):
            continue
        own = _layer_class(type(module))
        if own is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, own.adopt(module))
        elif config is not None and check_target_module_exists(
            config, name.removeprefix("base_model.model.")
        ):
            raise ValueError(
                f"{name} has an adapter in PEFT's {type(module).__name__}, which cannot have one of LoRA-FA beside: "
                "unload that adapter, or leave the layer out of target_modules"
            )


def _layer_class(theirs: type[LoraLayer]) -> type[LoraFaLayer] | None:
    if theirs.__module__.endswith(".bnb"):
        import lorafa.quantized  # noqa: F401 (defines subclasses)
    pending = list(LoraFaLayer.__subclasses__())
    for own in pending:
        if theirs in own.__bases__:
            return own
        pending += own.__subclasses__()
    return None
