"""N-gram language models in ARPA files, read by KenLM (docs/events-and-text.md §3.2)."""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from emg_lens.validation import ArgumentError

MOST_TEXTS = 1_000_000
"""Texts whose state is kept; then the memory begins anew."""


def read_arpa(path: Path) -> Callable[[tuple[str, ...]], float]:
    """Read an n-gram model of words.

    Args:
        path: An ARPA file, as text.

    Returns:
        A function from words to the natural logarithm of the probability of the last one after the others, and after
        the beginning of the text. `"</s>"` is the end. A word that the model does not have counts as `<unk>`.

    Raises:
        ArgumentError: `flashlight-text` is not installed, or the file is no ARPA file.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read ({error.strerror}); expected an ARPA file") from None
    return _read(path, changed)


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Callable[[tuple[str, ...]], float]:  # noqa: ARG001 - a changed file is read again
    try:
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary
    except ImportError:
        raise ArgumentError("flashlight-text is not installed; run pip install 'emg-lens[speech]'") from None
    words = dict.fromkeys(["<unk>", *_unigrams(path)])
    numbers, dictionary = {word: number for number, word in enumerate(words)}, Dictionary(list(words))
    model = KenLM(str(path), dictionary)
    states: dict[tuple[str, ...], tuple] = {(): (model.start(False), 0.0)}

    def after(text: tuple[str, ...]) -> tuple:
        if text not in states:
            before = after(text[:-1])[0]
            if len(states) > MOST_TEXTS:
                states.clear()
                states[()] = (model.start(False), 0.0)
            states[text] = model.score(before, numbers.get(text[-1], 0))
        return states[text]

    def log_probability(text: tuple[str, ...]) -> float:
        before = after(text[:-1])[0]
        log10 = model.finish(before)[1] if text[-1] == "</s>" else after(text)[1]
        return math.log(10) * log10

    return log_probability


def _unigrams(path: Path) -> list[str]:
    """The words of an ARPA file."""
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip() == "\\1-grams:":
                    break
            found = []
            for line in lines:
                if line.startswith("\\"):
                    break
                if line.strip():
                    found.append(line.split()[1])
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ArgumentError(f"{path} cannot be read as an ARPA file ({error}); expected the text of n-grams") from None
    if not found:
        raise ArgumentError(f"{path} has no section \\1-grams:; expected an ARPA file")
    return found
