"""The one base class of errors that the person who wrote the call, the study or the file can mend."""

MOST_LETTERS = 1500
"""Of a message; of a longer one the middle is left out."""


class EmgLensError(Exception):
    """What came in, what was expected and what to do, in one line; the command line prints it without a traceback."""

    def __str__(self) -> str:
        return printable(BaseException.__str__(self))


def printable(text: str) -> str:
    """A text that a terminal shows as it is: one line, no control characters, of a bearable length."""
    line = " ".join(text.split())
    if len(line) > MOST_LETTERS:
        line = f"{line[: MOST_LETTERS // 2]} ... {line[-MOST_LETTERS // 2 :]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
