"""Memory of this process: how much is free, whether an array fits, and returning freed memory to the system."""

import ctypes
import sys
from typing import TYPE_CHECKING

import psutil

from emg_lens.errors import EmgLensError

if TYPE_CHECKING:
    from torch import Tensor


class NotEnoughMemoryError(EmgLensError, ValueError):
    """A model or an input that needs more memory than is free."""


def free_memory() -> int:
    """Return the bytes that this process can still allocate: the free memory, or less if the process has a limit."""
    free = psutil.virtual_memory().available
    if hasattr(psutil, "RLIMIT_AS"):  # Linux
        process = psutil.Process()
        limit = process.rlimit(psutil.RLIMIT_AS)[0]  # pyright: ignore[reportAttributeAccessIssue]
        if limit != psutil.RLIM_INFINITY:
            free = min(free, limit - process.memory_info().vms)
    return max(free, 0)


def check_memory(n_bytes: int, what: str) -> None:
    """Check that an allocation fits into the free memory."""
    free = free_memory()
    if n_bytes > free:
        raise NotEnoughMemoryError(
            f"{what} needs {n_bytes / 2**30:.3g} GiB of memory, but {free / 2**30:.1f} GiB are free; make it smaller"
        )


def trials_not_finite(x: "Tensor") -> list[int]:
    """Return the indices of the trials that contain NaN or infinity. Unlike `isfinite`, this makes no copy of `x`."""
    if not x.numel():
        return []
    low, high = x.flatten(1).aminmax(dim=1)  # both are NaN if the trial contains NaN
    return (~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist()


def return_freed_memory() -> None:
    """Return freed memory to the system at once. The C library of Linux otherwise keeps hundreds of MB for later."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # musl has none
        libc.malloc_trim(0)
