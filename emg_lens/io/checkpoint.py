"""Checkpoints: save the state of a sweep or a fit, so that an interrupted one can be resumed.

A checkpoint is a safetensors file that holds tensors, the identity of the work, and a checksum. Saving replaces the
file in one step. A file that belongs to other work is never overwritten.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emg_lens.errors import EmgLensError
from emg_lens.io.checksums import PLACEHOLDER, DamagedFileError, check_file, replacing_with_checksum
from emg_lens.io.os_errors import remedy

SAVE_SECONDS = 3.0
"""Minimum time between two saves. An interruption loses little more than this."""
SAVE_FRACTION = 0.05
"""Largest fraction of the time spent on saving. A large state is therefore saved less often."""
INSTEAD = "delete it or give another path"


class CheckpointError(EmgLensError, RuntimeError):
    """A checkpoint that is damaged, belongs to other work, or cannot be written."""


class CheckpointFile:
    """The checkpoint file of one fit, sweep or pre-training.

    Attributes:
        path: Path of the file.
        tensors: The saved tensors by name; empty if there is no file yet.
        facts: The texts that were saved with the tensors; empty if there is no file yet.
    """

    def __init__(self, path: str | Path, work: str, identity: Mapping[str, str]) -> None:
        """Read the file, if there is one.

        Args:
            path: Path of the file.
            work: Kind of work, for messages: `"sweep"`, `"fit"`.
            identity: Short texts that identify the work, such as a hash of the model. The file must hold the same.

        Raises:
            CheckpointError: The file is damaged, or belongs to other work.
        """
        self.path, self.work, self.identity = Path(path).expanduser(), work, dict(identity)
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, str] = {}
        self._format, self._due = f"emg-lens {self.work} 1", 0.0
        if self.path.exists():
            self._read()

    def is_due(self) -> bool:
        """Whether enough time has passed since the last save."""
        return time.monotonic() >= self._due

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Replace the file in one step."""
        started = time.monotonic()
        facts = {**self.identity, **facts, "format": self._format, "checksum": PLACEHOLDER}
        try:
            with replacing_with_checksum(self.path) as partial:
                save_file(dict(tensors), partial, facts)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write checkpoint {str(self.path)!r}: {error}; give another path") from None
        now = time.monotonic()
        self._due = now + max(SAVE_SECONDS, (now - started) / SAVE_FRACTION)

    @contextmanager
    def reading_state(self) -> Iterator[None]:
        """Context for restoring the state from the tensors: an error inside becomes one line with the path."""
        try:
            yield
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"checkpoint {str(self.path)!r} does not fit this {self.work} ({reason}); {INSTEAD}"
            ) from None

    def _read(self) -> None:
        try:
            has_checksum = check_file(self.path)
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("format") != self._format:
                    raise CheckpointError(f"{str(self.path)!r} is not a checkpoint of a {self.work}; give another path")
                names = [n for n, value in self.identity.items() if facts.get(n) != value]
                if names:
                    which = ", ".join(f"{n}: {str(facts.get(n))[:200]}, now {self.identity[n][:200]}" for n in names)
                    raise CheckpointError(
                        f"checkpoint {str(self.path)!r} belongs to another {self.work} ({which}); {INSTEAD}"
                    )
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
            if not has_checksum:
                raise CheckpointError(f"checkpoint {str(self.path)!r} is damaged: its checksum is missing; {INSTEAD}")
        except DamagedFileError:
            raise CheckpointError(
                f"checkpoint {str(self.path)!r} is damaged: its checksum is wrong; {INSTEAD}"
            ) from None
        except (OSError, SafetensorError) as error:
            what = remedy(error, INSTEAD)
            raise CheckpointError(f"checkpoint {str(self.path)!r} cannot be read: {error}; {what}") from None
        self.tensors, self.facts = tensors, facts


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Hash several byte strings together; return 16 hexadecimal digits."""
    sha = sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8))
        sha.update(part)
    return sha.hexdigest()[:16]


def tensor_bytes(tensor: Tensor) -> tuple[bytes, memoryview]:
    """Return data type and shape as text, and the values as bytes, for `digest`."""
    kind = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return kind, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
