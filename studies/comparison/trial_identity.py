"""Identity of the test trials of a run, so that two runs are paired only if they were tested on the same trials."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.fits.fit_store import read_csv, read_targets
from emg_lens.studies.result import StudyResult
from emg_lens.studies.runs.plan import one_a_data_set
from emg_lens.studies.runs.run_files import read_record
from emg_lens.studies.spec.study_spec import StudySpec


def trial_identities(result: StudyResult) -> pd.DataFrame:
    """Describe the test trials of every fit and subject.

    Returns:
        One row a fit and test subject, with the columns `fit`, `subject`, `fold`, one for each factor, `n_trials`,
        `trials` and `repetitions`. The last two are sums of hashes, over the trials and over the distinct repetitions.
        A hash holds the subject, number and class (or text) of a repetition, and its place among repetitions in which
        these are equal. So equal sums mean equal trials in any order, and the sums of several folds can be added.
    """
    facts = result.facts.set_index("fit")
    factors = list(result.study.factors)
    parts = []
    for folder in result.folders:
        about = facts.loc[folder.name]
        trials = read_csv(folder / "trials.csv")
        trials["target"] = _targets(read_targets(folder), list(about["outputs"]))
        sums = identity_of_subjects(trials)
        parts.append(sums.assign(fit=folder.name, fold=about["fold"], **{name: str(about[name]) for name in factors}))
    return pd.concat(parts, ignore_index=True)


def identity_of_subjects(trials: pd.DataFrame) -> pd.DataFrame:
    """Sum the hashes of the trials of each subject.

    Args:
        trials: One row a trial: `subject`, `repetition`, `repetition_id`, `target`.

    Example:
        >>> trials = pd.DataFrame({"subject": "A", "repetition": [2, 2, 5], "repetition_id": [7, 7, 9], "target": "ok"})
        >>> one, reordered = identity_of_subjects(trials), identity_of_subjects(trials[::-1])
        >>> bool((one == reordered).all(axis=None)), one["n_trials"].item()
        (True, 3)
    """
    # Ids themselves depend on the trials of other subjects that were read, so only their order is used.
    rank = trials.groupby(["subject", "repetition", "target"])["repetition_id"].rank("dense").astype(int)
    rows = trials[["subject", "repetition", "target"]].assign(rank=rank)
    first = ~rows.duplicated()
    hashes = pd.util.hash_pandas_object(rows, index=False)
    sums = {"trials": hashes, "repetitions": hashes.where(first, np.uint64(0)), "n_trials": 1}
    by_subject = rows[["subject"]].assign(**sums).groupby("subject", sort=False, as_index=False)
    return by_subject.sum()


def data_identity(result: StudyResult, spec: StudySpec) -> tuple[str, str, str]:
    """Return data set, options and fingerprint of the recordings at one level of every factor."""
    fingerprints = read_record(result.folder)["fingerprint"].split("-")  # of data sets, then of pretrained weights
    cohorts = [_recordings(one.cohort) for one in _with_cohorts(result.study)]
    own = _recordings(spec.cohort)
    return (*own, fingerprints[cohorts.index(own)])


def _with_cohorts(study: StudySpec) -> list[StudySpec]:
    """Return the study at one combination of levels for each of its data sets."""
    specs = [spec for _, spec in study.cells]
    cohorts = one_a_data_set(specs)
    return [next(spec for spec in specs if spec.cohort is cohort) for cohort in cohorts]


def _recordings(cohort: Any) -> tuple[str, str]:
    return cohort.dataset, cohort.model_dump_json(include={"options"})


def _targets(targets: np.ndarray | list[np.ndarray], names: Sequence[str]) -> list[str]:
    """Describe the targets as text: names of classes, hashes of other whole numbers; measured values count as equal."""
    if not all(np.issubdtype(np.asarray(one).dtype, np.integer) for one in targets):
        return [""] * len(targets)
    is_index = isinstance(targets, np.ndarray) and targets.ndim == 1 and len(targets) > 0
    if is_index and np.min(targets) >= 0 and np.max(targets) < len(names):
        return [names[int(one)] for one in targets]
    return [hashlib.sha256(np.ascontiguousarray(one, dtype=np.int64).tobytes()).hexdigest() for one in targets]
