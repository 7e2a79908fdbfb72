"""Metrics of a model that gives a symbol at every output step: errors of its greedy text (docs/silent-speech.md §4).

Outputs are logits `[trial, step, symbol]`. The last symbol is the blank, the one before it the space between words.
Targets are those of `emg_lens.data.text_trials`. The text is decoded without lexicon and language model: those would
repair a part of what a cut destroys.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from emg_lens.scoring.metric_registry import Counts, Metric, MetricError, columns_of
from emg_lens.scoring.score_table import ratio
from emg_lens.validation import checked, short

Symbols = Int[np.ndarray, " _"]
SLACK = 1e-3
"""Fraction of a step that rounding of a length in float32 may add."""
MOST_GUESSES = 200
"""Number of texts that are tried as the answer to every utterance."""


def counted_steps(targets: Float[np.ndarray, "trial symbol 2"], n_steps: int) -> Int[np.ndarray, " trial"]:
    """Return the number of output steps that begin within each utterance."""
    return np.maximum(np.ceil(targets[:, 0, 1].astype(np.float64) * n_steps - SLACK), 1).astype(np.int64)


@checked
def greedy_symbols(
    logits: Float[np.ndarray, "trial step symbol"], n_steps: Int[np.ndarray, " trial"] | None = None
) -> list[Symbols]:
    """Decode CTC outputs: the best symbol of each step, repeats collapsed, blanks removed (Graves et al. 2006, §3.2).

    Args:
        logits: Score of each symbol at each step; the last symbol is the blank.
        n_steps: Steps of each utterance; default all.

    Returns:
        Indices of the symbols of each utterance.

    Example:
        >>> import numpy as np
        >>> from emg_lens.scoring import greedy_symbols
        >>> logits = np.eye(3)[None, [0, 0, 2, 0, 1, 1, 2]]  # a a blank a b b blank
        >>> [symbols.tolist() for symbols in greedy_symbols(logits)]
        [[0, 0, 1]]
    """
    if logits.ndim != 3 or (n_steps is not None and n_steps.shape != logits.shape[:1]):
        steps = "" if n_steps is None else f" and n_steps {list(n_steps.shape)}"
        raise MetricError(f"logits are {list(logits.shape)}{steps}; expected [trial, step, symbol] and [trial]")
    best, blank = logits.argmax(-1), logits.shape[-1] - 1
    if n_steps is not None:
        best = np.where(np.arange(best.shape[1]) < n_steps[:, None], best, blank)
    kept = (best != blank) & (best != np.pad(best, ((0, 0), (1, 0)), constant_values=blank)[:, :-1])
    return [row[of_row] for row, of_row in zip(best, kept, strict=True)]


def edit_distances(
    references: Sequence[Sequence[int] | Symbols], hypotheses: Sequence[Sequence[int] | Symbols]
) -> Int[np.ndarray, " pair"]:
    """Count substitutions, deletions and insertions between pairs of sequences of numbers from 0 (Levenshtein).

    All pairs are compared at once, one row of the table after the other.

    Example:
        >>> from emg_lens.scoring import edit_distances
        >>> edit_distances([[1, 2, 3], []], [[1, 3, 3, 4], [7]]).tolist()
        [2, 1]
    """
    rows, n_rows = _padded(references, -1)
    columns, n_columns = _padded(hypotheses, -2)
    positions, pairs = np.arange(columns.shape[1] + 1), np.arange(len(rows))
    distance, found = np.tile(positions, (len(rows), 1)), n_columns.copy()
    for i in range(rows.shape[1]):
        best = np.full_like(distance, i + 1)
        best[:, 1:] = np.minimum(distance[:, :-1] + (columns != rows[:, i : i + 1]), distance[:, 1:] + 1)
        distance = np.minimum.accumulate(best - positions, axis=1) + positions  # insertions
        found = np.where(n_rows == i + 1, distance[pairs, n_columns], found)
    return found


def _padded(sequences: Sequence[Sequence[int] | Symbols], fill: int) -> tuple[np.ndarray, Int[np.ndarray, " sequence"]]:
    try:
        lengths = np.array([len(one) for one in sequences], int)
        table = np.full((len(lengths), lengths.max(initial=0)), fill)
        table[np.arange(table.shape[1]) < lengths[:, None]] = np.concatenate([*map(np.asarray, sequences), []])
    except (TypeError, ValueError) as error:
        raise MetricError(f"expected a list of sequences of whole numbers, got {short(sequences)} ({error})") from None
    return table, lengths


def _words(symbols: Sequence[Symbols], space: int, known: dict[bytes, int]) -> list[list[int]]:
    """Divide symbols at spaces, and number the words."""
    separator = bytes([space])
    texts = [one.astype(np.uint8).tobytes().split(separator) for one in symbols]
    return [[known.setdefault(word, len(known)) for word in words if word] for words in texts]


def _characters(symbols: Sequence[Symbols], space: int, known: dict[bytes, int]) -> Sequence[Symbols]:  # noqa: ARG001
    return symbols


Units = Callable[[Sequence[Symbols], int, dict[bytes, int]], Sequence[Sequence[int] | Symbols]]


def _texts(targets: Float[np.ndarray, "trial symbol 2"]) -> list[Symbols]:
    numbers = targets[..., 0].astype(np.int64)
    return [row[row >= 0] for row in numbers]


def _error_metric(name: str, units: Units) -> Metric:
    def counts(logits: np.ndarray, targets: np.ndarray) -> Counts:
        """Errors of each utterance, and units of its reference."""
        if logits.ndim != 3 or targets.ndim != 3 or targets.shape[2] != 2 or targets[..., 0].max() >= logits.shape[2]:
            raise MetricError(
                f"outputs are {list(logits.shape)} and targets {list(targets.shape)}; this metric compares logits"
                " [trial, step, symbol] with text targets [trial, symbol, 2]"
            )
        known: dict[bytes, int] = {}
        decoded = greedy_symbols(logits, counted_steps(targets, logits.shape[1]))
        said, found = (units(some, logits.shape[2] - 2, known) for some in (_texts(targets), decoded))
        return columns_of(edit_distances(said, found), np.array([len(one) for one in said]))

    def guess(targets: np.ndarray, weights: np.ndarray, n_outputs: int) -> float:  # noqa: ARG001
        """Lowest error rate of one text, or of no text, as the answer to every utterance."""
        said = units(_texts(targets), n_outputs - 2, {})
        total = sum(map(len, said))
        answers = [[], *{tuple(one): one for one in said}.values()][:MOST_GUESSES]
        errors = [int(edit_distances(said, [answer] * len(said)).sum()) for answer in answers]
        return min(errors) / total if total else np.nan

    def rate(sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])

    return Metric(name, counts, "tokens", rate, "lower", "fraction", "ignored", guess, largest=np.inf)


WORD_ERROR_RATE = _error_metric("word_error_rate", _words)
CHARACTER_ERROR_RATE = _error_metric("character_error_rate", _characters)
