"""Whole blocks computed again, from an input that waits in the host's memory: the device keeps nothing of a block."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.checkpoint import checkpoint

from lorafa.recompute.again import place
from lorafa.recompute.block import BLOCKS, CHECKPOINT
from lorafa.recompute.classes import derived


def to_host(x: Tensor) -> Tensor:
    """Copy a tensor to the host's memory, without waiting for the copy; a torch function, which modes can replace."""
    if has_torch_function_unary(x):
        copied: Tensor = handle_torch_function(to_host, (x,), x)
        return copied
    host = torch.empty_like(x, device="cpu", pin_memory=x.is_cuda)
    return host.copy_(x, non_blocking=True)


def _checkpoint_on_host(function: Any, x: Tensor, *others: Any) -> Any:
    """A checkpoint that keeps its first input on the host, and others, which all blocks share, where they are."""
    moving, device = place(x), x.device

    def pack(tensor: Tensor) -> tuple[bool, Tensor]:
        moved = place(tensor) == moving
        return moved, to_host(tensor.detach()) if moved else tensor.detach()

    def unpack(packed: tuple[bool, Tensor]) -> Tensor:
        moved, tensor = packed
        return tensor.to(device, non_blocking=True) if moved else tensor

    with saved_tensors_hooks(pack, unpack):
        return checkpoint(function, x, *others, **CHECKPOINT)


class _OnHost:
    """A block that keeps nothing on its device: its input goes to the host and comes back."""

    gradient_checkpointing = True
    _gradient_checkpointing_func = staticmethod(_checkpoint_on_host)


CLASSES = derived("OnHost", _OnHost, *BLOCKS)
