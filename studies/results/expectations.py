"""The accuracy that is expected under a condition, for data sets whose information is known."""

from collections.abc import Collection

import pandas as pd

from emg_lens.data.registry import describe_dataset
from emg_lens.studies.spec.study_spec import StudySpec
from emg_lens.sweeps.conditions import BASELINE


def with_expectations(scores: pd.DataFrame, spec: StudySpec, modalities: Collection[str]) -> pd.DataFrame:
    """Add the accuracy that a data set with known information implies, for conditions that declare `sees`.

    A cut is not expected to help. If the implied accuracy is not below the measured baseline, the baseline takes its
    place, and `expected_is_baseline` is true.

    Args:
        scores: One row a subject and condition.
        spec: The study at the fit's levels.
        modalities: Modalities that the model of the fit receives.

    Returns:
        The scores with the columns `expected` and `expected_is_baseline`; unchanged if no condition declares `sees`.
    """
    sees = {one.name: one.sees for one in spec.conditions.extra if one.sees is not None}
    if sees and "accuracy" in scores:
        expected_accuracy = describe_dataset(spec.cohort.dataset).expected_accuracy
        assert expected_accuracy is not None  # the study was checked for it
        received = {name: [m for m in seen if m in modalities] for name, seen in sees.items()}
        implied = {name: expected_accuracy(seen, **spec.cohort.options) for name, seen in received.items()}
        baselines = scores.loc[scores["condition"] == BASELINE].set_index("subject")["accuracy"]
        best, expected = scores["subject"].map(baselines), scores["condition"].map(implied)
        scores = scores.assign(expected=expected.mask(expected >= best, best), expected_is_baseline=expected >= best)
    return scores
