"""Finished outputs of a sweep, in memory and in a checkpoint file from which the same call resumes.

The file holds `logits.<row>` `[trial, ...]` for every started row (a condition, or a distinct condition), `done`
`[micro-batch, row]`, and the settings of the sweep.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emg_lens.hooks import Intervention
from emg_lens.io.checkpoint import INSTEAD, CheckpointError, CheckpointFile, digest, tensor_bytes
from emg_lens.lens.identity import model_identity
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.settings import Settings, SweepInputError, known_arithmetic
from emg_lens.sweeps.target import Target


class Finished:
    """Outputs of a sweep by micro-batch and row.

    Attributes:
        lengths: Trials of each micro-batch.
        done: Whether a row is finished, `[micro-batch, row]`.
        logits: `[trial, ...]` for every row, on the model's device or on disk; zero where not done. All are allocated
            with the first output, because small pieces between a forward's large ones would fragment the memory.
        errors: Row -> the first exception that it raised.
    """

    def __init__(self, n_rows: int, lengths: Sequence[int], scratch: str | Path | None = None) -> None:
        """Prepare room for these rows and trials; `scratch` is the folder of a file that holds the logits instead."""
        self.lengths = list(lengths)
        self.done: np.ndarray = np.zeros((len(self.lengths), n_rows), bool)
        self.logits: list[Tensor] = []
        self.errors: dict[int, Exception] = {}
        self._n_failed, self._scratch = 0, scratch

    @property
    def fraction(self) -> float:
        """Fraction of the forwards that are finished."""
        return (np.count_nonzero(self.done) + self._n_failed) / self.done.size

    def first_part(self, row: int) -> int | None:
        """Return the first micro-batch in which a row is finished."""
        return int(self.done[:, row].argmax()) if self.done[:, row].any() else None

    def rows_done(self, part: int) -> frozenset[int]:
        """Return the rows of a micro-batch that need no forward."""
        return frozenset(np.flatnonzero(self.done[part]).tolist())

    def keep(self, part: int, outputs: Mapping[int, Tensor | Exception]) -> None:
        """Store outputs of a micro-batch by row."""
        start = sum(self.lengths[:part])
        for row, out in outputs.items():
            if isinstance(out, Exception):
                self.errors.setdefault(row, out)
                self._n_failed += 1
                continue
            self._write(row, start, out)
            self.done[part, row] = True

    def restore(self, done: np.ndarray, logits: Mapping[int, Tensor], device: torch.device) -> None:
        """Load the contents of a checkpoint file."""
        shapes = {tuple(out.shape) for out in logits.values()}
        if not all(out.is_floating_point() for out in logits.values()):
            raise ValueError("its outputs are not floating-point numbers")
        rows = set(np.flatnonzero(done.any(axis=0)).tolist()) if done.ndim == 2 else set()
        n_trials = sum(self.lengths)
        fits = done.shape == self.done.shape and set(logits) == rows
        if not fits or len(shapes) > 1 or {s[0] for s in shapes} - {n_trials}:
            raise ValueError(f"the numbers of rows or trials differ; expected {self.done.shape} and {n_trials}")
        self.done[:] = done
        for row, out in logits.items():
            self._write(row, 0, out.to(device))

    def started_rows(self) -> dict[int, Tensor]:
        """Return logits on the CPU for rows with at least one finished micro-batch."""
        return {row: self.logits[row].cpu() for row in np.flatnonzero(self.done.any(axis=0)).tolist()}

    def by_name(self, rows: Mapping[str, int]) -> Mapping[str, Tensor]:
        """Return logits `[trial, ...]` on the CPU by condition name, without the conditions that raised."""
        finished = {name: row for name, row in rows.items() if row not in self.errors}
        on_cpu = {row: self.logits[row].cpu() for row in set(finished.values())}
        return {name: on_cpu[row] for name, row in finished.items()}

    def _write(self, row: int, start: int, out: Tensor) -> None:
        """Write logits into a row from trial `start` on; the first ones set the shape of all rows."""
        if not self.logits:
            n_rows, shape = self.done.shape[1], (sum(self.lengths), *out.shape[1:])
            if self._scratch is None:
                self.logits = [out.new_zeros(shape) for _ in range(n_rows)]
            else:
                self.logits = _rows_on_disk(self._scratch, n_rows, shape, out.dtype)
        self.logits[row][start : start + len(out)] = out


def _rows_on_disk(folder: str | Path, n_rows: int, shape: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Return tensors of zeros in a temporary file, which is mapped into memory and deleted with the tensors."""
    n_bytes = math.prod(shape) * dtype.itemsize
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(n_rows):  # writing all bytes now makes a full disk an error here, and not a signal later
                file.write(bytes(n_bytes))
            file.flush()
            rows = np.memmap(file, np.uint8, "r+", shape=(n_rows, n_bytes))
    except OSError as error:
        raise SweepInputError(
            f"scratch={str(folder)!r} cannot hold {n_rows * n_bytes / 1e6:.3g} MB of logits"
            f" ({error.strerror or error}); make room, or give another folder"
        ) from None
    return [torch.from_numpy(row).view(dtype).view(*shape) for row in rows]


