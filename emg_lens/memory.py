"""What fits into memory: what cannot is refused before it is allocated, and what is freed is given back."""

import ctypes
import sys
from typing import TYPE_CHECKING

import psutil

from emg_lens.errors import EmgLensError

if TYPE_CHECKING:
    from torch import Tensor


class RoomError(EmgLensError, ValueError):
    """Something asked for that this machine, or the limit of this process, has no room for."""


def free_memory() -> int:
    """Bytes that this process may still allocate: what the machine has free, or less where the process has a limit."""
    free = psutil.virtual_memory().available
    if hasattr(psutil, "RLIMIT_AS"):  # Linux
        process = psutil.Process()
        limit = process.rlimit(psutil.RLIMIT_AS)[0]  # pyright: ignore[reportAttributeAccessIssue]
        if limit != psutil.RLIM_INFINITY:
            free = min(free, limit - process.memory_info().vms)
    return max(free, 0)


def check_room(n_bytes: int, what: str) -> None:
    """Refuse what cannot be allocated.

    Args:
        n_bytes: How much it takes, at least.
        what: What it is, for the message.

    Raises:
        RoomError: There is less memory.
    """
    free = free_memory()
    if n_bytes > free:
        raise RoomError(f"{what} takes {n_bytes / 2**30:.3g} GiB of memory, and {free / 2**30:.1f} are free")


def trials_not_finite(x: "Tensor") -> list[int]:
    """Trials of `x` `[trial, ...]` that hold NaN or infinity. Nothing as large as `x` is made, as `isfinite` does."""
    if not x.numel():
        return []
    low, high = x.flatten(1).aminmax(dim=1)  # where there is a NaN, both are
    return (~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist()


def give_back() -> None:
    """Give memory that was freed back to the system at once; the C library of Linux keeps some hundred MB for later."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # musl has none
        libc.malloc_trim(0)
