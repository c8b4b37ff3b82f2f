"""LoRA-FA: low-rank adaptation with a frozen A, which saves only XA for the backward pass."""

from lorafa.config import LoraFaConfig
from lorafa.functional import add_lora_fa, lora_fa_linear
from lorafa.model import get_lora_fa_model, load

__all__ = ["LoraFaConfig", "add_lora_fa", "get_lora_fa_model", "load", "lora_fa_linear"]
