"""How many bytes the processes of a run exchange, counted where they are sent."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_GATHERS = (torch.ops.c10d._allgather_base_.default, torch.ops.c10d.allgather_.default)
_REDUCTIONS = (torch.ops.c10d.allreduce_.default,)
_SCATTERED = (torch.ops.c10d._reduce_scatter_base_.default, torch.ops.c10d.reduce_scatter_.default)


class CommunicationMeter(TorchDispatchMode):
    """Context manager that counts what collectives of this process move, as the size of their results.

    Of W processes, each receives (W - 1) / W of what is gathered, and an all-reduce by rings sends and receives
    2 (W - 1) / W of what is reduced.

    Attributes:
        reduced: Bytes of the tensors that were summed over the processes.
        gathered: Bytes of the tensors that were put together from the processes' parts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reduced = 0
        self.gathered = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _REDUCTIONS:
            self.reduced += _nbytes(args[0])
        elif func in _SCATTERED:  # of whose sums each process gets a part
            self.reduced += _nbytes(args[1])
        elif func in _GATHERS:
            self.gathered += _nbytes(args[0])
        return func(*args, **(kwargs or {}))


def _nbytes(tensors: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))
