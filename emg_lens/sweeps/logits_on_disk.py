"""Logits of a sweep in a temporary file: many conditions of many trials are more than a process should hold."""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from emg_lens.sweeps.settings import SweepInputError

AT_OFFSETS = hasattr(os, "preadv")
"""Whether a file can be read and written at a place of one's own: the position in it is shared by forked processes."""


class RowsOnDisk:
    """Rows of one shape and type, zero where nothing was written, in a file that has no name and ends with the object.

    Reading a row gives a tensor of its own on the CPU; writing goes through `write`.
    """

    def __init__(self, folder: str | Path, n_rows: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Make the file in `folder`; n_rows rows of `shape` `[trial, ...]`."""
        self.n_rows, self.shape, self.dtype = n_rows, tuple(shape), dtype
        self._trial_bytes = prod(self.shape[1:]) * dtype.itemsize
        self._row_bytes = self.shape[0] * self._trial_bytes
        self._folder, self._lock = str(folder), Lock()
        with self._on_disk():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - ends with the object
            self._file.truncate(n_rows * self._row_bytes)

    def __len__(self) -> int:
        """Number of rows."""
        return self.n_rows

    def __getitem__(self, row: int) -> Tensor:
        """One row `[trial, ...]`, read from the file."""
        if not 0 <= row < self.n_rows:
            raise IndexError(row)
        found = torch.empty(self.shape, dtype=self.dtype)
        self._all(self._read, found, row * self._row_bytes)
        return found

    def write(self, row: int, start: int, values: Tensor) -> None:
        """Put values `[some trials, ...]` into a row, from trial `start` on."""
        given = values.detach().to("cpu", self.dtype).contiguous()
        self._all(self._put, given, row * self._row_bytes + start * self._trial_bytes)

    def _all(self, step: Callable[[memoryview, int], int], values: Tensor, offset: int) -> None:
        """Read or put all bytes of a tensor, from a place of the file on: systems may stop on the way."""
        left = values.view(-1).view(torch.uint8).numpy().data
        with self._on_disk():
            while left:
                n_bytes = step(left, offset)
                if not n_bytes:
                    raise OSError(errno.EIO, "the file ends early")
                left, offset = left[n_bytes:], offset + n_bytes

    def _read(self, into: memoryview, offset: int) -> int:
        if AT_OFFSETS:
            return os.preadv(self._file.fileno(), [into], offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.readinto(into) or 0

    def _put(self, values: memoryview, offset: int) -> int:
        if AT_OFFSETS:
            return os.pwrite(self._file.fileno(), values, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.write(values) or 0

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Inside, a disk that is full or gone is told."""
        try:
            yield
        except OSError as error:
            raise SweepInputError(
                f"scratch={self._folder!r} cannot hold {self.n_rows * self._row_bytes / 1e6:.3g} MB of logits"
                f" ({error.strerror or error}); make room, or give another folder"
            ) from None


class LogitsOnDisk(Mapping[str, Tensor]):
    """Condition name -> logits `[trial, ...]` on the CPU, read from the file whenever they are asked for."""

    def __init__(self, rows: Mapping[str, int], held: RowsOnDisk) -> None:
        """Name -> row of those held."""
        self._rows, self._held = dict(rows), held

    def __getitem__(self, name: str) -> Tensor:
        """One condition's logits."""
        return self._held[self._rows[name]]

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, Tensor]]]:
        """Pickled, or sent to another process, as what it holds: the file stays here."""
        return dict, (dict(self),)

    def __iter__(self) -> Iterator[str]:
        """Names of the conditions, in order."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Number of conditions."""
        return len(self._rows)
