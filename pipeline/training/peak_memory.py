"""Peak memory of the running process, and what counts as having too little of it."""

import ctypes
import gc
from pathlib import Path

import psutil
import torch

# Linux keeps the peak of the resident set per process and can forget it (man 5 proc, clear_refs and VmHWM).
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


def release() -> None:
    """Gives back what earlier runs of this process no longer use, or it would count as the next one's."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc keeps what is freed
        libc.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_peak() -> None:
    """Forgets the peaks so far: several runs may share a process."""
    if _CLEAR.exists():
        _CLEAR.write_text(_FORGET_PEAK)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak() -> dict[str, int]:
    """Returns the peaks since `reset_peak` in bytes: the process's resident set, and CUDA's where there is one."""
    result = {"resident": _peak_resident()}
    if torch.cuda.is_available():
        result["cuda_allocated"] = torch.cuda.max_memory_allocated()
        result["cuda_reserved"] = torch.cuda.max_memory_reserved()
    return result


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an exception means that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _peak_resident() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss
