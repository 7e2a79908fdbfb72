"""The licence of recordings, as the README next to them names it."""

import re
from pathlib import Path

MOST_LETTERS = 300
MOST_BYTES = 1 << 20
_FILES = re.compile(r"(readme|licen[cs]e|copying)(\.(md|txt|rst))?", re.IGNORECASE)


def licence_line(data: str | Path | None) -> str:
    r"""Find the line about the licence in the README of a data folder, or the first line of its licence file.

    Args:
        data: Folder or file of the data set; None for simulated recordings.

    Returns:
        The line from the sentence about the licence on, without markup and the label "Licence:", at most 300 letters;
        empty if no file names a licence.

    Example:
        >>> import tempfile
        >>> from emg_lens.data.licence import licence_line
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "README.md").write_text("**Licence:** CC BY 4.0\n")
        ...     licence_line(folder)
        'CC BY 4.0'
    """
    if data is None:
        return ""
    place = Path(data).expanduser()
    folder = place.parent if place.is_file() else place
    try:
        files = sorted(path for path in folder.iterdir() if _FILES.fullmatch(path.name) and path.is_file())
        texts = {path: path.open("rb").read(MOST_BYTES).decode(errors="replace") for path in files}
    except OSError:
        return ""
    readmes = [text for path, text in texts.items() if path.name.lower().startswith("readme")]
    named = [line for text in readmes for line in text.splitlines() if re.search(r"licen[cs]", line, re.IGNORECASE)]
    first = [text.strip().partition("\n")[0] for text in texts.values() if text not in readmes]
    lines = [_plain(line) for line in (*named, *first)]
    return next((line for line in lines if line), "")


def _plain(line: str) -> str:
    """Shorten a line to the sentence about the licence and what follows, without Markdown marks."""
    text = " ".join(re.sub(r"^[\s#>*|-]+|\*\*|`", "", line).split())
    sentences = re.split(r"(?<=\.) ", text)
    first = next((k for k, one in enumerate(sentences) if re.search(r"licen[cs]", one, re.IGNORECASE)), 0)
    text = re.sub(r"^licen[cs]e: *", "", " ".join(sentences[first:]), flags=re.IGNORECASE) or text
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."
