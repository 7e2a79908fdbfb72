"""Metrics of a model that predicts frames of speech and their phonemes (docs/silent-speech.md §4).

Outputs are `[trial, step, value + phoneme]`: the values of a frame, then one score per phoneme. Targets are those of
`emg_lens.data.frame_trials`.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist

from emg_lens.scoring.metric_registry import Counts, Metric, MetricError, columns_of, log_probabilities
from emg_lens.scoring.score_table import ratio
from emg_lens.scoring.time_warping import dtw_path

FrameOutputs = Float[np.ndarray, "trial step output"]
FrameTargets = Float[np.ndarray, "trial frame column"]
PHONEME_WEIGHT = 0.5
"""Weight of the phonemes in the cost of an alignment and in the loss (Gaddy and Klein 2021)."""
N_COLUMNS = 3
"""Columns of targets after the values of a frame: phoneme, step, steps of the utterance."""


def counted_frames(targets: FrameTargets) -> Bool[np.ndarray, "trial frame"]:
    """Mask of the target frames that are no padding."""
    return targets[..., -1] > 0


def aligned_steps(outputs: FrameOutputs, targets: FrameTargets) -> Int[np.ndarray, "trial frame"]:
    """Return the output step that each target frame belongs to.

    Where the targets name the step, it is that one. Otherwise the utterance is aligned by `dtw_path` with the cost
    ‖prediction − frame‖₂ − 0.5 · log p(phoneme of the frame) of Gaddy and Klein (2020, §3.2; 2021, §2.3).

    Args:
        outputs: Outputs of the model.
        targets: From `frame_trials`.

    Returns:
        Index of a step for each frame; 0 in rows that are padding.
    """
    _check_frames(outputs, targets)
    n_values, counted = targets.shape[2] - N_COLUMNS, counted_frames(targets)
    steps = np.where(counted, np.maximum(targets[..., -2], 0), 0).astype(np.int64)
    for trial in np.flatnonzero((counted & (targets[..., -2] < 0)).any(1)):
        frames, n_steps = targets[trial, counted[trial]], int(targets[trial, :, -1].max())
        predicted = outputs[trial, :n_steps].astype(np.float64)
        log_p = log_probabilities(predicted[:, n_values:])[:, frames[:, n_values].astype(int)].T
        steps[trial, counted[trial]] = dtw_path(
            cdist(frames[:, :n_values], predicted[:, :n_values]) - PHONEME_WEIGHT * log_p
        )
    return steps


def with_frozen_alignment(outputs: FrameOutputs, targets: FrameTargets) -> FrameTargets:
    """Align silent utterances once, and write the steps into the targets.

    Scores of other conditions on these targets use the same alignment. An alignment that is computed anew for each
    condition fits the errors of a damaged model and hides a part of the damage.

    Args:
        outputs: Outputs of the intact model.
        targets: From `frame_trials`.
    """
    frozen = targets.copy()
    frozen[..., -2] = np.where(counted_frames(targets), aligned_steps(outputs, targets), targets[..., -2])
    return frozen


def _rate(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def _guess(targets: np.ndarray, weights: np.ndarray, n_outputs: int) -> float:  # noqa: ARG001
    """Accuracy of always predicting the most frequent phoneme."""
    phonemes = targets[..., -N_COLUMNS][counted_frames(targets)].astype(int)
    return float(np.bincount(phonemes).max() / len(phonemes)) if len(phonemes) else np.nan


def frame_distances(outputs: FrameOutputs, targets: FrameTargets) -> Counts:
    """Euclidean distance between the predicted and the true frame, summed over frames, and the number of frames."""
    counted, chosen = counted_frames(targets), _chosen(outputs, targets)
    n_values = targets.shape[2] - N_COLUMNS
    distances = np.linalg.norm(chosen[..., :n_values].astype(np.float64) - targets[..., :n_values], axis=-1)
    return columns_of((distances * counted).sum(1), counted.sum(1))


def right_phonemes(outputs: FrameOutputs, targets: FrameTargets) -> Counts:
    """Number of frames whose phoneme is right, and the number of frames."""
    counted, chosen = counted_frames(targets), _chosen(outputs, targets)
    n_values = targets.shape[2] - N_COLUMNS
    right = chosen[..., n_values:].argmax(-1) == targets[..., n_values]
    return columns_of((right & counted).sum(1), counted.sum(1))


def _chosen(outputs: FrameOutputs, targets: FrameTargets) -> Float[np.ndarray, "trial frame output"]:
    return np.take_along_axis(outputs, aligned_steps(outputs, targets)[..., None], axis=1)


def _check_frames(outputs: np.ndarray, targets: np.ndarray) -> None:
    n_phonemes = outputs.shape[-1] - targets.shape[-1] + N_COLUMNS
    if outputs.ndim != 3 or targets.ndim != 3 or n_phonemes < 1 or targets.shape[-1] <= N_COLUMNS:
        raise MetricError(
            f"outputs are {list(outputs.shape)} and targets {list(targets.shape)}; this metric compares"
            " [trial, step, value + phoneme] with frame targets [trial, frame, value + 3]"
        )
    if targets[..., -1].max() > outputs.shape[1] or targets[..., -N_COLUMNS].max() >= n_phonemes:
        raise MetricError(
            f"the targets have {int(targets[..., -1].max())} steps and phoneme {int(targets[..., -N_COLUMNS].max())};"
            f" the outputs have {outputs.shape[1]} steps and {n_phonemes} phonemes, numbered from 0"
        )


MEL_DISTANCE = Metric("mel_distance", frame_distances, "frames", _rate, "lower", "", "ignored")
PHONEME_ACCURACY = Metric("phoneme_accuracy", right_phonemes, "frames", _rate, "higher", "fraction", "ignored", _guess)
