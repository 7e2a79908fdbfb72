"""The standard streams of a command: closed ones are opened, and characters that a stream cannot show are replaced."""

import os
import sys


def open_standard_streams() -> bool:
    """Make standard output and standard error usable; return whether standard output was closed.

    A closed stream writes to nowhere. Otherwise the next file that is opened would get its number, and text that is
    printed would be written into that file.
    """
    was_closed = sys.stdout is None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 - until the end
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    return was_closed


def flush_or_drop() -> None:
    """Write out what was printed. If it cannot be written, drop it, so that Python does not try again at its end.

    Raises:
        OSError: The disk is full, for example.
    """
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output() -> None:
    """Let standard output write to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
