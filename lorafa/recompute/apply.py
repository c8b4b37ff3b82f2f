"""Switching recomputation on and off in a model, module by module."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import get_args

from torch import nn

from lorafa.options import FreeRecompute
from lorafa.recompute import activation, attention, block, dropout, eight_bit, host, loss, mlp, norm
from lorafa.recompute.classes import Classes

FREE = get_args(FreeRecompute)
# What each kind replaces: the type of a module to the subclass that recomputes. Where two replace the same, the later
# one, which does what the earlier does and more, stands.
LEAN: dict[str, Classes] = {
    "norm": norm.CLASSES,
    "activation": activation.CLASSES,
    "dropout": dropout.CLASSES,
    "loss": loss.CLASSES,
    "activation-8bit": eight_bit.CLASSES,
    "qkv": attention.CLASSES,
    "mlp": mlp.CLASSES,
    "block": block.CLASSES,
    "block-on-host": host.CLASSES,
}
# Why a kind cannot be had in a model, though it has the modules; None if it can.
OBSTACLES: dict[str, Callable[[nn.Module], str | None]] = {
    "activation-8bit": eight_bit.obstacle,
    "qkv": attention.obstacle,
}
# Kinds that would do the same work twice.
_IN_BLOCKS = {"activation-8bit", "qkv", "mlp"}
EXCLUSIVE = {
    "mlp": {"activation-8bit"},
    "block": _IN_BLOCKS,
    "block-on-host": {*_IN_BLOCKS, "block"},
}
_OWN = {lean: plain for classes in LEAN.values() for plain, lean in classes.items()}


def apply_recompute(
    model: nn.Module, kinds: bool | Iterable[str] = True, blocks: Collection[int] | None = None
) -> dict[str, list[str]]:
    """Have a model compute again in backward what it would save.

    The known modules of this instance change their class to a subclass of it, in place: names, parameters,
    hooks and checkpoints stay as they are. Works for any model, with adapters or without. A loss that is
    recomputed in a model with adapters ends with them: after `merge_and_unload` there are logits again.

    Args:
        model: The model, or a wrapper of it.
        kinds: What is not saved: "norm", "activation", "dropout", "loss", which cost no matrix product; "qkv", "mlp"
            and "block", which do; "block-on-host", which keeps a block's input in the host's memory; "activation-8bit",
            which is approximate and for LoRA-FA alone. True for those of the first four that the model has, False for
            none.
        blocks: Numbers of the blocks, in each stack of the model, that recompute; all of the model if None.

    Returns:
        The names of the modules that now recompute, by kind.

    Raises:
        ValueError: On an unknown kind; on one asked for by name that the model does not have, or not as it is; on
            kinds that exclude each other; and on True if the model has none of the four.
    """
    chosen = [kind for kind in LEAN if kind in FREE] if kinds is True else list(kinds or [])
    check_kinds(chosen)
    found = {kind: list(_known(model, kind, blocks)) for kind in LEAN if kind in chosen}
    missing = [kind for kind in chosen if not found[kind]]
    if missing and (len(missing) == len(FREE) or set(chosen) != set(FREE)):
        raise ValueError(_not_found(model, missing))
    for kind in chosen:
        if kind in OBSTACLES and (reason := OBSTACLES[kind](model)):
            raise ValueError(f'recompute="{kind}" of {_base_name(model)}: {reason}')
    adapted = loss.is_adapted(model)
    for kind, modules in found.items():
        for _, module in modules:
            module.__class__ = LEAN[kind][_plain(module)]
            if kind == "loss":
                module.while_adapted = adapted  # type: ignore[assignment]
    return {kind: [name for name, _ in modules] for kind, modules in found.items()}


def available(model: nn.Module) -> list[str]:
    """The kinds of recomputation that a model has the modules for, and nothing against."""
    return [
        kind
        for kind in LEAN
        if any(_known(model, kind, None)) and not (kind in OBSTACLES and OBSTACLES[kind](model))
    ]


def check_kinds(kinds: Collection[str]) -> None:
    """Raise ValueError on an unknown kind of recomputation, and on kinds that exclude each other."""
    if unknown := set(kinds) - set(LEAN):
        raise ValueError(f"recompute must be of {', '.join(LEAN)}, not {', '.join(sorted(unknown))}")
    for kind, others in EXCLUSIVE.items():
        if kind in kinds and (double := sorted(others.intersection(kinds))):
            raise ValueError(
                f'recompute="{kind}" does the work of {", ".join(double)}: leave one of them out'
            )


def remove_recompute(model: nn.Module) -> None:
    """Give every module that recomputes its own class back."""
    for module in model.modules():
        module.__class__ = _plain(module)
        vars(module).pop("while_adapted", None)


def recomputing(model: nn.Module) -> dict[str, list[str]]:
    """The names of the modules that recompute, by kind; a kind that none does is left out."""
    found = {
        kind: [name for name, module in model.named_modules() if isinstance(module, tuple(lean.values()))]
        for kind, lean in LEAN.items()
    }
    return {kind: names for kind, names in found.items() if names}


def _plain(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before it recomputed."""
    return _OWN.get(type(module), type(module))


def _known(model: nn.Module, kind: str, blocks: Collection[int] | None) -> Iterator[tuple[str, nn.Module]]:
    """The modules that can recompute, and those that do already."""
    return (
        (name, module)
        for name, module in model.named_modules()
        if _plain(module) in LEAN[kind] and (blocks is None or _block_number(name) in blocks)
    )


def _block_number(name: str) -> int | None:
    """The block that a module is or lies in: the first number in its name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _base_name(model: nn.Module) -> str:
    base = getattr(model, "get_base_model", lambda: model)()
    return type(base).__name__


def _not_found(model: nn.Module, kinds: list[str]) -> str:
    known = "; ".join(f"{kind}: {', '.join(plain.__name__ for plain in LEAN[kind])}" for kind in kinds)
    return (
        f"{_base_name(model)} has nothing to recompute for {', '.join(kinds)} (known are {known}): "
        "leave it out of recompute"
    )
