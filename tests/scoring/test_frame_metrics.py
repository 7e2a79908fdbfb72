"""Scores of speech frames: given steps, an own alignment, and one that is frozen to the intact model."""

import numpy as np
import pytest
from scipy.special import log_softmax

from emg_lens.scoring import (
    METRICS,
    MetricError,
    aligned_steps,
    chances,
    dtw_path,
    measure,
    phoneme_confusions,
    with_frozen_alignment,
)

N_VALUES, N_PHONEMES = 4, 3


def outputs_and_targets(rng, n_trials=3, n_steps=9, n_frames=7, silent=True):
    outputs = rng.normal(size=(n_trials, n_steps, N_VALUES + N_PHONEMES)).astype(np.float32)
    targets = rng.normal(size=(n_trials, n_frames, N_VALUES + 3)).astype(np.float32)
    targets[..., -3] = rng.integers(N_PHONEMES, size=(n_trials, n_frames))
    targets[..., -2] = -1 if silent else np.arange(n_frames)
    targets[..., -1] = n_steps - 1
    targets[0, -2:, -1] = 0  # padding
    return outputs, targets


def test_silent_frames_are_aligned_with_the_cost_of_the_paper():
    outputs, targets = outputs_and_targets(np.random.default_rng(0))
    found = aligned_steps(outputs, targets)
    for trial in range(len(outputs)):
        kept = targets[trial, :, -1] > 0
        frames, steps = targets[trial, kept], outputs[trial, :8].astype(float)
        log_p = log_softmax(steps[:, N_VALUES:], axis=1)
        cost = np.array(
            [
                [np.sqrt(((f[:N_VALUES] - s[:N_VALUES]) ** 2).sum()) - 0.5 * lp[int(f[N_VALUES])] for s, lp in rows]
                for f in frames.astype(float)
                for rows in [list(zip(steps, log_p, strict=True))]
            ]
        )
        assert found[trial, kept].tolist() == dtw_path(cost).tolist()
        assert not found[trial, ~kept].any()


def test_voiced_frames_belong_to_their_own_steps():
    outputs, targets = outputs_and_targets(np.random.default_rng(1), silent=False)
    values = measure(["mel_distance", "phoneme_accuracy"], outputs, targets)
    kept = targets[..., -1] > 0
    chosen = outputs[:, :7]
    distances = np.sqrt(((chosen[..., :N_VALUES] - targets[..., :N_VALUES]) ** 2).sum(-1))
    assert values["mel_distance"] == pytest.approx(distances[kept].mean(), rel=1e-6)
    right = chosen[..., N_VALUES:].argmax(-1) == targets[..., -3]
    assert values["phoneme_accuracy"] == pytest.approx(right[kept].mean())
    counts = METRICS["phoneme_accuracy"].counts(outputs, targets)
    assert counts[:, 1].tolist() == [5, 7, 7], "padding does not count"
    expected = np.bincount(targets[..., -3][kept].astype(int)).max() / kept.sum()
    assert chances(["phoneme_accuracy"], targets, N_VALUES + N_PHONEMES)["phoneme_accuracy"] == pytest.approx(expected)


def test_a_frozen_alignment_does_not_follow_a_damaged_model():
    """An alignment that is computed anew hides damage: outputs shifted by a step score as if they were intact."""
    rng = np.random.default_rng(2)
    outputs, targets = outputs_and_targets(rng, n_trials=6, n_steps=14, n_frames=11)
    targets[..., -1] = 14
    true = np.sort(np.stack([rng.choice(np.arange(1, 13), 11, replace=False) for _ in outputs]), axis=1)
    true[:, 0] = 0
    for trial, steps in enumerate(true):
        outputs[trial, steps, :N_VALUES] = targets[trial, :, :N_VALUES]
        outputs[trial, steps, N_VALUES:] = 8 * np.eye(N_PHONEMES)[targets[trial, :, -3].astype(int)]
    frozen = with_frozen_alignment(outputs, targets)
    assert (frozen[..., -2] >= 0).all() and np.array_equal(frozen[..., :-2], targets[..., :-2])
    names = ["mel_distance", "phoneme_accuracy"]
    assert measure(names, outputs, frozen) == measure(names, outputs, targets)
    shifted = np.roll(outputs, 1, axis=1)
    own, same = measure(names, shifted, targets), measure(names, shifted, frozen)
    assert same["mel_distance"] > own["mel_distance"] + 0.5
    assert same["phoneme_accuracy"] < own["phoneme_accuracy"] - 0.3


def test_two_phonemes_with_the_same_outputs_are_confused_in_half_of_their_frames():
    rng = np.random.default_rng(3)
    outputs, targets = outputs_and_targets(rng, n_trials=40, n_steps=50, n_frames=50, silent=False)
    targets[..., -1] = 50
    phonemes = targets[..., -3].astype(int)
    scores = np.where(phonemes[..., None] == 2, [-5.0, -5.0, 5.0], [0.0, 0.0, -5.0])
    outputs[..., N_VALUES:] = scores + rng.normal(size=scores.shape) * [1e-3, 1e-3, 0]
    n_pair = (phonemes < 2).sum()
    accuracy = measure(["phoneme_accuracy"], outputs, targets)["phoneme_accuracy"]
    expected = (n_pair / 2 + (phonemes == 2).sum()) / phonemes.size
    assert accuracy == pytest.approx(expected, abs=4 * np.sqrt(n_pair / 4) / phonemes.size)
    named = [some.ravel().astype(str).tolist() for some in (phonemes, outputs[..., N_VALUES:].argmax(-1))]
    table = phoneme_confusions(*named)
    assert table.iloc[0][["first", "second"]].tolist() == ["0", "1"]
    assert table.iloc[0]["confusion"] == pytest.approx(0.5, abs=0.06)


def test_other_targets_are_refused_in_one_line():
    outputs, targets = outputs_and_targets(np.random.default_rng(0))
    for wrong in (targets[..., :2], targets * [1, 1, 1, 1, 1, 1, 10]):
        with pytest.raises(MetricError, match="steps|compares") as error:
            aligned_steps(outputs, wrong.astype(np.float32))
        assert "\n" not in str(error.value)
