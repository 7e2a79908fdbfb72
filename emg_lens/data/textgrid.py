"""Read Praat TextGrids: intervals of time with a text, such as the phones of an utterance."""

import re
from pathlib import Path

from emg_lens.data.recording import DataError

Interval = tuple[float, float, str]
"""Start (s), end (s), and text."""
TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<![^\s])(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?![^\s])|(<exists>)')
"""What a TextGrid consists of: texts, numbers and this flag. Everything else is for the reader's eye."""


def read_textgrid(path: Path) -> dict[str, list[Interval]]:
    """Read the interval tiers of a TextGrid in text form, long or short, in UTF-8 or UTF-16.

    Returns:
        The intervals of each tier, by its name. Tiers of points are left out.

    Raises:
        DataError: The file is missing, incomplete, or no TextGrid.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(f"{path}: cannot be read ({reason}); expected a TextGrid") from None
    tokens = iter([(quoted.replace('""', '"') if quoted or not number else number) for quoted, number, _ in
                   TOKEN.findall(text)])  # fmt: skip
    tiers: dict[str, list[Interval]] = {}
    try:
        if (next(tokens), next(tokens)) != ("ooTextFile", "TextGrid"):
            raise ValueError
        _, _, _, n_tiers = (next(tokens) for _ in range(4))
        for _ in range(int(n_tiers)):
            kind, name, _, _, n = (next(tokens) for _ in range(5))
            size = 3 if kind == "IntervalTier" else 2
            entries = [tuple(next(tokens) for _ in range(size)) for _ in range(int(n))]
            if kind == "IntervalTier":
                tiers[name] = [(float(start), float(end), label.strip()) for start, end, label in entries]
    except (ValueError, StopIteration, RuntimeError):
        raise DataError(f"{path} is no complete TextGrid; expected the text form that Praat writes") from None
    return tiers
