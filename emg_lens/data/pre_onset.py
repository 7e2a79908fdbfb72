"""Pre-onset decodability: how well the class can be decoded from the rest before a movement starts.

What can be decoded there does not come from the movement. It may come from posture, from the order of the gestures, or
from the electrodes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording
from emg_lens.data.standardization import TRIALS_AT_ONCE
from emg_lens.data.trials import TrialSet
from emg_lens.validation import check_argument, checked

ALL = "all"
"""Stands for all modalities together."""
WINDOW_S = 0.6
"""Length of the window before movement onset (s)."""


@dataclass(frozen=True)
class Decodability:
    """Accuracy of a linear classifier before and during a repetition.

    The classifier is a linear discriminant analysis. It is trained and tested on the same repetitions as the model.

    Attributes:
        modality: The modality that the classifier receives as input; `"all"` = every modality.
        before: Accuracy from the rest before movement onset.
        during: Accuracy from the repetition itself.
        chance: Fraction of the most frequent class among the test repetitions.
        n_test: Number of test repetitions: those with enough rest before them.
    """

    modality: str
    before: float
    during: float
    chance: float
    n_test: int


@checked
def pre_onset_trials(
    recordings: Iterable[Recording],
    window_s: float = WINDOW_S,
    *,
    modalities: Sequence[str] | None = None,
    classes: Iterable[int] | None = None,
) -> TrialSet | None:
    """Cut the last `window_s` of rest before each repetition; the window gets the repetition's label and number.

    Give the recordings as they were loaded, not preprocessed. A filter that runs forwards and backwards would smear the
    movement into the rest before it, so nothing is filtered here. A sensor with another rate than the labels is
    resampled by its latest sample, so that no sample comes from after the onset.

    A repetition counts only if its whole window is labelled rest (0) and lies in the same recording. Repetitions are
    numbered as in `TrialSet.from_recordings` of the same recordings (without `Segment.piece_s`). The numbers connect a
    trial with the rest before it.

    Args:
        recordings: The recordings that the trials were cut from, in the same order.
        window_s: Length of the window (s).
        modalities: Use only these modalities; default all.
        classes: Use only repetitions of these labels; default all.

    Returns:
        One trial per repetition; `None` if no repetition has enough rest before it.

    Raises:
        DataError: The window is shorter than one row, a modality is unknown, or the recordings differ in channels.
    """
    chosen = None if classes is None else {*classes}
    cut, repetition_id, source, start_s = [], [], [], []
    n_repetitions = 0
    for number, recording in enumerate(recordings):
        check_argument("recording", recording, Recording)
        n_rows = round(window_s * recording.fs)
        if n_rows < 1:
            raise DataError(f"window_s={window_s:g} is less than one row at {recording.fs:g} Hz; give a longer window")
        onsets = _onsets_after_rest(recording, n_rows)
        onsets = {i: row for i, row in onsets.items() if chosen is None or recording.label[row] in chosen}
        if onsets:
            rows = np.array([*onsets.values()])
            cut.append(_windows(recording.keep(modalities), rows, n_rows))
            repetition_id += [n_repetitions + i for i in onsets]
            source += [number] * len(rows)
            start_s += [(row - n_rows) / recording.fs for row in rows]
        n_repetitions += len(recording.trials)
    if not cut:
        return None
    vectors = {"repetition_id": np.array(repetition_id), "source": np.array(source), "start_s": np.array(start_s)}
    return replace(TrialSet.from_recordings(cut), **vectors, notes=())


def pre_onset_decodability(
    train: TrialSet, test: TrialSet, before: TrialSet, prefix: str = ""
) -> tuple[Decodability, ...]:
    """Measure how well a linear classifier decodes the class before and during the test repetitions.

    The arguments are those of `leakage_report`. There is one entry per modality, then one for all together, and none if
    too few repetitions have rest before them.
    """
    row_of = {key: i for i, key in enumerate(zip(before.subject.tolist(), before.repetition_id.tolist(), strict=True))}
    sides = [_repetitions_with_rest(trials, before, row_of, prefix) for trials in (train, test)]
    (train_rest, train_of, train_y), (test_rest, test_of, test_y) = sides
    if not 1 < len(np.unique(train_y)) < len(train_y) or not len(test_y):
        return ()
    chance = float(np.bincount(test_y).max() / len(test_y))
    names = [m for m in train.modalities if m in before.modalities]
    features = [(_features(trials), trials.channels["modality"]) for trials in (before, train, test)]
    results = []
    for modality in (*names, ALL) if len(names) > 1 else names:
        inputs = names if modality == ALL else [modality]
        of_rest, of_train, of_test = (values[:, np.isin(of, inputs)] for values, of in features)
        before_onset = _lda_accuracy(of_rest[train_rest], train_y, of_rest[test_rest], test_y)
        train_means, test_means = _repetition_means(of_train, train_of), _repetition_means(of_test, test_of)
        during = _lda_accuracy(train_means, train_y, test_means, test_y)
        results.append(Decodability(modality, before_onset, during, chance, len(test_y)))
    return tuple(results)


def _onsets_after_rest(recording: Recording, n_rows: int) -> dict[int, int]:
    """First row of each repetition with at least `n_rows` rows of rest before it, by the repetition's index."""
    first = [round(start * recording.fs) for start in recording.trials["start"]]
    rest = recording.label == REST
    return {i: row for i, row in enumerate(first) if row >= n_rows and rest[row - n_rows : row].all()}


