"""LoRA-FA: low-rank adaptation with a frozen A, which saves only XA for the backward pass."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorafa.audit import audit
    from lorafa.config import LoraFaConfig
    from lorafa.eva import initialize_eva
    from lorafa.functional import add_lora_fa, lora_fa_linear
    from lorafa.memory.budget import Budget
    from lorafa.model import get_lora_fa_model, load
    from lorafa.recompute import apply_recompute, remove_recompute
    from lorafa.resampling import Resampling

__version__ = "0.1.0"

# Where each public name is, imported when it is asked for: `python -m lorafa.memory --help` needs none of them.
_MODULES = {
    "Budget": "lorafa.memory.budget",
    "LoraFaConfig": "lorafa.config",
    "Resampling": "lorafa.resampling",
    "add_lora_fa": "lorafa.functional",
    "apply_recompute": "lorafa.recompute",
    "audit": "lorafa.audit",
    "get_lora_fa_model": "lorafa.model",
    "initialize_eva": "lorafa.eva",
    "load": "lorafa.model",
    "lora_fa_linear": "lorafa.functional",
    "remove_recompute": "lorafa.recompute",
}
__all__ = [
    "Budget",
    "LoraFaConfig",
    "Resampling",
    "add_lora_fa",
    "apply_recompute",
    "audit",
    "get_lora_fa_model",
    "initialize_eva",
    "load",
    "lora_fa_linear",
    "remove_recompute",
]


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, but not the module `lorafa.audit` in the place of its function."""
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
