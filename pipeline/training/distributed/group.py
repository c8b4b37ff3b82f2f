"""The processes that train one run together, if there are several: who is the first, and what they agree on."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import Tensor, distributed

# Of a collective: the first process may download and prepare data while others wait; one that fails ends all anyway.
TIMEOUT = timedelta(days=1)


def join(cpu: bool) -> None:
    """Makes this process one of the group that `pipeline.training.distributed.launch` started it in.

    Args:
        cpu: Whether it computes on the CPU, by gloo; else on the GPU of its number, by NCCL.
    """
    PartialState(cpu=cpu, timeout=TIMEOUT)


def size() -> int:
    """Returns the number of processes, 1 where there is no group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process speaks and writes for the group; the only one does."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def summed(value: Tensor) -> Tensor:
    """Returns the sum of the processes' values."""
    if size() > 1:
        value = value.to(PartialState().device, copy=True)
        distributed.all_reduce(value)
    return value


def any_process(flag: bool) -> bool:
    """Whether a flag is set in any of the processes, all of which have to ask."""
    return flag if size() == 1 else bool(summed(torch.tensor(int(flag))))


@contextmanager
def in_turn() -> Iterator[None]:
    """Lets one process after the other do the block, the first one first."""
    if size() == 1:
        yield
        return
    for _ in range(distributed.get_rank()):
        distributed.barrier()
    yield
    for _ in range(distributed.get_rank(), size()):
        distributed.barrier()
