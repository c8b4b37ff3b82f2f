"""LoRA-FA: low-rank adaptation with a frozen A, which saves only XA for the backward pass."""

from lorafa.audit import audit
from lorafa.config import LoraFaConfig
from lorafa.functional import add_lora_fa, lora_fa_linear
from lorafa.model import get_lora_fa_model, load
from lorafa.recompute import apply_recompute, remove_recompute

__all__ = [
    "LoraFaConfig",
    "add_lora_fa",
    "apply_recompute",
    "audit",
    "get_lora_fa_model",
    "load",
    "lora_fa_linear",
    "remove_recompute",
]
