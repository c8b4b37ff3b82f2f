"""Which linear layers are adapted: chosen by type and place in the model, never by parts of their name."""

import math
import warnings
from collections.abc import Iterable, Iterator

from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from transformers.models.bert.modeling_bert import BertAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.roberta.modeling_roberta import RobertaAttention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.pytorch_utils import Conv1D

PROJECTIONS = "qkvo"
_BERT = ("self.query", "self.key", "self.value", "output.dense")
# Attention modules, with the paths of their `PROJECTIONS`.
_ATTENTION: dict[type[nn.Module], tuple[str, ...]] = {
    BertAttention: _BERT,
    RobertaAttention: _BERT,
    LlamaAttention: ("q_proj", "k_proj", "v_proj", "o_proj"),
    T5Attention: ("q", "k", "v", "o"),
}

SHORTHANDS = ("all-linear", "attention", "qv")
# Linear layers as modules: an attention of torch has two, and its own way to use them.
_LINEAR = (nn.Linear, Conv1D, nn.MultiheadAttention)


def resolve_targets(model: nn.Module, config: LoraConfig, layer_fraction: float = 1.0) -> None:
    """Put the names that a shorthand stands for into a configuration.

    "all-linear" is every linear layer, so the experts of a mixture, too, where a model keeps those of a layer in one
    parameter: their names go to `target_parameters`. So do the weights of linear layers whose names PEFT would take
    for such experts' (DeepSeek-V3's dense layers). PEFT has no dropout for parameters: with one they are left out,
    and a warning names them.

    Args:
        model: The base model.
        config: Its `target_modules` is one of `SHORTHANDS`.
        layer_fraction: As for `select_targets`.

    Raises:
        ValueError: As `select_targets`.
    """
    target = str(config.target_modules)
    names = select_targets(model, target, layer_fraction)
    parameters = list(fused_experts(model, layer_fraction)) if target == "all-linear" else []
    experts = _named_as_experts(model, names)
    names = [name for name in names if name not in experts]
    parameters += [f"{name}.weight" for name in sorted(experts)]
    if config.lora_dropout and parameters:
        _warn_left_out(parameters, "have no dropout in PEFT: lora_dropout=0 adapts them")
        parameters = []
    config.target_modules = set(names)  # type: ignore[assignment]  # as PEFT keeps it
    if parameters:
        config.target_parameters = [*(config.target_parameters or []), *parameters]


def warn_left_out(model: nn.Module, wanted: LoraConfig) -> None:
    """Warn of the linear layers that a configuration names and PEFT has not adapted.

    It takes some names for those of a mixture's experts (`gate_proj`, `up_proj`, `down_proj` in DeepSeek-V3), then
    adapts the experts' parameters and no linear layer of that name.

    Args:
        model: The adapted model.
        wanted: The configuration before PEFT had it.
    """
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if isinstance(module, LoraLayer))
    names = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    if left := [name for name in names if check_target_module_exists(wanted, name)]:
        _warn_left_out(left, 'have the names of fused experts: target_modules="all-linear" adapts them')


def _warn_left_out(names: list[str], why: str) -> None:
    warnings.warn(f"not adapted: {', '.join(names)}. They {why}", stacklevel=4)


def fused_experts(model: nn.Module, layer_fraction: float = 1.0) -> Iterator[str]:
    """Yield the names of parameters that hold one matrix for each of a module's experts."""
    for layer_name, layer in layers(model, layer_fraction):
        for module_name, module in layer.named_modules():
            experts = getattr(module, "num_experts", None)
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim == 3 and len(parameter) == experts and parameter.is_floating_point():
                    path = [layer_name, *module_name.split("."), name]
                    yield ".".join(part for part in path if part not in ("", "base_layer"))


