"""Text from the log-probabilities of a CTC model (docs/events-and-text.md §3.2).

CTC collapse (Graves et al. 2006, §3.1): of the symbols of all steps, repeats are written once, then blanks are removed.
`a a blank a b b` is the text `aab`. Many sequences of symbols collapse to one text; their probabilities add up.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from emg_lens.decoding.arpa import read_arpa
from emg_lens.decoding.prefix_beam import Hypothesis, PrefixBeam, WordScores
from emg_lens.scoring.token_metrics import greedy_symbols
from emg_lens.validation import ArgumentError, checked, short

LanguageModel = Callable[[tuple[str, ...]], float]
"""From words to the natural logarithm of the probability of the last one after the others. The end of a text is the
word `</s>`."""
Beam = Annotated[int, Field(ge=1, le=100_000)]
Weight = Annotated[float, Field(ge=0)]
SUM_TOLERANCE = 1e-3
"""Deviation of a sum of probabilities from 1."""


@checked
def greedy_decode(log_probs: np.ndarray, alphabet: Sequence[str], blank: int = -1) -> str:
    """Write the text of the most probable symbol of each step: repeats once, blanks left out.

    Args:
        log_probs: Natural logarithm of the probability of each symbol at each step `[time, symbol]`.
        alphabet: What each symbol writes, one text for each column. The space between words is `" "`.
        blank: Column of the blank; a negative number counts from the end. Its text in `alphabet` is not used.

    Returns:
        The text.

    Raises:
        ArgumentError: Values are no log-probabilities, or do not belong to the alphabet.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import greedy_decode
        >>> steps = np.log(np.full((6, 3), 0.1) + 0.7 * np.eye(3)[[0, 0, 2, 0, 1, 1]])
        >>> greedy_decode(steps, ["a", "b", ""])
        'aab'
    """
    blank = check_emissions(log_probs, alphabet, blank)
    order = [*(symbol for symbol in range(len(alphabet)) if symbol != blank), blank]
    (symbols,) = greedy_symbols(log_probs[None, :, order])
    texts = [alphabet[symbol] for symbol in order]
    return "".join(texts[symbol] for symbol in symbols.tolist())


@checked
def beam_decode(
    log_probs: np.ndarray,
    alphabet: Sequence[str],
    blank: int = -1,
    beam: Beam = 100,
    lexicon: Collection | None = None,
    language_model: LanguageModel | Path | str | None = None,
    weight: Weight = 1.0,
    insertion_bonus: float = 0.0,
) -> str:
    """Find the text with the highest score by a prefix beam search (Hannun et al. 2014).

    Score of a text: log p(text), summed over all sequences of symbols that collapse to it, + `weight` · log p(words)
    of the language model + `insertion_bonus` for each word. The result is exact if at most `beam` prefixes of texts are
    possible.

    A lexicon and a language model repair errors, also those of a damaged model. To compare conditions, decode without
    them (`score_text_conditions` does), or report both.

    Args:
        log_probs: Natural logarithm of the probability of each symbol at each step `[time, symbol]`.
        alphabet: What each symbol writes, one text for each column. The space between words is `" "`.
        blank: Column of the blank; a negative number counts from the end.
        beam: Number of prefixes that are kept at each step.
        lexicon: The only words that may occur. Default: every sequence of symbols.
        language_model: A function from words to the natural logarithm of the probability of the last one after the
            others (the last word of all is `"</s>"`), or an n-gram model: the path of an ARPA file, which needs
            `pip install 'emg-lens[speech]'`.
        weight: Weight of the language model. Tools that use the logarithm to base 10, such as torchaudio, give a
            weight that is 2.303 times as large for the same effect.
        insertion_bonus: Added for each word.

    Returns:
        The text. With a lexicon, a language model or a bonus, words are separated by single spaces. Empty if the beam
        holds no text of complete words.

    Raises:
        ArgumentError: Values are no log-probabilities, a word cannot be spelled, or the file is no ARPA file.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import beam_decode
        >>> steps = np.log([[0.6, 0.1, 0.3], [0.4, 0.1, 0.5]])  # a, b, blank
        >>> beam_decode(steps, ["a", "b", ""])
        'a'
        >>> letters = np.log([[0.5, 0.4, 0.05, 0.05]])  # "b" is less probable, but a word
        >>> beam_decode(letters, ["a", "b", " ", ""], lexicon=["b", "bab"])
        'b'
    """
    arguments = (log_probs, alphabet, blank, beam, lexicon, language_model, weight, insertion_bonus)
    found = beam_hypotheses(*arguments)
    return found[0].text if found else ""


@checked
def beam_hypotheses(
    log_probs: np.ndarray,
    alphabet: Sequence[str],
    blank: int = -1,
    beam: Beam = 100,
    lexicon: Collection | None = None,
    language_model: LanguageModel | Path | str | None = None,
    weight: Weight = 1.0,
    insertion_bonus: float = 0.0,
) -> list[Hypothesis]:
    """Return all texts in the last beam with their scores, best first. The arguments are those of `beam_decode`.

    Example:
        >>> import numpy as np
        >>> from emg_lens.decoding import beam_hypotheses
        >>> found = beam_hypotheses(np.log([[0.6, 0.1, 0.3], [0.4, 0.1, 0.5]]), ["a", "b", ""])
        >>> [(one.text, round(float(np.exp(one.score)), 2)) for one in found[:2]]
        [('a', 0.66), ('', 0.15)]
    """
    blank = check_emissions(log_probs, alphabet, blank)
    texts = ["" if symbol == blank else str(text) for symbol, text in enumerate(alphabet)]
    words = None
    if lexicon is not None or language_model is not None or insertion_bonus:
        if isinstance(language_model, str | Path):
            language_model = read_arpa(Path(language_model))
        words = WordScores.of(texts, lexicon, language_model, weight, insertion_bonus)
    return PrefixBeam(texts, blank, beam, words).search(log_probs.astype(np.float64))


def check_emissions(log_probs: np.ndarray, alphabet: Sequence[str], blank: int) -> int:
    """Refuse what is no log-probabilities of an alphabet; return the column of the blank, counted from 0."""
    if log_probs.ndim != 2 or log_probs.dtype.kind != "f" or log_probs.shape[1] != len(alphabet) or not alphabet:
        raise ArgumentError(
            f"log_probs={short(log_probs)}; expected floats [time, symbol] with one column for each of the"
            f" {len(alphabet)} texts of the alphabet (blank included)"
        )
    if not -len(alphabet) <= blank < len(alphabet):
        raise ArgumentError(f"blank={blank}; expected one of the {len(alphabet)} columns")
    sums = np.exp(np.minimum(log_probs.astype(np.float64), 1)).sum(1)
    if not (np.abs(sums - 1) <= SUM_TOLERANCE).all():
        worst = sums[~(np.abs(sums - 1) <= SUM_TOLERANCE)][0]
        raise ArgumentError(f"the probabilities of a step sum to {worst:.3g}; expected 1; apply log_softmax to logits")
    return blank % len(alphabet)