def _windows(recording: Recording, onsets: Int[np.ndarray, " window"], n_rows: int) -> Recording:
    """Make a recording of these windows alone; each has the label of the repetition that follows it.

    One unlabelled row after each window keeps two windows of one label from being read as one repetition.
    """
    rows = (onsets[:, None] + np.arange(-n_rows, 1)).ravel()
    signals = {}
    for name, signal in recording.signals.items():
        latest = np.floor(rows * (signal.fs / recording.fs) + 1e-6).astype(int)
        data = signal.data[np.minimum(latest, len(signal.data) - 1)]
        signals[name] = replace(signal, data=data, fs=recording.fs)
    label, repetition = (np.repeat(values[onsets], n_rows + 1) for values in (recording.label, recording.repetition))
    label[n_rows :: n_rows + 1] = UNLABELLED
    return Recording(recording.subject, signals, label, repetition, recording.fs, recording.meta)


def _repetitions_with_rest(
    trials: TrialSet, before: TrialSet, row_of: Mapping[tuple[str, int], int], prefix: str
) -> tuple[Int[np.ndarray, " repetition"], Int[np.ndarray, " trial"], Int[np.ndarray, " repetition"]]:
    """For repetitions with rest: rows in `before`, repetition of each trial (or -1), and class of each repetition."""
    keys = zip(trials.subject.tolist(), trials.repetition_id.tolist(), strict=True)
    row_of_trial = np.array([row_of.get(key, -1) for key in keys])
    rows, first, of = np.unique(row_of_trial, return_index=True, return_inverse=True)
    skipped = int(rows[0] == -1)
    rows, first, of = rows[skipped:], first[skipped:], of - skipped
    names = {(trials.classes[y], before.classes[z]) for y, z in zip(trials.y[first], before.y[rows], strict=True)}
    one_to_one = len({y for y, _ in names}) == len({z for _, z in names}) == len(names)
    if not one_to_one or (before.repetition[rows] != trials.repetition[first]).any():
        raise DataError(
            f"{prefix}`before` does not hold the rest before these repetitions; cut both from the same recordings"
        )
    return rows, of, trials.y[first]


def _features(trials: TrialSet) -> Float[np.ndarray, "trial channel"]:
    """One feature a channel: log mean square of EMG, which oscillates about zero; the mean of any other channel."""
    is_emg = trials.channels["modality"].str.contains("emg", case=False).to_numpy()
    features = np.empty(trials.x.shape[:2])
    for first in range(0, len(trials), TRIALS_AT_ONCE):
        x = trials.x[first : first + TRIALS_AT_ONCE].astype(np.float64)
        power = np.log(np.mean(x**2, axis=2) + np.finfo(np.float64).tiny)
        features[first : first + TRIALS_AT_ONCE] = np.where(is_emg, power, x.mean(axis=2))
    return features


def _repetition_means(
    features: Float[np.ndarray, "trial channel"], of: Int[np.ndarray, " trial"]
) -> Float[np.ndarray, "repetition channel"]:
    """Mean features of each repetition over its windows; trials of repetition -1 are left out."""
    inside = of >= 0
    sums = np.zeros((of.max() + 1, features.shape[1]))
    np.add.at(sums, of[inside], features[inside])
    return sums / np.bincount(of[inside])[:, None]


def _lda_accuracy(
    train: Float[np.ndarray, "n channel"],
    train_y: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m channel"],
    test_y: Int[np.ndarray, " m"],
) -> float:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # the import takes a second

    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, train_y)
    return float(fitted.score(test, test_y))
