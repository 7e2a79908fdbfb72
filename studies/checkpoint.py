"""What a sweep has finished: in memory, and in a file from which the same call continues where it was stopped.

The file is safetensors: `logits.<row>` `[trial, ...]` of every row that was begun (a condition, or a distinct
condition), `done` `[micro-batch, row]`, and as metadata what the sweep is, how it runs, and a checksum.
"""

import json
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emg_lens.components import is_heard
from emg_lens.studies.conditions import Condition
from emg_lens.studies.files import replacing
from emg_lens.studies.plan import Target

FORMAT = "emg-lens sweep 1"
SAVE_SECONDS = 3.0
"""Between two savings: what a kill costs at most."""
SAVE_SHARE = 0.05
"""Of the time, at most, is spent on saving; where logits are so large that it takes long, it is done less often."""


class CheckpointError(RuntimeError):
    """A checkpoint file that is damaged, belongs to another sweep, or cannot be written."""


@dataclass(frozen=True)
class Settings:
    """How a sweep runs. Kept in the file: other choices would change the last digits.

    Attributes:
        executor: `"loop"`, `"tree"` or `"stacked"`.
        batch_size: Trials a forward.
        at_once: Conditions that the stacked executor runs side by side.
    """

    executor: str
    batch_size: int
    at_once: int


