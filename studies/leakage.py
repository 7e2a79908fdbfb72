"""The leakage report of a fit, as its folder keeps it."""

from pathlib import Path
from typing import Any

from emg_lens.data.leakage import leakage_report
from emg_lens.data.registry import describe_dataset, load_dataset
from emg_lens.data.rest import before_trials
from emg_lens.data.splits import Fold
from emg_lens.data.trials import TrialSet
from emg_lens.studies.spec import Cohort


def leakage_of(cohort: Cohort, fold: Fold, data: Path | None, train: TrialSet, test: TrialSet) -> dict[str, Any]:
    """What training and test trials share, and how well the class is told before the movement begins."""
    before = None
    if not describe_dataset(cohort.dataset).finished and not cohort.targets and cohort.segment.piece_s is None:
        recordings = load_dataset(cohort.dataset, data, subjects=fold.subjects, **cohort.options)
        before = before_trials(recordings, modalities=tuple(train.modalities), classes=cohort.labels)
    return leakage_report(train, test, before, fold=fold).to_dict()
