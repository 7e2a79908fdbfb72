"""The base class of all errors that a user can fix, and text that a terminal can print."""

import difflib
from collections.abc import Iterable

MOST_CHARACTERS = 1500
"""Longest message; the middle of a longer one is left out."""


class EmgLensError(Exception):
    """An error that a user can fix. Its message is one line: what is wrong, what is expected, what to do.

    The command line prints the message without a traceback.
    """

    def __str__(self) -> str:
        return printable(BaseException.__str__(self))


def printable(text: str) -> str:
    """Make a text safe for a terminal: one line, no control characters, at most about 1500 characters."""
    line = _two_ends(" ".join(text.split()))
    return _two_ends("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line))


def _two_ends(line: str) -> str:
    if len(line) <= MOST_CHARACTERS:
        return line
    return f"{line[: MOST_CHARACTERS // 2]} ... {line[-MOST_CHARACTERS // 2 :]}"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Suggest the known name that is most similar to a name: `"did you mean 'x'? "`, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
