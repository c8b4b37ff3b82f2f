"""Follows every storage of a training step from birth to death, real or fake, CPU or CUDA."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from lorafa.memory.trace import Block, Event, Segment, Storage, Trace
from lorafa.targets import block_stacks

OUTSIDE = Segment("outside")
DEVICE = torch.ops.prim.device.default
# What CUDA's kernels allocate for as long as they run, and the CPU's do not. Source: aten/native/cuda/SoftMax.cu,
# `softmax_backward_cuda_out`, which multiplies the gradient and the output first.
CUDA_TEMPORARIES: dict[Any, Callable[..., torch.Tensor]] = {
    torch.ops.aten._softmax_backward_data.default: lambda gradient, output, *_: gradient * output,
}


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Tensors in nested tuples, lists and dicts, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


class StorageTracker(TorchDispatchMode):
    """Records the birth and death of every storage made while it is entered.

    Enter it inside a `FakeTensorMode` to record fake storages. `trace` holds the record; `enter` says where
    in the step the program is; `watch` makes a model say it itself, block by block, forward and backward.

    Args:
        temporaries: By operator, what its kernel allocates besides its result, from its arguments.
    """

    def __init__(self, temporaries: Mapping[Any, Callable[..., torch.Tensor]] | None = None) -> None:
        super().__init__()
        self._temporaries = temporaries or {}
        self.trace = Trace()
        self.segment = OUTSIDE
        self._alive: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._modules: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE and isinstance(args[0], FakeTensor):  # autograd asks thousands of times a step
            return args[0].fake_device
        if func in self._temporaries:
            temporary = self._temporaries[func](*args)  # alive until this returns
            self._see(temporary, func, args)
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self._see(result, func, args)
        elif isinstance(result, list | tuple):
            for index, tensor in enumerate(tensors_in(result)):
                self._see(tensor, func, args, index)
        return result

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._alive.clear()  # and with it the references whose callbacks would go on recording

    def enter(self, phase: str, block: Block | None = None) -> None:
        """Everything from here on happens in this phase (and block)."""
        self.segment = Segment(phase, block)

    def add(self, tensor: torch.Tensor, category: str) -> None:
        """Count a tensor that exists already, or name the category of one that is counted."""
        known = self._find(tensor)
        if known is None:
            self._birth(tensor, Storage(tensor.untyped_storage().nbytes(), self.segment, category=category))
        elif not self.trace.storages[known].category:
            self.trace.storages[known] = self.trace.storages[known]._replace(category=category)

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Let the model report where it is: modules in forward, blocks in forward and backward.

        Only blocks get hooks of their own; layers that look for hooks on their parts must find none.
        """
        stacks = block_stacks(model)
        paths = {id(module): starred(path, stacks) for path, module in model.named_modules()}
        handles = [
            register_module_forward_pre_hook(lambda module, _: self._push(paths.get(id(module)))),
            register_module_forward_hook(lambda module, *_: self._pop(id(module) in paths)),
        ]
        for stack, blocks in stacks.items():
            for number, module in enumerate(blocks):
                entering, leaving = self._block_hooks(Block(stack, number))
                handles.append(module.register_forward_pre_hook(entering, with_kwargs=True))
                handles.append(module.register_forward_hook(leaving))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _push(self, path: str | None) -> None:
        if path is not None and self.segment.phase == "forward":  # not in a recomputation during backward
            self._modules.append(path)

    def _pop(self, known: bool) -> None:
        if known and self.segment.phase == "forward":
            self._modules.pop()

    def _block_hooks(self, block: Block) -> tuple[Callable[..., None], Callable[..., None]]:
        def entering(module: nn.Module, args: object, kwargs: object) -> None:
            if self.segment.phase == "forward":
                self.enter("forward", block)
                if block.number == 0:
                    self._at_gradient(tensors_in((args, kwargs)), None)

        def leaving(module: nn.Module, args: object, output: object) -> None:
            if self.segment.phase == "forward":
                self.enter("forward")
                self._at_gradient(tensors_in(output), block)

        return entering, leaving

    def _at_gradient(self, tensors: Iterable[torch.Tensor], block: Block | None) -> None:
        """Backward enters `block` when the gradient of the first of its outputs is complete."""
        tensor = next((t for t in tensors if t.requires_grad), None)
        if tensor is not None:
            tensor.register_hook(lambda gradient: self.enter("backward", block))

    def _see(self, tensor: torch.Tensor, func: Any, args: Any, index: int = 0) -> None:
        if self._find(tensor) is not None:
            return
        segment = self.segment
        if segment.phase in ("state", "optimizer"):
            if tensor.ndim == 0:  # step counts, which PyTorch's optimizers keep on the host
                return
            segment = Segment(segment.phase, self._owner(args, index))
        module = self._modules[-1] if self._modules else _block_path(segment.block)
        self._birth(tensor, Storage(tensor.untyped_storage().nbytes(), segment, module, str(func)))

    def _owner(self, args: Any, index: int) -> Block | None:
        """What an optimizer makes belongs to the block of the parameter that it makes it for."""
        first = args[0] if args else None
        source = first[index] if isinstance(first, list | tuple) and index < len(first) else first
        known = self._find(source) if isinstance(source, torch.Tensor) else None
        return None if known is None else self.trace.storages[known].segment.block

    def _find(self, tensor: torch.Tensor) -> int | None:
        entry = self._alive.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry[0]

    def _birth(self, tensor: torch.Tensor, storage: Storage) -> None:
        if storage.nbytes == 0:
            return
        number = len(self.trace.storages)
        self.trace.storages.append(storage)
        self.trace.events.append(Event(storage.segment, number, birth=True))
        untyped = tensor.untyped_storage()
        key = untyped._cdata
        self._alive[key] = (number, weakref.ref(untyped, lambda _: self._death(key)))

    def _death(self, key: int) -> None:
        number, _ = self._alive.pop(key)
        self.trace.events.append(Event(self.segment, number, birth=False))


def starred(path: str, stacks: Iterable[str]) -> str:
    """The path with the index of its block replaced by `*`."""
    for stack in stacks:
        if path.startswith(f"{stack}."):
            _, dot, rest = path[len(stack) + 1 :].partition(".")
            return f"{stack}.*{dot}{rest}"
    return path


def _block_path(block: Block | None) -> str:
    return "" if block is None else f"{block.stack}.*"