class Finished:
    """Outputs of a sweep as they are finished, by micro-batch and row.

    Attributes:
        lengths: Trials of each micro-batch.
        done: `[micro-batch, row]`.
        logits: `[trial, ...]` of every row, where the model is; zero where it is not done. All are made with the first
            output: small pieces between a forward's large ones would scatter the memory.
        errors: Row -> what it raised first.
    """

    def __init__(self, n_rows: int, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.done = np.zeros((len(self.lengths), n_rows), bool)
        self.logits: list[Tensor] = []
        self.errors: dict[int, Exception] = {}
        self._n_failed = 0

    @property
    def fraction(self) -> float:
        """Of all forwards, how many are over."""
        return (np.count_nonzero(self.done) + self._n_failed) / self.done.size

    def rows_done(self, part: int) -> frozenset[int]:
        """Rows of a micro-batch that need no forward."""
        return frozenset(np.flatnonzero(self.done[part]).tolist())

    def keep(self, part: int, found: Mapping[int, Tensor | Exception]) -> None:
        """Take outputs of a micro-batch, by row."""
        start = sum(self.lengths[:part])
        for row, out in found.items():
            if isinstance(out, Exception):
                self.errors.setdefault(row, out)
                self._n_failed += 1
                continue
            if not self.logits:
                shape = (sum(self.lengths), *out.shape[1:])
                self.logits = [out.new_zeros(shape) for _ in range(self.done.shape[1])]
            self.logits[row][start : start + len(out)] = out
            self.done[part, row] = True

    def restore(self, done: np.ndarray, logits: Mapping[int, Tensor], device: torch.device) -> None:
        """Take what a file holds."""
        self.done[:] = done
        if logits:
            some = next(iter(logits.values()))
            self.logits = [
                logits[row].to(device) if row in logits else torch.zeros_like(some, device=device)
                for row in range(done.shape[1])
            ]

    def begun(self) -> dict[int, Tensor]:
        """Row -> logits on the CPU, of rows of which something is done."""
        return {row: self.logits[row].cpu() for row in np.flatnonzero(self.done.any(axis=0)).tolist()}

    def outputs(self) -> list[Tensor | Exception]:
        """Logits `[trial, ...]` of every row on the CPU, or what it raised."""
        return [self.errors[row] if row in self.errors else self.logits[row].cpu() for row in range(self.done.shape[1])]


class Checkpoint:
    """A sweep's file.

    Attributes:
        settings: How the sweep in the file runs; None where there is no file yet.
    """

    def __init__(self, path: str | Path, sweep: Mapping[str, str]) -> None:
        """Read the file, if there is one. `sweep` says what it must hold: `identity`, and settings the user asked for.

        Raises:
            CheckpointError: The file is damaged, or belongs to another sweep.
        """
        self.path, self.sweep = Path(path).expanduser(), dict(sweep)
        self.settings: Settings | None = None
        self._logits: dict[int, Tensor] = {}
        self._done: np.ndarray | None = None
        self._n_saved = -1
        self._due = 0.0
        if self.path.exists():
            self._read()

    def begin(self, settings: Settings, finished: Finished, device: torch.device) -> None:
        """Put what the file holds into `finished`, whose outputs are saved from now on; make the file if there is none.

        Raises:
            CheckpointError: It cannot be written.
        """
        self.settings, self.finished = settings, finished
        if self._done is None:
            self.save()
            return
        finished.restore(self._done, self._logits, device)
        self._n_saved = int(self._done.sum())
        self._logits = {}

    def save_if_due(self) -> None:
        """`save`, unless that was done a moment ago."""
        if time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Replace the file, in one step, if anything is new.

        Raises:
            CheckpointError: It cannot be written.
        """
        n_done = np.count_nonzero(self.finished.done)
        if n_done == self._n_saved:
            return
        started = time.monotonic()
        tensors = {f"logits.{row}": logits for row, logits in self.finished.begun().items()}
        tensors["done"] = torch.from_numpy(self.finished.done)
        assert self.settings is not None
        facts = self.sweep | {name: str(value) for name, value in asdict(self.settings).items()}
        facts |= {"format": FORMAT, "checksum": _checksum(tensors)}
        try:
            with replacing(self.path) as partial:
                save_file(tensors, partial, facts)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write checkpoint {str(self.path)!r}: {error}; give another path") from None
        self._n_saved = n_done
        now = time.monotonic()
        self._due = now + max(SAVE_SECONDS, (now - started) / SAVE_SHARE)

    def _read(self) -> None:
        instead = "delete it or give another path"
        try:
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("format") != FORMAT:
                    raise CheckpointError(f"{str(self.path)!r} is not a checkpoint of a sweep; give another path")
                names = [n for n, value in self.sweep.items() if facts.get(n) != value]
                if names:
                    which = ", ".join(f"{n}: {facts.get(n)}, now {self.sweep[n]}" for n in names)
                    raise CheckpointError(f"checkpoint {str(self.path)!r} is of another sweep ({which}); {instead}")
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {str(self.path)!r} cannot be read: {error}; {instead}") from None
        if facts["checksum"] != _checksum(tensors):
            raise CheckpointError(f"checkpoint {str(self.path)!r} is damaged: its checksum is wrong; {instead}")
        self._done = tensors.pop("done").numpy()
        self._logits = {int(name.removeprefix("logits.")): logits for name, logits in tensors.items()}
        self.settings = Settings(facts["executor"], int(facts["batch_size"]), int(facts["at_once"]))


def identity(model: torch.nn.Module, x: Tensor, conditions: Sequence[Condition], target: Target) -> dict[str, str]:
    """What makes a sweep this one, as short texts: versions, device, and digests of model, weights, inputs and cuts.

    Names of conditions and layout are free. What hooks of the user's own do is unknown; where they are is not.
    """
    config = {name: value for name, value in vars(model.cfg).items() if name not in ("device", "dtype")}
    config_text = json.dumps([type(model).__qualname__, config], sort_keys=True, default=_plain)
    points: Any = model.hook_dict
    # Not state_dict: the names that a bridge gives there may differ from one process to the next.
    weights = [*model.named_parameters(), *model.named_buffers()]
    shape = (target.n_layers, target.n_heads)
    masks = (np.packbits(c.edges.mask(target.layout, *shape).numpy()).data for c in conditions)
    return {
        "versions": ", ".join(f"{name} {version(name)}" for name in ("emg-lens", "torch", "transformer-lens")),
        "device": next(model.parameters()).device.type,
        "model": _digest([config_text.encode()]),
        "weights": _digest(part for name, weight in weights for part in (name.encode(), *_content(weight))),
        "hooks": ", ".join(sorted(name for name, point in points.items() if is_heard(point))) or "none",
        "x": _digest(_content(x)),
        "conditions": _digest([str((*shape, len(target.layout))).encode(), *masks]),
    }


def _plain(value: object) -> str:
    """A value that JSON does not know, as text that is the same in every process."""
    return str(value) if isinstance(value, torch.dtype | torch.device) else type(value).__qualname__


def _digest(parts: Iterable[bytes | memoryview]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()[:16]


def _content(tensor: Tensor) -> tuple[bytes, memoryview]:
    """Type and shape, and the bytes, of a tensor."""
    kind = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return kind, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = 0
    for _, tensor in sorted(tensors.items()):
        total = zlib.crc32(_content(tensor)[1], total)
    return f"{total:08x}"
