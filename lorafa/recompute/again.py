"""Tensors that backward computes again, in place of having them kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import get_device_states, set_device_states

from lorafa.autograd import Context
from lorafa.recompute.norm import is_norm, norm_output

Remake = Callable[[], Sequence[Tensor]]


def computes_again(module: nn.Module) -> bool:
    """Whether a module is to keep less: in training, with gradients.

    Not where others decide what is kept: compilers, transforms of `torch.func`, and checkpoints of what is around.
    """
    hooks = _hooks()
    decided = (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or (hooks is not None and hooks[0].__module__ == torch.utils.checkpoint.__name__)
    )
    return module.training and torch.is_grad_enabled() and not decided


def _hooks() -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None:
    """The hooks that what is saved now passes through: to pack it, and to unpack it."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False)


class _Keep(Function):
    """Keeps a tensor as autograd keeps one: with its version, and through the hooks that are set."""

    @staticmethod
    def forward(ctx: Context, anchor: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return anchor.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def source(x: Tensor) -> Callable[..., Tensor]:
    """How backward has a tensor again: from what the norm that made it keeps, or else from the tensor itself.

    Args:
        x: Input of what is recomputed, (..., d).

    Returns:
        Function that returns its value; given a slice of all its rows, those, (rows, d). RuntimeError if what is kept
        has been changed in place.
    """
    node = x.grad_fn
    if is_norm(node):
        return partial(norm_output, node)
    with torch.enable_grad():
        kept = _Keep.apply(torch.empty(0, device=x.device, requires_grad=True), x.detach())

    def rows_of(rows: slice | None = None) -> Tensor:
        value: Tensor = kept.grad_fn.saved_tensors[0]
        return value if rows is None else value.flatten(0, -2)[rows]

    return rows_of


class Replay:
    """A call that backward repeats: without gradients, in the same autocast, with the same random numbers.

    Make it before the call is made for the first time.
    """

    def __init__(self, remake: Remake, module: nn.Module, device: torch.device) -> None:
        self.remake = remake
        self.device = device.type
        self.autocast = partial(
            torch.autocast,
            self.device,
            dtype=torch.get_autocast_dtype(self.device),
            enabled=torch.is_autocast_enabled(self.device),
        )
        draws = any(isinstance(part, nn.Dropout) and part.training and part.p for part in module.modules())
        self.random = (
            (torch.get_rng_state(), *get_device_states(torch.empty(0, device=device))) if draws else None
        )

    @torch.no_grad()
    def __call__(self) -> Sequence[Tensor]:
        """Make the tensors again."""
        with self.autocast():
            if self.random is None:
                return self.remake()
            host, devices, states = self.random
            with torch.random.fork_rng(devices, device_type=self.device):
                torch.set_rng_state(host)
                set_device_states(devices, states, device_type=self.device)
                return self.remake()


class _Again:
    """Tensors made again, all at once when the first is asked for, and each let go when it has been had."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.kept: set[int] = set()
        self.made: dict[int, Tensor] = {}

    def take(self, number: int) -> Tensor:
        if number not in self.made:
            self.made = {n: tensor for n, tensor in enumerate(self.replay()) if n in self.kept}
        return self.made.pop(number)


@contextmanager
def made_again(tensors: Sequence[Tensor], replay: Replay) -> Iterator[None]:
    """Have what is saved for backward in this block keep none of some tensors: backward makes them again.

    Other tensors are kept as they are outside of it, through the hooks that are set there.

    Args:
        tensors: Those that are not kept; alive in the whole block.
        replay: Makes them again, in the same order.
    """
    outer = _hooks()
    numbers = {place(tensor): number for number, tensor in enumerate(tensors)}
    again = _Again(replay)

    def pack(tensor: Tensor) -> Any:
        number = numbers.get(place(tensor))
        if number is not None:
            again.kept.add(number)
            return number
        return (outer[0](tensor), None) if outer else (tensor.detach(), tensor._version)

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, int):
            return again.take(packed)
        kept, version = packed
        if outer:
            return outer[1](kept)
        if kept._version != version:
            raise RuntimeError("a tensor that backward needs has been changed by an in-place operation")
        return cast(Tensor, kept)

    with saved_tensors_hooks(pack, unpack):
        yield


def place(tensor: Tensor) -> tuple[Any, ...]:
    """What tells a tensor from others that are alive: where it lies in which storage."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()
