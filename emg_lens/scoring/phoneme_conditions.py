"""Phonemes under several conditions, with one alignment for all of them (docs/events-and-text.md §4.1)."""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from emg_lens.scoring.condition_scores import ConditionScores, check_baseline, unit_names
from emg_lens.scoring.event_matching import ScoreError
from emg_lens.scoring.phonemes import Frames, phoneme_table
from emg_lens.scoring.time_warping import dtw_path
from emg_lens.validation import checked


@checked
def score_phoneme_conditions(
    targets: Mapping[str, Frames],
    predicted: Mapping[str, Mapping[str, Frames]],
    costs: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    baseline: str = "baseline",
    align: Literal["baseline", "each"] = "baseline",
) -> ConditionScores:
    """Count the predicted phonemes of several conditions on the alignment of the intact model.

    Args:
        targets: True phoneme of each target frame, for each utterance.
        predicted: For each condition and utterance, the predicted phoneme of each frame of the model.
        costs: For each condition and utterance, the cost of each pair of frames `[target, source]` for `dtw_path`. Only
            those of the baseline are needed. Default: frame i belongs to target frame i.
        baseline: The condition with the intact model.
        align: `"baseline"`: the path of the baseline is used for all conditions. `"each"`: every condition is aligned
            anew. This fits the errors of a damaged model; use it only to see how much it hides.

    Returns:
        The counts of each condition and utterance, with the scores of `phoneme_table`.

    Raises:
        ScoreError: The baseline, an utterance or a cost is missing, or frames do not fit their alignment.

    Example:
        >>> import numpy as np
        >>> from emg_lens.scoring import score_phoneme_conditions
        >>> targets = {"u1": ["sil", "p", "a"]}
        >>> predicted = {"baseline": {"u1": ["sil", "p", "a"]}, "cut": {"u1": ["sil", "a", "p"]}}
        >>> costs = {"baseline": {"u1": 1 - np.eye(3)}}
        >>> scores = score_phoneme_conditions(targets, predicted, costs)
        >>> scores.to_frame()["phoneme_accuracy"].round(2).to_dict()
        {'baseline': 1.0, 'cut': 0.33}
    """
    check_baseline(baseline, predicted)
    for condition, frames in predicted.items():
        if set(frames) != set(targets):
            raise ScoreError(f"condition {condition!r} has other utterances than the targets; expected the same names")
    frozen = None if costs is None or align == "each" else _paths(costs, baseline, targets)
    of_targets, of_frames, alignments = {}, {}, {}
    for condition, frames in predicted.items():
        paths = _paths(costs, condition, targets) if costs is not None and frozen is None else frozen
        for utterance, target in targets.items():
            (name,) = unit_names([condition], [utterance])
            of_targets[name], of_frames[name] = target, frames[utterance]
            if paths is not None:
                alignments[name] = paths[utterance]
    table = phoneme_table(of_targets, of_frames, alignments or None)
    return ConditionScores(table, tuple(predicted), tuple(targets), baseline)


def _paths(
    costs: Mapping[str, Mapping[str, np.ndarray]], condition: str, utterances: Iterable[str]
) -> dict[str, np.ndarray]:
    """Align the utterances of one condition."""
    missing = [utterance for utterance in utterances if utterance not in costs.get(condition, {})]
    if missing:
        raise ScoreError(f"no cost of utterance {missing[0]!r} in condition {condition!r}; expected [target, source]")
    return {utterance: dtw_path(costs[condition][utterance]) for utterance in utterances}
