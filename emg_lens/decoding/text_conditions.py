"""Text of several conditions, decoded without a language model (docs/events-and-text.md §3.1)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emg_lens.decoding.ctc import greedy_decode
from emg_lens.scoring.condition_scores import ConditionScores, check_baseline, unit_names
from emg_lens.scoring.event_matching import ScoreError
from emg_lens.scoring.text_errors import word_errors
from emg_lens.validation import checked

Emissions = Mapping[str, np.ndarray]
"""Log-probabilities `[time, symbol]` of each utterance."""


@checked
def score_text_conditions(
    references: Mapping[str, str],
    emissions: Mapping[str, Emissions],
    alphabet: Sequence[str],
    blank: int = -1,
    baseline: str = "baseline",
    decode: Callable[[np.ndarray, Sequence[str], int], str] = greedy_decode,
) -> ConditionScores:
    """Decode the utterances of several conditions, and count their word errors.

    The default decoder has neither lexicon nor language model, because both repair a part of what a cut destroys.

    Args:
        references: What was said, for each utterance.
        emissions: For each condition and utterance, log-probabilities `[time, symbol]`.
        alphabet: What each symbol writes, one text for each column.
        blank: Column of the blank; a negative number counts from the end.
        baseline: The condition with the intact model.
        decode: A decoder: from log-probabilities, alphabet and blank to a text.

    Returns:
        The counts of each condition and utterance, with the scores of `word_errors`.

    Raises:
        ScoreError: The baseline is missing, or a condition has other utterances.

    Example:
        >>> from functools import partial
        >>> import numpy as np
        >>> from emg_lens.decoding import beam_decode, score_text_conditions
        >>> intact = np.log(0.9 * np.eye(4)[[0, 1]] + 0.025)  # a, b
        >>> cut = np.log([[0.9, 0.05, 0.03, 0.02], [0.4, 0.1, 0.1, 0.4]])
        >>> emissions, alphabet = {"baseline": {"u1": intact}, "cut": {"u1": cut}}, ["a", "b", " ", ""]
        >>> score_text_conditions({"u1": "ab"}, emissions, alphabet).to_frame()["word_error_rate"].to_dict()
        {'baseline': 0.0, 'cut': 1.0}
        >>> closed = partial(beam_decode, lexicon=["ab"])  # the lexicon knows the answer
        >>> scores = score_text_conditions({"u1": "ab"}, emissions, alphabet, decode=closed)
        >>> scores.to_frame()["word_error_rate"].to_dict()
        {'baseline': 0.0, 'cut': 0.0}
    """
    check_baseline(baseline, emissions)
    for condition, utterances in emissions.items():
        if set(utterances) != set(references):
            raise ScoreError(
                f"condition {condition!r} has other utterances than the references; expected the same names"
            )
    texts = [decode(utterances[name], alphabet, blank) for utterances in emissions.values() for name in references]
    said = [*references.values()] * len(emissions)
    table = word_errors(said, texts, unit_names(emissions, references))
    return ConditionScores(table, tuple(emissions), tuple(references), baseline)