class Checkpoint:
    """The checkpoint file of a sweep, and the `settings` in the file; None if there is no file yet."""

    def __init__(self, path: str | Path, sweep: Mapping[str, str]) -> None:
        """Read the file, if there is one."""
        self.file = CheckpointFile(path, "sweep", sweep)
        facts, self.settings = self.file.facts, None
        if facts:
            with self.file.reading_state():
                self.settings = Settings(facts["executor"], int(facts["batch_size"]))
                if self.settings.executor not in ("folded", "tree", "loop") or self.settings.batch_size < 1:
                    raise ValueError(f"executor {self.settings.executor!r}, batch size {self.settings.batch_size}")
        self._n_saved = -1

    def begin(self, settings: Settings, finished: Finished, device: torch.device) -> None:
        """Load the file into `finished`, whose outputs are saved from now on; write the file if there is none."""
        self.settings, self.finished = settings, finished
        if not self.file.facts:
            self.save()
            return
        with self.file.reading_state():
            done, logits = self.file.tensors.pop("done").numpy(), self.file.tensors
            finished.restore(done, {int(name.removeprefix("logits.")): out for name, out in logits.items()}, device)
            self._n_saved = int(done.sum())
            logits.clear()

    def other_outputs(self, condition: str, change: str) -> CheckpointError:
        """Return the error for a stored output that the model does not give now."""
        return CheckpointError(
            f"checkpoint {str(self.file.path)!r} holds outputs of another model: {condition!r}, recomputed for some"
            f" trials, {change}; undo what changed since then in the model's code, settings or hooks, or {INSTEAD}"
        )

    def save(self) -> None:
        """Replace the file in one step if there are new outputs."""
        n_done = np.count_nonzero(self.finished.done)
        if n_done == self._n_saved:
            return
        tensors = {f"logits.{row}": logits for row, logits in self.finished.started_rows().items()}
        tensors["done"] = torch.from_numpy(self.finished.done)
        assert self.settings is not None
        self.file.save(tensors, {name: str(value) for name, value in asdict(self.settings).items()})
        self._n_saved = n_done


def sweep_identity(
    model: torch.nn.Module, x: Tensor, conditions: Sequence[Condition], target: Target, reference: Tensor | None
) -> dict[str, str]:
    """Describe a sweep by short texts: the model's identity, and digests of inputs and interventions.

    Names of conditions do not matter, nor does the layout if only edges are cut.
    """
    shape = (target.n_layers, target.n_heads)
    parts: list[bytes | memoryview] = [str((*shape, len(target.layout))).encode()]
    for condition in conditions:
        others = [*condition.input_changes, *condition.in_the_model]
        if others:
            parts.append(f"{others} of {target.layout}".encode())
            parts += [digest(tensor_bytes(value)).encode() for one in others for value in _arrays(one)]
        mask = condition.edges.mask(target.layout, *shape)
        parts.append(np.packbits(mask.numpy()).data)
    return {
        **model_identity(model),
        "arithmetic": known_arithmetic(model),
        "x": digest(tensor_bytes(x)),
        "reference": "none" if reference is None else digest(tensor_bytes(reference)),
        "conditions": digest(parts),
    }


def _arrays(intervention: Intervention) -> list[Tensor]:
    """Return the arrays of an intervention; its text shows only a few of their values."""
    return [torch.as_tensor(v) for v in vars(intervention).values() if isinstance(v, Tensor | np.ndarray)]
