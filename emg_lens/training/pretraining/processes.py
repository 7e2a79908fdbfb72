"""Several processes of one pre-training: the first one works for all, and an error of one ends the others in one line.

A launcher such as `torchrun` starts the processes, and `accelerate` connects them (docs/pretraining.md §10.3).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed import DistError

from emg_lens.errors import EmgLensError
from emg_lens.training.objectives import FitError

BACKENDS = ("gloo", "NCCL", "Connection closed by peer")
"""Text in an error of the libraries that connect processes; not all of them raise a `DistError`."""


def by_first_process(accelerator: Accelerator, work: Callable[[], Any]) -> Any:
    """Call a function in the first process; every process returns the result, or raises the error again."""
    result: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            result = [work()]
        except EmgLensError as error:
            result = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(result)
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


@contextmanager
def errors_of_other_processes() -> Iterator[None]:
    """Context in which the end of another process becomes an error of one line.

    Raises:
        FitError: That line.
    """
    try:
        yield
    except EmgLensError:
        raise
    except RuntimeError as error:
        if not isinstance(error, DistError) and not any(name in str(error) for name in BACKENDS):
            raise
        raise FitError(
            "another process of this pre-training has ended, so this one stops too; the message of that process says"
            " why; run the same command again to resume"
        ) from None
