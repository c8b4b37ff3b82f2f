"""The meter: which bytes a block of code saves for backward, measured while it runs."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_DEPTH = 5  # how deep objects are searched for tensors: ctx.state.quant_state.state2.absmax


@dataclass
class Saved:
    """One storage that is kept alive until backward.

    Attributes:
        nbytes: Its bytes.
        shape: Shape of the tensor that was saved first.
        dtype: Its dtype.
        module: Qualified name of the innermost module that saved it, "" outside any.
        op: The function that saved it: a torch function's name, or the name of a custom autograd function.
        storage: Identity of the storage, for as long as the meter lives.
    """

    nbytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    module: str
    op: str
    storage: StorageWeakRef


class SavedTensorMeter:
    """Context manager that measures the bytes which a block of code saves for backward.

    Storages count once and whole (a saved view keeps all of its storage); parameters, buffers and what else
    the given modules own do not count. Tensors that a custom autograd function keeps as attributes of its
    context, past `save_for_backward`, do. Works on any device, and under fake tensors.

    Args:
        modules: The modules whose forward is measured. They name the savers; their own tensors do not count.
        bool_dropout_mask: Count a dropout mask as CUDA keeps it, one byte an element, where the CPU keeps
            one of the input's dtype.
    """

    def __init__(self, *modules: nn.Module, bool_dropout_mask: bool = False) -> None:
        self.saved: list[Saved] = []
        self._bool_dropout_mask = bool_dropout_mask
        self._names = {m: name for module in modules for name, m in module.named_modules()}
        self._owned = {_storage(tensor) for m in self._names for tensor in _tensors_in(vars(m))}
        self._known: dict[StorageWeakRef, Saved] = {}
        self._nodes: dict[int, Any] = {}
        self._path: list[str] = [""]
        self._function = _Functions(self)

    @property
    def total(self) -> int:
        """Bytes saved."""
        return sum(saved.nbytes for saved in self.saved)

    @property
    def by_module(self) -> dict[str, int]:
        """Bytes by qualified name of the innermost module, largest first."""
        return self._by(lambda saved: saved.module)

    @property
    def by_op(self) -> dict[str, int]:
        """Bytes by kind of operation, largest first."""
        return self._by(lambda saved: saved.op)

    def _by(self, key: Callable[[Saved], str]) -> dict[str, int]:
        sums: dict[str, int] = defaultdict(int)
        for saved in self.saved:
            sums[key(saved)] += saved.nbytes
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def __enter__(self) -> "SavedTensorMeter":
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._handles = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        self._function.__enter__()
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._function.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()
        self._nodes.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        self._record(tensor, self._function.name)
        return tensor.detach()  # returning the tensor itself would make a saved output own its own graph

    def _record(self, tensor: Tensor, op: str) -> None:
        storage = _storage(tensor)
        if isinstance(tensor, nn.Parameter):
            self._owned.add(storage)
        if storage in self._owned:
            return
        if known := self._known.get(storage):
            known.op = known.op or op
            return
        nbytes = tensor.untyped_storage().nbytes()
        if self._bool_dropout_mask and op in _DROPOUTS and storage not in self._function.arguments:
            nbytes = tensor.numel()
        saved = Saved(nbytes, tuple(tensor.shape), tensor.dtype, self._path[-1], op, storage)
        self._known[storage] = saved
        self.saved.append(saved)

    def _enter_module(self, module: nn.Module, args: object) -> None:
        self._path.append(self._names.get(module, self._path[-1]))
        # Sharded parameters are gathered only now.
        self._owned.update(map(_storage, module.parameters(recurse=False)))

    def _leave_module(self, module: nn.Module, args: object, output: object) -> None:
        self.explore(output)
        self._path.pop()

    def explore(self, output: object) -> None:
        """Find the custom functions behind an output: name what they saved, and find what else they keep.

        Done for the outputs of modules and torch functions; call it for what a bare custom function returns.
        """
        pending = [tensor.grad_fn for tensor in _tensors_in(output) if tensor.grad_fn is not None]
        while pending:
            node = pending.pop()
            if id(node) in self._nodes:
                continue
            self._nodes[id(node)] = node  # keeps the id taken
            pending.extend(parent for parent, _ in node.next_functions if parent is not None)
            if isinstance(node, BackwardCFunction):
                packed = [raw.data for raw in node._raw_saved_tensors]  # unpacking would make checkpoints run
                for tensor in _tensors_in([packed, vars(node)]):
                    self._record(tensor, type(node).__name__)


class _Functions(TorchFunctionMode):
    """Knows which torch function is running, and which storages were passed to it."""

    def __init__(self, meter: SavedTensorMeter) -> None:
        super().__init__()
        self.meter = meter
        self.name = ""
        self.arguments: set[StorageWeakRef] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.name = getattr(func, "__name__", str(func))
        if self.name in _DROPOUTS:
            self.arguments = {_storage(tensor) for tensor in _tensors_in(args)}
        try:
            output = func(*args, **(kwargs or {}))
        finally:
            self.name = ""
        if isinstance(output, Tensor | tuple | list):
            self.meter.explore(output)
        return output


def _storage(tensor: Tensor) -> StorageWeakRef:
    own = getattr(tensor, "_local_tensor", tensor)  # this process's part of a sharded one
    return StorageWeakRef(own.untyped_storage())


def _tensors_in(value: object, depth: int = _DEPTH) -> Iterator[Tensor]:
    """Yield the tensors in nested containers and objects, modules excepted."""
    if isinstance(value, Tensor):
        yield value
    if depth == 0 or isinstance(value, nn.Module | type):
        return
    if isinstance(value, dict):
        children = list(value.values())
    elif isinstance(value, list | tuple | set):
        children = list(value)
    else:
        children = list(getattr(value, "__dict__", {}).values())
    for child in children:
        yield from _tensors_in(child, depth - 1)
