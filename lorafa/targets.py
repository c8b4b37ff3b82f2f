"""Which linear layers are adapted: chosen by type and place in the model, never by parts of their name."""

import math
from collections.abc import Iterator

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.models.bert.modeling_bert import BertAttention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.roberta.modeling_roberta import RobertaAttention
from transformers.models.t5.modeling_t5 import T5Attention

# Attention modules, with the paths of their query and value projections.
_ATTENTION: dict[type[nn.Module], tuple[str, str]] = {
    BertAttention: ("self.query", "self.value"),
    RobertaAttention: ("self.query", "self.value"),
    LlamaAttention: ("q_proj", "v_proj"),
    T5Attention: ("q", "v"),
}

SHORTHANDS = ("all-linear", "attention", "qv")


def select_targets(model: nn.Module, target: str, layer_fraction: float = 1.0) -> list[str]:
    """List the linear layers that a shorthand stands for.

    Args:
        model: The base model.
        target: "all-linear": every linear layer inside the model's stacks of layers, so no embedding and no
            head; "attention": those of the attention modules; "qv": their query and value projections.
        layer_fraction: Take only the last fraction of each stack, in (0, 1], rounded up to whole layers.

    Returns:
        Qualified names, in the order of the model.

    Raises:
        ValueError: If the shorthand is unknown or the model has no such layer.
    """
    if target not in SHORTHANDS:
        raise ValueError(f"target_modules must be one of {', '.join(SHORTHANDS)} or names, not {target!r}")
    names: list[str] = []
    for layer_name, layer in layers(model, layer_fraction):
        for attention_name, attention in _attentions(layer) if target != "all-linear" else [("", layer)]:
            prefix = f"{layer_name}.{attention_name}".rstrip(".")
            for name in _linears(attention):
                if target != "qv" or name in _ATTENTION[type(attention)]:
                    names.append(f"{prefix}.{name}")
    if not names:
        families = ", ".join(attention.__name__ for attention in _ATTENTION)
        raise ValueError(
            f"{type(model).__name__} has no layers to which target_modules={target!r} could refer (known "
            f"attention modules: {families}); list the names of its linear layers instead"
        )
    return names


def layers(model: nn.Module, fraction: float = 1.0) -> Iterator[tuple[str, nn.Module]]:
    """Yield the last fraction of each outermost ModuleList's layers, with their qualified names.

    Args:
        model: Any model that keeps its layers in stacks.
        fraction: In (0, 1], rounded up to whole layers.
    """
    stacks = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [
        (name, stack)
        for name, stack in stacks
        if not any(name.startswith(f"{other}.") for other, _ in stacks)
    ]
    for name, stack in outermost:
        for index, carries in enumerate(carriers(len(stack), fraction)):
            if carries:
                yield f"{name}.{index}", stack[index]


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
        if isinstance(base, nn.Linear):
            yield prefix + name
        else:
            yield from _linears(child, f"{prefix}{name}.")
