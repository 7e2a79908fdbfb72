"""Logits of a sweep in a temporary file, for many conditions on very many trials."""

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
"""Whether files can be read and written at an offset; forked processes share the position in an open file."""


class RowsOnDisk:
    """Rows of equal shape and type in a temporary file, which is deleted with the object. Unwritten values are zero.

    Reading a row returns a new tensor on the CPU; use `write` to change it.
    """

    def __init__(self, folder: str | Path, n_rows: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Create the file in `folder`, with `n_rows` rows of `shape` `[trial, ...]`."""
        self.n_rows, self.shape, self.dtype = n_rows, tuple(shape), dtype
        self._trial_bytes = prod(self.shape[1:]) * dtype.itemsize
        self._row_bytes = self.shape[0] * self._trial_bytes
        self._folder, self._lock = str(folder), Lock()
        with self._on_disk():
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed with the object
            self._file.truncate(n_rows * self._row_bytes)

    def __len__(self) -> int:
        """Number of rows."""
        return self.n_rows

    def __getitem__(self, row: int) -> Tensor:
        """Read one row `[trial, ...]` from the file."""
        if not 0 <= row < self.n_rows:
            raise IndexError(row)
        values = torch.empty(self.shape, dtype=self.dtype)
        self._all(self._read, values, row * self._row_bytes)
        return values

    def write(self, row: int, start: int, values: Tensor) -> None:
        """Write values `[some trials, ...]` into a row from trial `start` on."""
        given = values.detach().to("cpu", self.dtype).contiguous()
        self._all(self._put, given, row * self._row_bytes + start * self._trial_bytes)

    def _all(self, step: Callable[[memoryview, int], int], values: Tensor, offset: int) -> None:
        """Read or write all bytes of a tensor from an offset on; one system call may handle only a part of them."""
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
        """Turn errors of the disk into a `SweepInputError`."""
        try:
            yield
        except OSError as error:
            raise SweepInputError(
                f"scratch={self._folder!r} cannot hold {self.n_rows * self._row_bytes / 1e6:.3g} MB of logits"
                f" ({error.strerror or error}); make room, or give another folder"
            ) from None


class LogitsOnDisk(Mapping[str, Tensor]):
    """Condition name -> logits `[trial, ...]` on the CPU, read from the file at every access."""

    def __init__(self, rows: Mapping[str, int], held: RowsOnDisk) -> None:
        """Use `rows` as the row of each condition in `held`."""
        self._rows, self._held = dict(rows), held

    def __getitem__(self, name: str) -> Tensor:
        """Read the logits of one condition."""
        return self._held[self._rows[name]]

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, Tensor]]]:
        """Pickle the values, because another process cannot use the file."""
        return dict, (dict(self),)

    def __iter__(self) -> Iterator[str]:
        """Names of the conditions, in order."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Number of conditions."""
        return len(self._rows)
