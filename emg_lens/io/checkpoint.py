"""A file from which interrupted work (a sweep, a fit) continues: tensors, what work they belong to, and a checksum.

The file is safetensors, replaced in one step whenever it is saved; a file that does not fit is left as it is.
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

SAVE_SECONDS = 3.0
"""Between two savings: what a kill costs at most."""
SAVE_SHARE = 0.05
"""Of the time, at most, is spent on saving; where the state is so large that it takes long, it is done less often."""


class CheckpointError(EmgLensError, RuntimeError):
    """A checkpoint file that is damaged, belongs to other work, or cannot be written."""


class CheckpointFile:
    """The file of one piece of work.

    Attributes:
        path: Where it is.
        tensors: What was saved, by name; empty where there is no file yet.
        facts: The texts that were saved with them; empty where there is no file yet.
    """

    def __init__(self, path: str | Path, work: str, identity: Mapping[str, str]) -> None:
        """Read the file, if there is one.

        Args:
            path: Where it is, or will be.
            work: What is done, in a word: `"sweep"`, `"fit"`.
            identity: What makes this work the one it is, as short texts; all of them must be in the file.

        Raises:
            CheckpointError: The file is damaged, or belongs to other work.
        """
        self.path, self.work, self.identity = Path(path).expanduser(), work, dict(identity)
        self.tensors: dict[str, Tensor] = {}
        self.facts: dict[str, str] = {}
        self._due = 0.0
        if self.path.exists():
            self._read()

    def is_due(self) -> bool:
        """Whether the last saving was some seconds ago."""
        return time.monotonic() >= self._due

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Replace the file, in one step.

        Raises:
            CheckpointError: It cannot be written.
        """
        started = time.monotonic()
        facts = {**self.identity, **facts, "format": self._format, "checksum": PLACEHOLDER}
        try:
            with replacing_with_checksum(self.path) as partial:
                save_file(dict(tensors), partial, facts)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot write checkpoint {str(self.path)!r}: {error}; give another path") from None
        now = time.monotonic()
        self._due = now + max(SAVE_SECONDS, (now - started) / SAVE_SHARE)

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Inside, what the file holds is taken; what does not go together is a line that names the file.

        Raises:
            CheckpointError: That line.
        """
        try:
            yield
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"checkpoint {str(self.path)!r} is no state of this {self.work} ({reason})") from None

    @property
    def _format(self) -> str:
        return f"emg-lens {self.work} 1"

    def _read(self) -> None:
        instead = "delete it or give another path"
        try:
            sealed = check_file(self.path)
            with safe_open(self.path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("format") != self._format:
                    raise CheckpointError(f"{str(self.path)!r} is not a checkpoint of a {self.work}; give another path")
                names = [n for n, value in self.identity.items() if facts.get(n) != value]
                if names:
                    which = ", ".join(f"{n}: {str(facts.get(n))[:200]}, now {self.identity[n][:200]}" for n in names)
                    raise CheckpointError(
                        f"checkpoint {str(self.path)!r} is of another {self.work} ({which}); {instead}"
                    )
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
            if not sealed:
                raise CheckpointError(f"checkpoint {str(self.path)!r} is of a former version; {instead}")
        except DamagedFileError:
            raise CheckpointError(
                f"checkpoint {str(self.path)!r} is damaged: its checksum is wrong; {instead}"
            ) from None
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {str(self.path)!r} cannot be read: {error}; {instead}") from None
        self.tensors, self.facts = tensors, facts


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Sixteen hexadecimal digits that stand for all the parts."""
    whole = sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8))
        whole.update(part)
    return whole.hexdigest()[:16]


def content(tensor: Tensor) -> tuple[bytes, memoryview]:
    """Type and shape, and the bytes, of a tensor."""
    kind = f"{tensor.dtype} {list(tensor.shape)}".encode()
    return kind, tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