def _named_as_experts(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Return the names that PEFT takes for those of a mixture's experts as older checkpoints have them."""
    by_leaf: dict[str, list[str]] = {}
    for name in names:
        by_leaf.setdefault(name.rpartition(".")[2], []).append(name)
    return {name for leaf, group in by_leaf.items() if _is_experts_name(model, leaf) for name in group}


def _is_experts_name(model: nn.Module, leaf: str) -> bool:
    config = LoraConfig(target_modules=[leaf])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # one of several that are fused into one parameter
        return True
    return bool(config.target_parameters)


def select_targets(model: nn.Module, target: str, layer_fraction: float = 1.0) -> list[str]:
    """List the linear layers that a shorthand stands for.

    Args:
        model: The base model.
        target: "all-linear": every linear layer inside the model's stacks of layers, so no embedding and no
            head; "attention": those of the attention modules; letters of `PROJECTIONS`, as in "qv": their query, key,
            value and output projections.
        layer_fraction: Take only the last fraction of each stack, in (0, 1], rounded up to whole layers.

    Returns:
        Qualified names, in the order of the model.

    Raises:
        ValueError: If the shorthand is unknown or the model has no such layer.
    """
    if not is_shorthand(target):
        raise ValueError(f"target_modules must be one of {', '.join(SHORTHANDS)} or names, not {target!r}")
    names: list[str] = []
    for layer_name, layer in layers(model, layer_fraction):
        names += [f"{layer_name}.{name}" for name in linears_of(layer, target)]
    if not names:
        families = ", ".join(attention.__name__ for attention in _ATTENTION)
        raise ValueError(
            f"{type(model).__name__} has no layers to which target_modules={target!r} could refer (known "
            f"attention modules: {families}); list the names of its linear layers instead"
        )
    return names


def is_shorthand(target: str) -> bool:
    """Say whether a text is a shorthand; a single letter is also T5's name of that projection."""
    return target in SHORTHANDS or is_projections(target)


def is_projections(target: str) -> bool:
    """Say whether a shorthand is made of the letters of `PROJECTIONS`, each at most once."""
    return 0 < len(target) == len(set(target) & set(PROJECTIONS))


def _named(attention: nn.Module, letters: str) -> list[str]:
    """Return the paths of some projections in an attention module."""
    paths = dict(zip(PROJECTIONS, _ATTENTION[type(attention)], strict=True))
    return [paths[letter] for letter in letters]


def linears_of(layer: nn.Module, target: str = "all-linear") -> Iterator[str]:
    """Yield the names, within a layer of a stack, of the linear layers that a shorthand stands for."""
    for attention_name, attention in _attentions(layer) if target != "all-linear" else [("", layer)]:
        for name in _linears(attention):
            if not is_projections(target) or name in _named(attention, target):
                yield f"{attention_name}.{name}".lstrip(".")


def layers(model: nn.Module, fraction: float = 1.0) -> Iterator[tuple[str, nn.Module]]:
    """Yield the last fraction of each stack's layers, with their qualified names.

    Args:
        model: Any model that keeps its layers in stacks.
        fraction: In (0, 1], rounded up to whole layers.
    """
    for name, stack in block_stacks(model).items():
        for index, carries in enumerate(carriers(len(stack), fraction)):
            if carries:
                yield f"{name}.{index}", stack[index]


def block_stacks(model: nn.Module) -> dict[str, nn.ModuleList]:
    """The stacks of layers of a model, by path: its outermost `ModuleList`s that have linear layers in them.

    Those that it leaves out hold convolutions, or the parametrizations of a weight.
    """
    found: dict[str, nn.ModuleList] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or isinstance(module, ParametrizationList):
            continue
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if not inside and any(isinstance(part, _LINEAR) for part in module.modules()):
            found[path] = module
    return found


def carriers(depth: int, fraction: float) -> tuple[bool, ...]:
    """Which layers of a stack the last fraction of it is: the one meaning of `layer_fraction`.

    Args:
        depth: Layers in the stack.
        fraction: In (0, 1], rounded up to whole layers.
    """
    last = math.ceil(fraction * depth - 1e-9)  # 0.07 · 100 is a little more than 7 in floating point
    return (False,) * (depth - last) + (True,) * last


def _attentions(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in layer.named_modules() if type(module) in _ATTENTION)


def _linears(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the names of the linear layers in a module, not looking into adapted ones."""
    for name, child in module.named_children():
        base = child.get_base_layer() if isinstance(child, LoraLayer) else child
        if isinstance(base, _LINEAR):
            yield prefix + name
        else:
            yield from _linears(base, f"{prefix}{name}.")
