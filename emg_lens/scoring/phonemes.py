"""Which phonemes a model confuses, counted in frames (docs/events-and-text.md §4)."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.scoring.event_matching import ScoreError
from emg_lens.scoring.score_table import CountScore, ScoreTable, Sums, ratio
from emg_lens.validation import checked, short

Frames = Sequence[str]
"""The phoneme of each frame."""


@checked
def phoneme_confusions(target: Frames, predicted: Frames, alignment: np.ndarray | None = None) -> pd.DataFrame:
    """Compare the phoneme of each frame with the predicted one, for each pair of phonemes.

    Args:
        target: True phoneme of each target frame.
        predicted: Predicted phoneme of each frame of the model.
        alignment: Frame of the model for each target frame `[target]`, from `dtw_path`; default: frame i belongs to
            target frame i. To compare conditions, give the alignment of the intact model for all of them.

    Returns:
        One row a pair of phonemes `first`, `second`, most confused pair first. With e the number of target frames of
        one phoneme that are predicted as another one, and `frames` the number of target frames of both:
        `confusion` = (e[first, second] + e[second, first]) / frames, and
        `accuracy` = (e[first, first] + e[second, second]) / frames (Gaddy and Klein 2020). Pairs without a target frame
        are NaN and come last.

    Raises:
        ScoreError: There is no target frame, or the frames do not fit the alignment.

    Example:
        >>> from emg_lens.scoring import phoneme_confusions
        >>> table = phoneme_confusions(["p", "p", "b", "b", "s"], ["p", "b", "p", "b", "s"])
        >>> table.iloc[0].to_dict()
        {'first': 'b', 'second': 'p', 'frames': 4, 'confusion': 0.5, 'accuracy': 0.5}
    """
    alignments = None if alignment is None else {"all": alignment}
    return confused_pairs(phoneme_table({"all": target}, {"all": predicted}, alignments))


@checked
def phoneme_table(
    targets: Mapping[str, Frames], predicted: Mapping[str, Frames], alignments: Mapping[str, np.ndarray] | None = None
) -> ScoreTable:
    """Count the predicted phonemes of several utterances.

    Args:
        targets: True phoneme of each target frame, for each utterance.
        predicted: Predicted phoneme of each frame of the model, for each utterance.
        alignments: For each utterance, the frame of the model for each target frame, as in `phoneme_confusions`.

    Returns:
        The counts of each utterance, with the score `phoneme_accuracy`: fraction of target frames with the right
        phoneme. Compare it with `most_frequent`, the accuracy of always predicting the most frequent phoneme.

    Raises:
        ScoreError: The utterances differ, or frames do not fit their alignment.

    Example:
        >>> from emg_lens.scoring import phoneme_table
        >>> phoneme_table({"u1": ["p", "b"]}, {"u1": ["p", "p"]}).pooled()
        {'phoneme_accuracy': 0.5, 'most_frequent': 0.5}
    """
    if not targets or any(set(other) != set(targets) for other in (predicted, *([alignments] if alignments else ()))):
        raise ScoreError(f"targets are of {short(list(targets))}; expected frames of the same utterances everywhere")
    aligned = {
        name: _aligned_frames(name, target, predicted[name], None if alignments is None else alignments[name])
        for name, target in targets.items()
    }
    classes = tuple(sorted({phoneme for name in targets for phoneme in (*targets[name], *aligned[name])}))
    number = {phoneme: k for k, phoneme in enumerate(classes)}
    frames = np.zeros((len(targets), len(classes), len(classes)))
    for utterance, (name, target) in enumerate(targets.items()):
        rows, columns = ([number[phoneme] for phoneme in side] for side in (target, aligned[name]))
        np.add.at(frames[utterance], (rows, columns), 1)
    none = "there is no target frame"
    scores = (
        CountScore("phoneme_accuracy", _accuracy, none, "higher"),
        CountScore("most_frequent", _most_frequent, none, "neither"),
    )
    return ScoreTable(tuple(targets), {"frames": frames}, scores, classes)


@checked
def confused_pairs(table: ScoreTable) -> pd.DataFrame:
    """Return the confusion of each pair of phonemes, summed over utterances, as in `phoneme_confusions`.

    Args:
        table: From `phoneme_table`.

    Example:
        >>> from emg_lens.scoring import confused_pairs, phoneme_table
        >>> confused_pairs(phoneme_table({"u1": ["p", "b"]}, {"u1": ["b", "p"]}))["confusion"].tolist()
        [1.0]
    """
    frames = table.counts["frames"].sum(0)
    n, rows = frames.sum(1), []
    for i, j in itertools.combinations(range(len(table.classes)), 2):
        parts = np.array([frames[i, j] + frames[j, i], frames[i, i] + frames[j, j]])
        confusion, accuracy = ratio(parts, np.full(2, n[i] + n[j]))
        rows.append((table.classes[i], table.classes[j], int(n[i] + n[j]), float(confusion), float(accuracy)))
    pairs = pd.DataFrame(rows, columns=["first", "second", "frames", "confusion", "accuracy"])
    return pairs.sort_values("confusion", ascending=False, kind="stable", ignore_index=True)


def _aligned_frames(name: str, target: Frames, predicted: Frames, alignment: np.ndarray | None) -> Sequence[str]:
    if not len(target):
        raise ScoreError(f"utterance {name!r} has no target frame; leave it out")
    if alignment is None:
        if len(target) != len(predicted):
            raise ScoreError(
                f"utterance {name!r} has {len(target)} target frames and {len(predicted)} predicted ones; give the"
                " alignment of the intact model (dtw_path)"
            )
        return predicted
    fits = alignment.dtype.kind in "iu" and alignment.shape == (len(target),)
    if not fits or alignment.min() < 0 or alignment.max() >= len(predicted):
        raise ScoreError(
            f"alignment={short(alignment)} of utterance {name!r}; expected one frame number below {len(predicted)} for"
            f" each of {len(target)} target frames"
        )
    return [str(predicted[frame]) for frame in alignment.tolist()]


def _accuracy(sums: Sums) -> Float[np.ndarray, "*many"]:
    return ratio(np.trace(sums["frames"], axis1=-2, axis2=-1), sums["frames"].sum((-2, -1)))


def _most_frequent(sums: Sums) -> Float[np.ndarray, "*many"]:
    return ratio(sums["frames"].sum(-1).max(-1), sums["frames"].sum((-2, -1)))
