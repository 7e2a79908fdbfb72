"""Errors of decoded text: substituted, deleted and inserted words or characters (docs/events-and-text.md §3)."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from emg_lens.scoring.event_matching import ScoreError
from emg_lens.scoring.score_table import CountScore, ScoreTable, Sums, ratio
from emg_lens.validation import checked

PARTS = ("hits", "substitutions", "deletions", "insertions")


@checked
def word_errors(references: Sequence[str], hypotheses: Sequence[str], units: Sequence[str] | None = None) -> ScoreTable:
    """Count word errors of each utterance, as `jiwer` aligns them.

    Texts are compared as they are, so "Go" and "go" differ. Use `comparable_text` on both sides first if case and
    punctuation should not count.

    Args:
        references: What was said, one text an utterance.
        hypotheses: What was decoded.
        units: A different name for each utterance; default `"0"`, `"1"`, ...

    Returns:
        The counts of each utterance, with the scores `word_error_rate` (substitutions + deletions + insertions),
        `substitutions`, `deletions` and `insertions`, all divided by the number of words in the references. The rate of
        an utterance without reference words is NaN; its insertions count in the pooled rate.

    Raises:
        ScoreError: The numbers of texts differ, there is none, or `jiwer` is not installed.

    Example:
        >>> from emg_lens.scoring import word_errors
        >>> table = word_errors(["go left now", "stop"], ["go right", "stop it"])
        >>> table.counts["substitutions"].tolist(), table.pooled()["word_error_rate"]
        ([1.0, 0.0], 0.75)
    """
    return _errors("word", "process_words", references, hypotheses, units)


@checked
def character_errors(
    references: Sequence[str], hypotheses: Sequence[str], units: Sequence[str] | None = None
) -> ScoreTable:
    """Count character errors of each utterance, spaces included, as `jiwer` aligns them.

    Args:
        references: What was said or typed, one text an utterance.
        hypotheses: What was decoded.
        units: A different name for each utterance; default `"0"`, `"1"`, ...

    Returns:
        As in `word_errors`, with characters in place of words and the score `character_error_rate`.

    Raises:
        ScoreError: The numbers of texts differ, there is none, or `jiwer` is not installed.

    Example:
        >>> from emg_lens.scoring import character_errors
        >>> character_errors(["stop"], ["stoop"]).pooled()["character_error_rate"]
        0.25
    """
    return _errors("character", "process_characters", references, hypotheses, units)


@checked
def comparable_text(text: str) -> str:
    """Write a text in lower case, without accents and punctuation, with single spaces; hyphens separate words.

    Example:
        >>> from emg_lens.scoring import comparable_text
        >>> comparable_text("A well-known café,  isn't it?")
        'a well known cafe isnt it'
    """
    letters = unicodedata.normalize("NFKD", text).lower()
    kinds = [(letter, unicodedata.category(letter)) for letter in letters]
    kept = [" " if kind == "Pd" else letter for letter, kind in kinds if kind == "Pd" or kind[0] not in "PMS"]
    return " ".join("".join(kept).split())


def _errors(
    what: str, process: str, references: Sequence[str], hypotheses: Sequence[str], units: Sequence[str] | None
) -> ScoreTable:
    try:
        import jiwer
    except ImportError:
        raise ScoreError("jiwer is not installed; run pip install 'emg-lens[speech]'") from None
    if len(references) != len(hypotheses) or not references:
        raise ScoreError(
            f"{len(references)} references and {len(hypotheses)} hypotheses; expected one of each, or more"
        )
    names = tuple(map(str, range(len(references)))) if units is None else tuple(units)
    if len(names) != len(references):
        raise ScoreError(f"{len(names)} units for {len(references)} utterances; expected one name per utterance")
    compared = [getattr(jiwer, process)(*pair) for pair in zip(references, hypotheses, strict=True)]
    counts = {part: np.array([getattr(one, part) for one in compared], float) for part in PARTS}
    errors = PARTS[1:]
    scores = [_rate(f"{what}_error_rate", errors, what), *(_rate(part, (part,), what) for part in errors)]
    return ScoreTable(names, counts, tuple(scores))


def _rate(name: str, parts: Sequence[str], what: str) -> CountScore:
    def value(sums: Sums) -> np.ndarray:
        total = np.sum([sums[part] for part in ("hits", "substitutions", "deletions")], axis=0)
        return ratio(np.sum([sums[part] for part in parts], axis=0), total)

    return CountScore(name, value, f"the reference has no {what}")
