"""The leakage report of a fit, as its folder keeps it."""

from pathlib import Path

from emg_lens.data.pre_onset import before_trials
from emg_lens.data.registry import describe_dataset, load_dataset
from emg_lens.data.splits import Fold
from emg_lens.data.trials import TrialSet
from emg_lens.studies.spec.cohort import Cohort


def rest_of(cohort: Cohort, fold: Fold, data: Path | None) -> TrialSet | None:
    """The rest before the movements of a fold, for `leakage_report`; `None` where there is none to look at."""
    if describe_dataset(cohort.dataset).finished or cohort.targets or cohort.segment.piece_s is not None:
        return None
    recordings = load_dataset(cohort.dataset, data, subjects=fold.subjects, **cohort.options)
    names = tuple(m for m in cohort.recipe.signals if cohort.modalities is None or m in cohort.modalities)
    return before_trials(recordings, modalities=names or None, classes=cohort.labels)
