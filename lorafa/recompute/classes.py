"""Subclasses of a library's modules that do one thing otherwise."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn

Classes = dict[type[nn.Module], type[nn.Module]]


def derived(prefix: str, mixin: type, *plain: type[nn.Module]) -> Classes:
    """Put a mixin before each of some classes.

    The subclasses can be pickled, as they are names of the mixin's module, and their forward has the signature of the
    plain one, which trainers read.

    Args:
        prefix: Of their names, before those of the plain classes.
        mixin: Says what is done otherwise.
        plain: Classes of a library.

    Returns:
        The subclass of each.
    """
    module = sys.modules[mixin.__module__]
    classes = {}
    for cls in plain:
        name = prefix + cls.__name__
        attributes: dict[str, Any] = {"__module__": module.__name__, "__doc__": mixin.__doc__}
        if forward := vars(mixin).get("forward"):
            attributes["forward"] = _with_signature(forward, cls.forward)
        classes[cls] = type(name, (mixin, cls), attributes)
        setattr(module, name, classes[cls])
    return classes


def _with_signature(forward: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def renamed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **kwargs)

    return renamed


def extended(prefix: str, mixin: type, classes: Classes) -> Classes:
    """Put a further mixin before the subclasses that `derived` made, under the same plain classes."""
    return {plain: derived(prefix, mixin, lean)[lean] for plain, lean in classes.items()}
