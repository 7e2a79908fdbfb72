"""Logits of a sweep in a temporary file: many conditions of many trials are more than a process should hold."""

import errno
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from emg_lens.sweeps.settings import SweepInputError


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
        with self._lock, self._on_disk():
            self._file.seek(row * self._row_bytes)
            left = found.view(-1).view(torch.uint8).numpy().data
            while n_read := self._file.readinto(left):
                left = left[n_read:]
            if left:
                raise OSError(errno.EIO, "the file ends early")
        return found

    def write(self, row: int, start: int, values: Tensor) -> None:
        """Put values `[some trials, ...]` into a row, from trial `start` on."""
        flat = values.detach().to("cpu", self.dtype).contiguous().view(-1).view(torch.uint8)
        with self._lock, self._on_disk():
            self._file.seek(row * self._row_bytes + start * self._trial_bytes)
            left = flat.numpy().data
            while left:
                left = left[self._file.write(left) :]

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Inside, a disk that is full or gone is told."""
        try:
            yield
        except OSError as error:
            raise SweepInputError(
                f"scratch={self._folder!r} cannot hold {self.n_rows * self._row_bytes / 1e6:.0f} MB of logits"
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

    def __iter__(self) -> Iterator[str]:
        """Names of the conditions, in order."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Number of conditions."""
        return len(self._rows)
