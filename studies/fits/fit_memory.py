"""Memory of a fit on large recordings: its large steps run in one process of this machine at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emg_lens.data.registry import file_states
from emg_lens.io.locking import exclusive_lock
from emg_lens.memory import return_freed_memory
from emg_lens.studies.spec.cohort import Cohort

LARGE_BYTES = 1 << 26
"""A recording file, trials or outputs of more bytes are large."""
MOST_WAIT_S = 600.0
"""A process waits at most this long for the other processes; then it continues and needs more memory."""


def recording_states(cohort: Cohort, data: Path | None) -> tuple[tuple[str, int, int], ...]:
    """List the cohort's files with size and time of their last change."""
    return file_states(cohort.dataset, data, **cohort.options)


class FitMemory:
    """The memory that fits on one cohort may use.

    Attributes:
        is_large: Whether the cohort has a large file.
    """

    def __init__(self, cohort: Cohort, data: Path | None) -> None:
        sizes = [size for _, size, _ in recording_states(cohort, data)]
        self.is_large = max(sizes, default=0) > LARGE_BYTES

    @contextmanager
    def large_step(self) -> Iterator[None]:
        """Run a step that needs much memory, then return the freed memory to the operating system.

        If recordings are large, only one process of this machine is in such a step. Do not nest two steps.
        """
        if not self.is_large:
            yield
            return_freed_memory()
            return
        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
        lock = Path(tempfile.gettempdir()) / f"emg-lens-reading-{user}.lock"
        with exclusive_lock(lock, wait=MOST_WAIT_S):
            yield
            return_freed_memory()

    def scratch(self, n_bytes: int, folder: Path) -> Path | None:
        """Return the folder in which outputs of this size are kept on disk; None if they stay in memory."""
        return folder if n_bytes > LARGE_BYTES else None
