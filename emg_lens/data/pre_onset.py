"""The rest right before each movement: what is told of the class there, the movement does not tell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from emg_lens.data.recording import REST, UNLABELLED, DataError, Recording
from emg_lens.data.trials import TrialSet

ALL = "all"
"""Stands for all modalities together."""
WINDOW_S = 0.6
"""Rest before a movement that it is told from."""
TRIALS_AT_A_TIME = 1024
"""Whose samples are taken in double precision at once."""


@dataclass(frozen=True)
class Told:
    """How well a linear discriminant analysis tells the class, trained and tested on the same movements as the model.

    Attributes:
        modality: What it sees; `"all"` = every modality.
        before: Accuracy from the rest before each movement.
        during: Accuracy from the movement itself.
        chance: Share of the most frequent class among the movements tested.
        n_test: Movements tested: those with rest before them.
    """

    modality: str
    before: float
    during: float
    chance: float
    n_test: int


def before_trials(
    recordings: Iterable[Recording],
    window_s: float = WINDOW_S,
    *,
    modalities: Sequence[str] | None = None,
    classes: Iterable[int] | None = None,
) -> TrialSet | None:
    """The last `window_s` of rest before each movement, with the movement's label, repetition and number.

    Give the recordings as they were loaded, not preprocessed: filters that run forwards and backwards smear the
    movement into the rest before it. Nothing is filtered here. Sensors of another rate than the labels are brought to
    it by their latest sample, so that nothing comes from the future.

    A movement counts only if the whole window is labelled rest (0) and lies in the same recording. Movements are
    numbered as `TrialSet.from_recordings` numbers those of the same recordings (without `Segment.piece_s`), so that
    trials find the rest before them.

    Args:
        recordings: The recordings that the trials were cut from, in the same order.
        window_s: Length of the window (s).
        modalities: Only these; default all.
        classes: Only movements of these labels; default all.

    Returns:
        One window a movement; `None` where no movement has rest before it.

    Raises:
        DataError: A window below one row, an unknown modality, or recordings that do not go together.
    """
    chosen = None if classes is None else {*classes}
    cut, repetition_id, source, start_s = [], [], [], []
    n_repetitions = 0
    for number, recording in enumerate(recordings):
        n_rows = round(window_s * recording.fs)
        if n_rows < 1:
            raise DataError(f"a window of {window_s:g} s is below one row at {recording.fs:g} Hz")
        onsets = _onsets_after_rest(recording, n_rows)
        onsets = {m: row for m, row in onsets.items() if chosen is None or recording.label[row] in chosen}
        if onsets:
            rows = np.array([*onsets.values()])
            cut.append(_windows(recording, rows, n_rows, modalities))
            repetition_id += [n_repetitions + m for m in onsets]
            source += [number] * len(rows)
            start_s += [(row - n_rows) / recording.fs for row in rows]
        n_repetitions += len(recording.trials)
    if not cut:
        return None
    vectors = {"repetition_id": np.array(repetition_id), "source": np.array(source), "start_s": np.array(start_s)}
    return replace(TrialSet.from_recordings(cut), **vectors, notes=())


def told_before(train: TrialSet, test: TrialSet, before: TrialSet, whose: str = "") -> tuple[Told, ...]:
    """How well the class of test movements is told before and during them, from each modality and from all.

    Args:
        train: Training trials, not z-scored.
        test: Test trials of the same set.
        before: The rest before their movements: `before_trials` of the recordings they were cut from.
        whose: Start of an error's message.

    Returns:
        Empty where too few of the movements have rest before them.

    Raises:
        DataError: A `before` of other recordings.
    """
    place = {key: i for i, key in enumerate(zip(before.subject.tolist(), before.repetition_id.tolist(), strict=True))}
    sides = [_repetitions_with_rest(trials, before, place, whose) for trials in (train, test)]
    (train_rest, train_of, train_y), (test_rest, test_of, test_y) = sides
    if not 1 < len(np.unique(train_y)) < len(train_y) or not len(test_y):
        return ()
    chance = float(np.bincount(test_y).max() / len(test_y))
    names = [m for m in train.modalities if m in before.modalities]
    rest, one_of, other_of = map(_features, (before, train, test))
    told = []
    for modality in (*names, ALL) if len(names) > 1 else names:
        seen = names if modality == ALL else [modality]
        rest_seen, one_seen, other_seen = (
            found[:, np.isin(t.channels["modality"], seen)]
            for found, t in ((rest, before), (one_of, train), (other_of, test))
        )
        told_by_rest = _lda_accuracy(rest_seen[train_rest], train_y, rest_seen[test_rest], test_y)
        one, other = _repetition_means(one_seen, train_of), _repetition_means(other_seen, test_of)
        told_by_itself = _lda_accuracy(one, train_y, other, test_y)
        told.append(Told(modality, told_by_rest, told_by_itself, chance, len(test_y)))
    return tuple(told)


def _onsets_after_rest(recording: Recording, n_rows: int) -> dict[int, int]:
    """Which of a recording's movements have so many rows of rest before them, and their first rows."""
    first = [round(start * recording.fs) for start in recording.trials["start"]]
    rest = recording.label == REST
    return {m: row for m, row in enumerate(first) if row >= n_rows and rest[row - n_rows : row].all()}


