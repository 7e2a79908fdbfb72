"""Large recordings: what takes much memory is done by one process of this machine at a time."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emg_lens.data.registry import files_stamp
from emg_lens.io.locking import one_at_a_time
from emg_lens.memory import give_back
from emg_lens.studies.spec.cohort import Cohort

TURN_BYTES = 1 << 26
"""Of a file, trials or outputs: larger ones are not held by two processes, or longer than they are needed."""
MOST_SECONDS_IN_LINE = 600.0
"""That a process waits for its turn; then it goes on beside the others, in more memory."""


def stamp_of(cohort: Cohort, data: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each of a cohort's files."""
    return files_stamp(cohort.dataset, data, **cohort.options)


def is_large(cohort: Cohort, data: Path | None) -> bool:
    """Whether a cohort has a file that is read in turns."""
    return max((size for _, size, _ in stamp_of(cohort, data)), default=0) > TURN_BYTES


@contextmanager
def taking_turns(cohort: Cohort, data: Path | None) -> Iterator[None]:
    """Inside, large recordings may be read, or what was made of them compared and written."""
    if not is_large(cohort, data):
        yield
        return
    try:
        folder = Path(tempfile.gettempdir())
    except OSError:  # no folder for temporary files: nobody can be waited for
        yield
        return
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    with one_at_a_time(folder / f"emg-lens-reading-{user}.lock", wait=MOST_SECONDS_IN_LINE):
        give_back()
        yield
        give_back()
