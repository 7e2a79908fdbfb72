"""Trials of whole utterances, with the text or the speech frames as targets (docs/silent-speech.md §2).

All trials of a set have one length: shorter utterances end in zeros. The targets keep the true length, so that losses
and scores leave the padding out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from emg_lens.data.recording import DataError
from emg_lens.data.sequences import SequenceSet, SignalSequence
from emg_lens.data.trials import TrialSet
from emg_lens.validation import checked

SPACE, BLANK = "|", "blank"
"""Names of the two last symbols of an alphabet: the space between words, and the blank of CTC."""
ALPHABET = (*"abcdefghijklmnopqrstuvwxyz0123456789", SPACE, BLANK)
NO_SYMBOL = -1.0
TEXT_COLUMNS = ("symbol", "length (fraction of the trial)")
FRAME_COLUMNS = ("phoneme", "step", "steps of the utterance")
"""Last columns of frame targets. `step`: the output step of a frame, or -1 = to be aligned. `steps of the utterance`: 0
in rows that are padding."""
MULTIPLE = 8
"""Trials have a multiple of this number of samples: a front end that halves the rate three times loses none."""


@checked
def text_trials(
    sequences: SequenceSet, alphabet: Sequence[str] = ALPHABET, *, parts: Mapping[str, int] | None = None
) -> TrialSet:
    """Make one trial of each utterance, with its text as target.

    Args:
        sequences: Utterances with texts.
        alphabet: Symbols, one character each; then the name of the space and of the blank.
        parts: Repetition number of each utterance by its name, for splits by repetition; default the number of its
            session within the subject, from 1.

    Returns:
        Trials whose classes are the alphabet. The targets are `[trial, symbol, 2]`: the index of the symbol, -1 after
        the end of the text, and the length of the utterance as a fraction of the trial.

    Raises:
        DataError: An utterance has no text, or a character that is not in the alphabet.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import SequenceSet, SignalSequence, text_trials
        >>> make = lambda name, n, text: SignalSequence(name, "A", "1", np.ones((1, n), "float32"), text=text)
        >>> utterances = SequenceSet.of([make("a", 40, "ab a"), make("b", 20, "")], {"emg": 1}, fs=100)
        >>> trials = text_trials(utterances, ["a", "b", "|", "blank"])
        >>> trials.x.shape, trials.targets[..., 0].tolist(), trials.targets[:, 0, 1].tolist()
        ((2, 1, 40), [[0.0, 1.0, 2.0, 0.0], [-1.0, -1.0, -1.0, -1.0]], [1.0, 0.5])
    """
    index = {name: number for number, name in enumerate((*alphabet[:-2], " "))}
    if len(index) < len(alphabet) - 1 or any(len(name) != 1 for name in index):
        raise DataError(f"alphabet={list(alphabet)}; expected different characters, then the names of space and blank")
    numbers = []
    for one in sequences.sequences:
        unknown = {*(one.text or "")} - {*index}
        if one.text is None or unknown:
            what = "has no text" if one.text is None else f"has the character {min(unknown)!r} in its text"
            raise DataError(f"sequence {one.name} {what}; expected characters of {''.join(index)!r}; leave it out")
        numbers.append([index[letter] for letter in one.text])
    targets = np.full((len(numbers), max(1, *map(len, numbers)), 2), NO_SYMBOL, np.float32)
    for row, symbols in zip(targets, numbers, strict=True):
        row[: len(symbols), 0] = symbols
    length = _padded_length(sequences)
    targets[..., 1] = np.array([one.x.shape[1] / length for one in sequences.sequences])[:, None]
    return _whole_trials(sequences, parts, targets, TEXT_COLUMNS, tuple(alphabet))


@checked
def frame_trials(sequences: SequenceSet, *, parts: Mapping[str, int] | None = None) -> TrialSet:
    """Make one trial of each utterance, with the frames of its speech as targets.

    A silent utterance has no frames of its own and takes those of its twin. Which of them belongs to which output step
    is unknown, so that losses and scores align them.

    Args:
        sequences: Utterances with frames and frame labels (phonemes), or with a twin that has them.
        parts: As in `text_trials`.

    Returns:
        Trials whose classes are the phonemes. The targets are `[trial, frame, value + 3]`: the frame, its phoneme, the
        output step that it belongs to (-1 = to be aligned), and the number of output steps of the utterance (0 = this
        row is padding). An output step is one frame long.

    Raises:
        DataError: An utterance has no frames and no twin with frames, or frames are not a whole number of samples long.

    Example:
        >>> import numpy as np
        >>> from emg_lens.data import SequenceSet, SignalSequence, frame_trials
        >>> x, frames = np.ones((1, 32), "float32"), np.zeros((4, 2), "float32")
        >>> voiced = SignalSequence("v", "A", "1", x, frames=frames, frame_labels=np.zeros(4, int), frame_rate=10)
        >>> silent = SignalSequence("s", "A", "1", x[:, :24], twin="v")
        >>> names = {"frame_names": ["low", "high"], "label_names": ["a"]}
        >>> utterances = SequenceSet.of([voiced, silent], {"emg": 1}, 80, **names)
        >>> trials = frame_trials(utterances)
        >>> trials.targets.shape, trials.targets[:, :, 3].tolist(), trials.targets[:, 0, 4].tolist()
        ((2, 4, 5), [[0.0, 1.0, 2.0, 3.0], [-1.0, -1.0, -1.0, -1.0]], [4.0, 3.0])
    """
    by_name = {one.name: one for one in sequences.sequences}
    speech = [_speech_of(one, by_name) for one in sequences.sequences]
    n_values = len(sequences.frame_names)
    targets = np.zeros((len(speech), max(len(one.frames) for one in speech), n_values + 3), np.float32)
    for row, one, source in zip(targets, sequences.sequences, speech, strict=True):
        samples = sequences.fs / source.frame_rate
        if abs(samples - round(samples)) > 1e-3:
            raise DataError(
                f"a frame of sequence {source.name} has {samples:.4g} samples; expected a whole number: resample to a"
                f" multiple of {source.frame_rate:g} Hz"
            )
        n_steps, n = -(-one.x.shape[1] // round(samples)), len(source.frames)
        own = source is one
        row[:n, :n_values], row[:n, n_values] = source.frames, source.frame_labels
        row[:n, -2] = np.arange(n) if own else -1
        row[: min(n, n_steps) if own else n, -1] = n_steps
    names = (*sequences.frame_names, *FRAME_COLUMNS)
    return _whole_trials(sequences, parts, targets, names, sequences.label_names)


def _speech_of(one: SignalSequence, by_name: Mapping[str, SignalSequence]) -> Any:
    """The sequence that has the frames of an utterance."""
    source = one if one.frames is not None else by_name.get(one.twin or "")
    if source is None or source.frames is None or source.frame_labels is None:
        raise DataError(
            f"sequence {one.name} has no frames with labels, and no twin with them in this set; add its twin"
            f" ({one.twin or 'none named'}), or leave it out"
        )
    return source


def _padded_length(sequences: SequenceSet) -> int:
    return -(-max(one.x.shape[1] for one in sequences.sequences) // MULTIPLE) * MULTIPLE


def _whole_trials(
    sequences: SequenceSet,
    parts: Mapping[str, int] | None,
    targets: Float[np.ndarray, "trial row column"],
    target_names: Sequence[str],
    classes: Sequence[str],
) -> TrialSet:
    every = sequences.sequences
    x = np.zeros((len(every), len(sequences.channels), _padded_length(sequences)), np.float32)
    for row, one in zip(x, every, strict=True):
        row[:, : one.x.shape[1]] = one.x
    if parts is None:
        parts = dict(zip(sequences.names, sequences.session_numbers.tolist(), strict=True))
    lacking = [one.name for one in every if one.name not in parts]
    if lacking:
        raise DataError(f"parts has no part of sequence {lacking[0]}; give the part of every sequence by its name")
    number = np.arange(len(every))
    filled = 1 - sum(one.x.shape[1] for one in every) / (len(every) * x.shape[2])
    note = f"utterances are filled with zeros to {x.shape[2] / sequences.fs:.3g} s ({filled:.0%} of all samples)"
    return TrialSet(
        x=x,
        y=np.zeros(len(every), np.int64),
        subject=np.array([one.subject for one in every]),
        repetition=np.array([parts[one.name] for one in every]),
        repetition_id=number,
        channels=sequences.channels,
        fs=sequences.fs,
        classes=tuple(classes),
        notes=(*sequences.notes, note),
        targets=targets,
        target_names=tuple(target_names),
        source=number,
        start_s=np.zeros(len(every)),
    )