def _windows(
    recording: Recording, onsets: Int[np.ndarray, " window"], n_rows: int, modalities: Sequence[str] | None
) -> Recording:
    """A recording of nothing but these windows, each labelled like the movement that follows.

    One unlabelled row stands after each window, so that no two are taken for one movement.
    """
    names = list(recording.signals) if modalities is None else list(modalities)
    unknown = [name for name in names if name not in recording.signals]
    if unknown:
        raise DataError(f"{recording.source} has no modality {unknown[0]!r}; it has {', '.join(recording.signals)}")
    rows = (onsets[:, None] + np.arange(-n_rows, 1)).ravel()
    signals = {}
    for name in names:
        signal = recording.signals[name]
        latest = np.floor(rows * (signal.fs / recording.fs) + 1e-6).astype(int)
        data = signal.data[np.minimum(latest, len(signal.data) - 1)]
        signals[name] = replace(signal, data=data, fs=recording.fs)
    label, repetition = (np.repeat(values[onsets], n_rows + 1) for values in (recording.label, recording.repetition))
    label[n_rows :: n_rows + 1] = UNLABELLED
    return Recording(recording.subject, signals, label, repetition, recording.fs, recording.meta)


def _repetitions_with_rest(
    trials: TrialSet, before: TrialSet, place: Mapping[tuple[str, int], int], whose: str
) -> tuple[Int[np.ndarray, " movement"], Int[np.ndarray, " trial"], Int[np.ndarray, " movement"]]:
    """For the movements with rest: their rows in `before`, the movement of each trial (or -1), and their classes."""
    keys = zip(trials.subject.tolist(), trials.repetition_id.tolist(), strict=True)
    rows = np.array([place.get(key, -1) for key in keys])
    found, first, of = np.unique(rows, return_index=True, return_inverse=True)
    skipped = int(found[0] == -1)
    found, first, of = found[skipped:], first[skipped:], of - skipped
    names = {(trials.classes[y], before.classes[z]) for y, z in zip(trials.y[first], before.y[found], strict=True)}
    one_to_one = len({y for y, _ in names}) == len({z for _, z in names}) == len(names)
    if not one_to_one or (before.repetition[found] != trials.repetition[first]).any():
        raise DataError(f"{whose}the rest is not that before these movements; cut both from the same recordings")
    return found, of, trials.y[first]


def _features(trials: TrialSet) -> Float[np.ndarray, "trial channel"]:
    """The plainest feature of each channel: log mean square of EMG, which swings about zero; mean of all else."""
    swings = trials.channels["modality"].str.contains("emg", case=False).to_numpy()
    found = np.empty(trials.x.shape[:2])
    for first in range(0, len(trials), TRIALS_AT_A_TIME):
        x = trials.x[first : first + TRIALS_AT_A_TIME].astype(np.float64)
        power = np.log(np.mean(x**2, axis=2) + np.finfo(np.float64).tiny)
        found[first : first + TRIALS_AT_A_TIME] = np.where(swings, power, x.mean(axis=2))
    return found


def _repetition_means(
    features: Float[np.ndarray, "trial channel"], of: Int[np.ndarray, " trial"]
) -> Float[np.ndarray, "movement channel"]:
    """The features of each movement, averaged over its windows; those of movement -1 are left out."""
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
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # takes a second to import

    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(train, train_y)
    return float(fitted.score(test, test_y))
