"""Writing files so that a reader, or a run that is killed, never meets half a file."""

import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Write beside `path`, then move into place in one step."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, for UTF-8 text."""
    write_bytes(path, content.encode())
