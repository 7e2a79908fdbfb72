"""Limit hooks and edits to the thread that installed them: torch runs the hooks of a module in every thread."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from emg_lens.hooks.algebra import EdgeError

LOCK = threading.RLock()
"""Held while hooks are added or removed, and while a model is probed."""
_open: Counter[int] = Counter()
"""Number of open contexts in each thread."""
_owners: dict[int, int] = {}
"""The thread of each hook that acts in one thread only, by torch's number of the hook."""


@contextmanager
def bound_to_thread() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether it is called in the thread that entered the context."""
    own = threading.get_ident()
    with LOCK:
        _open[own] += 1
    try:
        yield partial(_runs_for, own)
    finally:
        with LOCK:
            _open[own] -= 1
            if not _open[own]:
                del _open[own]


@contextmanager
def owned_by_thread(hooks: Iterable[int]) -> Iterator[None]:
    """Note that these hooks (torch's numbers) act only in this thread, until the context ends."""
    numbers, own = tuple(hooks), threading.get_ident()
    _owners.update(dict.fromkeys(numbers, own))
    try:
        yield
    finally:
        for number in numbers:
            del _owners[number]


def is_of_another_thread(hook: int) -> bool:
    """Whether a hook (torch's number) acts only in another thread."""
    owner = _owners.get(hook)
    return owner is not None and not _runs_for(owner)


def _runs_for(own: int) -> bool:
    here = threading.get_ident()
    if here == own:
        return True
    # On a GPU, a thread of torch's autograd engine recomputes checkpointed layers.
    python_threads = (thread.ident for thread in threading.enumerate())
    if torch._C._current_graph_task_id() == -1 or here in python_threads:
        return False
    if len(_open) > 1:
        raise EdgeError(
            "a layer is recomputed in a backward pass while two threads have open contexts, so its context is unknown;"
            " run one backward pass at a time, or switch activation checkpointing off"
        )
    return True
