"""Optimizers as far as memory goes: PyTorch's own, and stand-ins for kernels that a CPU does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lorafa.memory.recipe import Optimizer as Name

# bitsandbytes: smaller tensors keep 32-bit states; one absmax for so many elements; smaller tensors are not paged.
# Source: bitsandbytes/optim/optimizer.py, `Optimizer2State.init_state` and `get_state_buffer`.
MIN_8BIT = 4096
BLOCK_8BIT = 256
MIN_PAGED = 100_000


class InPlace(Optimizer):
    """An optimizer of fused kernels: it has states and makes no temporaries. Its numbers mean nothing.

    Args:
        parameters: What is trained.
        states: The states of a parameter on the device.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], states: Callable[[torch.Tensor], list[torch.Tensor]]
    ) -> None:
        super().__init__(parameters, {})
        self._states = states

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Make the states of what has a gradient and none yet."""
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.grad is not None and parameter not in self.state:
                self.state[parameter] = dict(enumerate(self._states(parameter)))


class Both(Optimizer):
    """Two optimizers that step one after the other, as Muon's users pair it with AdamW."""

    def __init__(self, first: Optimizer, second: Optimizer) -> None:
        super().__init__([p for one in (first, second) for g in one.param_groups for p in g["params"]], {})
        self._both = (first, second)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step both."""
        for one in self._both:
            one.step()
            self.state.update(one.state)


def new_optimizer(parameters: list[nn.Parameter], name: Name, multi_tensor: bool) -> Optimizer:
    """An optimizer of what is trained.

    Args:
        parameters: What is trained.
        name: As in `Recipe.optimizer`. "adamw-fused" is PyTorch's with `fused=True`; those in 8 bits or paged are
            bitsandbytes', paged states being on the host; "muon" is PyTorch's for matrices, and AdamW for the rest.
        multi_tensor: PyTorch's default on CUDA.
    """
    foreach: dict[str, Any] = {"foreach": multi_tensor}
    if name == "adamw":
        return torch.optim.AdamW(parameters, **foreach)
    if name == "sgd":
        return torch.optim.SGD(parameters, **foreach)
    if name == "adafactor":
        return torch.optim.Adafactor(parameters, **foreach)
    if name == "muon":
        return _muon(parameters, foreach)
    if name == "adamw-fused":
        return InPlace(parameters, lambda p: [torch.zeros_like(p), torch.zeros_like(p)])
    return InPlace(parameters, lambda p: _bitsandbytes(p, "8bit" in name, "paged" in name))


def _muon(parameters: list[nn.Parameter], foreach: dict[str, Any]) -> Optimizer:
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    muon = torch.optim.Muon(matrices)
    return Both(muon, torch.optim.AdamW(others, **foreach)) if others else muon


def _bitsandbytes(parameter: torch.Tensor, in_8_bits: bool, paged: bool) -> list[torch.Tensor]:
    count = parameter.numel()
    in_8_bits = in_8_bits and count >= MIN_8BIT
    dtype = torch.uint8 if in_8_bits else torch.float32
    states: list[tuple[int, torch.dtype]] = [] if paged and count >= MIN_PAGED else 2 * [(count, dtype)]
    if in_8_bits:
        states += 2 * [(-(-count // BLOCK_8BIT), torch.float32)]
    return [torch.zeros(size, dtype=of, device=parameter.device) for size, of in states]
