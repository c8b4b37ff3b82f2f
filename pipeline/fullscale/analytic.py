"""The paper's closed formulas (§2, §3.1, Table 1): bytes and parameters, without running anything.

Symbols are the paper's: d hidden dimension, r rank, b batch size, s sequence length, L blocks. Weights and
activations take 2 bytes; AdamW keeps 12 bytes per trained parameter: two 32-bit moments and a 32-bit copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

HALF = 2  # bytes of a 16-bit number
ADAMW = 12  # bytes of optimizer state per trained parameter in mixed precision


@dataclass(frozen=True)
class LinearMemory:
    """Memory of one linear layer of d × d in mixed-precision training (paper Table 1).

    Attributes:
        trainable_parameters: Elements.
        weight: Bytes.
        gradient: Bytes.
        optimizer: Bytes.
        activation: Bytes saved for backward.
    """

    trainable_parameters: int
    weight: int
    gradient: int
    optimizer: int
    activation: int


def _linear(parameters: int, trainable: int, saved_elements: int) -> LinearMemory:
    return LinearMemory(
        trainable_parameters=trainable,
        weight=HALF * parameters,
        gradient=HALF * trainable,
        optimizer=ADAMW * trainable,
        activation=HALF * saved_elements,
    )


def full_ft(d: int, r: int, b: int, s: int) -> LinearMemory:
    """Full-parameter fine-tuning: trains W, saves X."""
    return _linear(d * d, d * d, b * s * d)


def lora(d: int, r: int, b: int, s: int) -> LinearMemory:
    """LoRA: trains A and B, saves X and XA."""
    return _linear(d * d + 2 * d * r, 2 * d * r, b * s * d + b * s * r)


def lora_fa(d: int, r: int, b: int, s: int) -> LinearMemory:
    """LoRA-FA: trains B, saves XA."""
    return _linear(d * d + 2 * d * r, d * r, b * s * r)


METHODS: dict[str, Callable[[int, int, int, int], LinearMemory]] = {
    "full-ft": full_ft,
    "lora": lora,
    "lora-fa": lora_fa,
}


def parameters(d: int, L: int) -> int:
    """Weights of a GPT's linear layers: n = 12d²L (§2.2)."""
    return 12 * d * d * L


def lora_parameters(d: int, r: int, L: int) -> int:
    """Parameters of LoRA on all linear layers of a GPT: n_r = 18drL (§2.2)."""
    return 18 * d * r * L


def lora_fa_parameters(d: int, r: int, L: int) -> int:
    """Parameters that LoRA-FA trains: n_r / 2 = 9drL (§3.1)."""
    return lora_parameters(d, r, L) // 2


def full_ft_states(d: int, L: int) -> int:
    """Bytes of weights, gradients and optimizer state of Full-FT: 2n + 14n (§2.2)."""
    return (2 + 14) * parameters(d, L)


def lora_states(d: int, r: int, L: int) -> int:
    """Bytes of weights, gradients and optimizer state of LoRA: 2n + 16n_r (§2.2)."""
    return 2 * parameters(d, L) + 16 * lora_parameters(d, r, L)


def lora_fa_states(d: int, r: int, L: int) -> int:
    """Bytes of weights, gradients and optimizer state of LoRA-FA: 2n + 9n_r (§3.1)."""
    return 2 * parameters(d, L) + 9 * lora_parameters(d, r, L)


def full_ft_activations(b: int, s: int, d: int, L: int) -> int:
    """Bytes of the linear layers' saved inputs in Full-FT: 14bsdL (§2.2)."""
    return 14 * b * s * d * L


def lora_activations(b: int, s: int, d: int, r: int, L: int) -> int:
    """Bytes of the linear layers' saved inputs in LoRA: 14bsdL + 12bsrL (§2.2)."""
    return full_ft_activations(b, s, d, L) + lora_fa_activations(b, s, r, L)


def lora_fa_activations(b: int, s: int, r: int, L: int) -> int:
    """Bytes of the linear layers' saved inputs in LoRA-FA: 12bsrL (§3.1)."""
    return 12 * b * s * r * L
