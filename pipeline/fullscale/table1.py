"""Table 1 three times: the paper's formula, its bytes, and the bytes of a real layer after a real step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lorafa.config import LoraFaConfig
from lorafa.memory.adapt import freeze_a
from lorafa.memory.meter import SavedTensorMeter
from lorafa.model import get_lora_fa_model
from pipeline.fullscale.analytic import METHODS

FORMULAS: dict[str, dict[str, str]] = {
    "full-ft": {
        "trainable_parameters": "d²",
        "weight": "2d²",
        "gradient": "2d²",
        "optimizer": "12d²",
        "activation": "2bsd",
    },
    "lora": {
        "trainable_parameters": "2dr",
        "weight": "2(d² + 2dr)",
        "gradient": "4dr",
        "optimizer": "24dr",
        "activation": "2bsd + 2bsr",
    },
    "lora-fa": {
        "trainable_parameters": "dr",
        "weight": "2(d² + 2dr)",
        "gradient": "2dr",
        "optimizer": "12dr",
        "activation": "2bsr",
    },
}


@dataclass(frozen=True)
class Entry:
    """One cell of Table 1.

    Attributes:
        method: Row; `lora-frozen-a` is the paper's LoRA-FA as PEFT runs it, with LoRA-FA's formulas.
        quantity: Column.
        formula: As the paper prints it.
        predicted: The formula's value: elements in the first column, bytes in the others.
        metered: The same, counted on a real layer.
    """

    method: str
    quantity: str
    formula: str
    predicted: int
    metered: int


def table1(d: int = 1024, r: int = 8, b: int = 4, s: int = 128, dropout: float = 0.0) -> list[Entry]:
    """Table 1 for one bf16 linear layer of d × d, run for real on the CPU.

    Args:
        d: Hidden dimension.
        r: Rank.
        b: Batch size.
        s: Sequence length.
        dropout: Of the adapters; the paper's formulas assume none.
    """
    entries = []
    for method in ("full-ft", "lora", "lora-frozen-a", "lora-fa"):
        row = "lora-fa" if method == "lora-frozen-a" else method
        predicted = asdict(METHODS[row](d, r, b, s))
        metered = meter_layer(method, d, r, b, s, dropout)
        entries += [Entry(method, q, FORMULAS[row][q], predicted[q], metered[q]) for q in predicted]
    return entries


def meter_layer(method: str, d: int, r: int, b: int, s: int, dropout: float) -> dict[str, int]:
    """Elements and bytes of a real layer, by quantity, from one training step in mixed precision."""
    layer = _layer(method, d, r, dropout)
    X = torch.randn(b, s, d, dtype=torch.bfloat16, requires_grad=True)
    with SavedTensorMeter(layer, bool_dropout_mask=True) as meter:
        Y = layer(X)
    Y.sum().backward()
    trained = [p for p in layer.parameters() if p.requires_grad]
    return {
        "trainable_parameters": sum(p.numel() for p in trained),
        "weight": _nbytes(layer.parameters()),
        "gradient": _nbytes(p.grad for p in trained if p.grad is not None),
        "optimizer": _optimizer_bytes(trained),
        "activation": meter.total,
    }


def _layer(method: str, d: int, r: int, dropout: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(d, d, bias=False)).to(torch.bfloat16)
    common = {"r": r, "lora_dropout": dropout, "target_modules": ["0"]}
    if method == "full-ft":
        return model
    if method == "lora-fa":
        return get_lora_fa_model(model, LoraFaConfig(**common), autocast_adapter_dtype=False)  # type: ignore[arg-type]
    adapted = get_peft_model(model, LoraConfig(**common), autocast_adapter_dtype=False)  # type: ignore[arg-type]
    if method == "lora-frozen-a":
        freeze_a(adapted)
    return adapted


def _optimizer_bytes(trained: list[nn.Parameter]) -> int:
    """AdamW in mixed precision: it steps on a 32-bit copy of each parameter, with two 32-bit moments."""
    copies = [nn.Parameter(p.detach().float()) for p in trained]
    for copy, parameter in zip(copies, trained, strict=True):
        assert parameter.grad is not None
        copy.grad = parameter.grad.float()
    optimizer = torch.optim.AdamW(copies)
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    return _nbytes(copies) + _nbytes(moments)


def _nbytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
