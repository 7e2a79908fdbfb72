"""The trials of a fit: read the recordings, divide them into training and test trials, and standardize the samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Shaped

from emg_lens.data.recording import DataError
from emg_lens.data.registry import load_trials
from emg_lens.data.standardization import InputStatistics, TargetStatistics
from emg_lens.data.trials import TrialSet
from emg_lens.studies.fits.fit_memory import LARGE_BYTES, recording_states
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.spec.cohort import CHOSEN_LATER, Cohort
from emg_lens.training.objectives import Objective


@dataclass(frozen=True, eq=False)
class FitTrials:
    """Trials of a fit in the units of the recordings, and the statistics that standardize them.

    Attributes:
        train: Training trials. The statistics come from these trials alone.
        test: Test trials.
        rectify: Modalities whose standardized samples are replaced by their absolute value.
        validation: Trials that choose the epoch; None if the split has none.
        seen: Training and validation trials together, if there are validation trials: all that decide the weights.
        recorded: Channels of each modality before some channels were chosen.
    """

    train: TrialSet
    test: TrialSet
    rectify: tuple[str, ...]
    validation: TrialSet | None = None
    seen: TrialSet | None = None
    recorded: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> InputStatistics:
        """The statistics that standardize the samples."""
        return InputStatistics.of(self.train, self.rectify)

    @cached_property
    def targets(self) -> TargetStatistics | None:
        """The statistics that standardize the targets of a regression; None without targets."""
        return None if self.train.targets is None else TargetStatistics.of(self.train)

    def x(self, part: TrialSet) -> Float[torch.Tensor, "trial channel time"]:
        """Standardize the samples of the training, test or validation trials."""
        return torch.from_numpy(self.inputs.apply(part.x))

    def take_x(self, part: TrialSet) -> Float[torch.Tensor, "trial channel time"]:
        """Standardize as `x` does, in the memory of the trials: these have no samples afterwards."""
        statistics, samples = self.inputs, part.take_samples()
        return torch.from_numpy(statistics.apply(samples, out=samples))

    def y(self, part: TrialSet, objective: Objective) -> Shaped[torch.Tensor, "trial *target"]:
        """Return the targets of the objective; numbers are standardized, classes are not."""
        targets = objective.targets(part)
        if objective.kind != "values" or self.targets is None:
            return targets
        return torch.from_numpy(self.targets.apply(targets.numpy()))


def load_fit(fit_unit: Fit, data: Path | None) -> FitTrials:
    """Read the recordings of a fit's fold and divide them into training, validation and test trials.

    Args:
        fit_unit: The fit.
        data: Folder of the data set; None for simulated cohorts.

    Raises:
        DataError: A file is missing or damaged, or the fold does not fit the trials.
    """
    cohort, fold = fit_unit.spec.cohort, fit_unit.fold
    cohort_json = cohort.model_dump_json(exclude=CHOSEN_LATER)
    trials = _read(cohort_json, data, fold.subjects, recording_states(cohort, data))
    if trials.x.nbytes > LARGE_BYTES:
        _read.cache_clear()
    if cohort.targets:
        trials = trials.with_targets(cohort.targets)
    if cohort.modalities is not None:
        trials = trials.keep(cohort.modalities)
    recorded = trials.modalities
    if cohort.groups is not None:
        trials = trials.regroup(cohort.groups)
    validation = fold.validation(trials)
    seen = None if validation is None else fold.train_and_validation(trials)
    return FitTrials(*fold.divide(trials), cohort.rectified, validation, seen, recorded)


@lru_cache(maxsize=1)
def _read(cohort_json: str, data: Path | None, subjects: tuple[str, ...], files: tuple) -> TrialSet:  # noqa: ARG001
    """Read the trials of some subjects; the next fit of this process reuses them if the files are the same."""
    cohort = Cohort.model_validate_json(cohort_json)
    try:
        return load_trials(
            cohort.dataset,
            data,
            cohort.recipe,
            cohort.segment,
            subjects=subjects,
            classes=cohort.labels,
            **cohort.options,
        )
    except DataError as error:
        name = f"subject {subjects[0]}: " if len(subjects) == 1 and f"{subjects[0]}" not in str(error) else ""
        raise DataError(f"{name}{error}") from None
