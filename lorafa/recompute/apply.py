"""Switching recomputation on and off in a model, module by module."""

from collections.abc import Iterable

import transformers
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense, T5LayerNorm

from lorafa.recompute import loss
from lorafa.recompute.activation import LeanLlamaMLP, LeanNewGELU, LeanReLU, LeanT5DenseGatedActDense
from lorafa.recompute.dropout import LeanDropout
from lorafa.recompute.norm import LeanLlamaRMSNorm, LeanT5LayerNorm

# What each kind replaces: the type of a module to the subclass that recomputes.
LEAN: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "norm": {LlamaRMSNorm: LeanLlamaRMSNorm, T5LayerNorm: LeanT5LayerNorm},
    "activation": {
        LlamaMLP: LeanLlamaMLP,
        T5DenseGatedActDense: LeanT5DenseGatedActDense,
        NewGELUActivation: LeanNewGELU,
        nn.ReLU: LeanReLU,
    },
    "dropout": {nn.Dropout: LeanDropout},
    "loss": {
        transformers.LlamaForCausalLM: loss.LlamaForCausalLM,
        transformers.T5ForConditionalGeneration: loss.T5ForConditionalGeneration,
    },
}


def apply_recompute(model: nn.Module, kinds: bool | Iterable[str] = True) -> dict[str, list[str]]:
    """Have a model recompute in backward what it would save: norms, activations, dropout masks, the loss.

    The known modules of this instance change their class to a subclass of it, in place: names, parameters,
    hooks and checkpoints stay as they are. Works for any model, with adapters or without.

    Args:
        model: The model, or a wrapper of it.
        kinds: Any of "norm", "activation", "dropout", "loss"; True for all, False for none.

    Returns:
        The names of the modules that now recompute, by kind.

    Raises:
        ValueError: On an unknown kind.
    """
    chosen = list(LEAN) if kinds is True else list(kinds or [])
    if unknown := set(chosen) - set(LEAN):
        raise ValueError(f"recompute must be of {', '.join(LEAN)}, not {', '.join(sorted(unknown))}")
    changed: dict[str, list[str]] = {kind: [] for kind in chosen}
    for name, module in model.named_modules():
        for kind in chosen:
            if lean := LEAN[kind].get(type(module)):
                module.__class__ = lean
                changed[kind].append(name)
    return changed


def remove_recompute(model: nn.Module) -> None:
    """Give every module that recomputes its own class back."""
    own = {lean: plain for kind in LEAN.values() for plain, lean in kind.items()}
    for module in model.modules():
        module.__class__ = own.get(type(module), type(module))
