"""Logits of a sweep in a temporary file: many conditions of many trials are more than a process should hold."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor


class RowsOnDisk:
    """Rows of one shape and type, zero where nothing was written, in a file that has no name and ends with the object.

    Reading a row gives a tensor of its own on the CPU; writing goes through `write`.
    """

    def __init__(self, folder: str | Path, n_rows: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Make the file in `folder`; n_rows rows of `shape` `[trial, ...]`."""
        self.n_rows, self.shape, self.dtype = n_rows, tuple(shape), dtype
        self._trial_bytes = prod(self.shape[1:]) * dtype.itemsize
        self._row_bytes = self.shape[0] * self._trial_bytes
        self._file, self._lock = tempfile.TemporaryFile(dir=folder), Lock()  # noqa: SIM115 - ends with the object
        self._file.truncate(n_rows * self._row_bytes)

    def __len__(self) -> int:
        """Number of rows."""
        return self.n_rows

    def __getitem__(self, row: int) -> Tensor:
        """One row `[trial, ...]`, read from the file."""
        if not 0 <= row < self.n_rows:
            raise IndexError(row)
        found = torch.empty(self.shape, dtype=self.dtype)
        with self._lock:
            self._file.seek(row * self._row_bytes)
            self._file.readinto(found.view(-1).view(torch.uint8).numpy().data)
        return found

    def write(self, row: int, start: int, values: Tensor) -> None:
        """Put values `[some trials, ...]` into a row, from trial `start` on."""
        flat = values.detach().to("cpu", self.dtype).contiguous().view(-1).view(torch.uint8)
        with self._lock:
            self._file.seek(row * self._row_bytes + start * self._trial_bytes)
            self._file.write(flat.numpy().data)


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
