"""Switching recomputation on and off in a model, module by module."""

from collections.abc import Iterable, Iterator

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
    hooks and checkpoints stay as they are. Works for any model, with adapters or without. A loss that is
    recomputed in a model with adapters ends with them: after `merge_and_unload` there are logits again.

    Args:
        model: The model, or a wrapper of it.
        kinds: Any of "norm", "activation", "dropout", "loss"; True (or all four) for those of them that the model
            has, False for none.

    Returns:
        The names of the modules that now recompute, by kind.

    Raises:
        ValueError: On an unknown kind; on one asked for by name that the model does not have; and on True if it has
            none of them.
    """
    chosen = list(LEAN) if kinds is True else list(kinds or [])
    if unknown := set(chosen) - set(LEAN):
        raise ValueError(f"recompute must be of {', '.join(LEAN)}, not {', '.join(sorted(unknown))}")
    found = {kind: list(_known(model, kind)) for kind in chosen}
    missing = [kind for kind, modules in found.items() if not modules]
    if missing and (len(missing) == len(LEAN) or set(chosen) != set(LEAN)):
        raise ValueError(_not_found(model, missing))
    adapted = loss.is_adapted(model)
    for kind, modules in found.items():
        for _, module in modules:
            module.__class__ = LEAN[kind].get(type(module), type(module))
            if kind == "loss":
                module.while_adapted = adapted  # type: ignore[assignment]
    return {kind: [name for name, _ in modules] for kind, modules in found.items()}


def remove_recompute(model: nn.Module) -> None:
    """Give every module that recomputes its own class back."""
    own = {lean: plain for kind in LEAN.values() for plain, lean in kind.items()}
    for module in model.modules():
        module.__class__ = own.get(type(module), type(module))
        vars(module).pop("while_adapted", None)


def recomputing(model: nn.Module) -> dict[str, list[str]]:
    """The names of the modules that recompute, by kind; a kind that none does is left out."""
    found = {
        kind: [name for name, module in model.named_modules() if type(module) in lean.values()]
        for kind, lean in LEAN.items()
    }
    return {kind: names for kind, names in found.items() if names}


def _known(model: nn.Module, kind: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that can recompute, and those that do already."""
    known = {*LEAN[kind], *LEAN[kind].values()}
    return ((name, module) for name, module in model.named_modules() if type(module) in known)


def _not_found(model: nn.Module, kinds: list[str]) -> str:
    base = getattr(model, "get_base_model", lambda: model)()
    known = "; ".join(f"{kind}: {', '.join(plain.__name__ for plain in LEAN[kind])}" for kind in kinds)
    return (
        f"{type(base).__name__} has nothing to recompute for {', '.join(kinds)} (known are {known}): "
        "leave it out of recompute"
    )
