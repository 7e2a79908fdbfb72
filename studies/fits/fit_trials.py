"""The trials of a fit: recordings read, divided into training and test trials, and standardized."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from emg_lens.data.recording import DataError
from emg_lens.data.registry import load_trials
from emg_lens.data.standardization import InputStatistics, TargetStatistics
from emg_lens.data.trials import TrialSet
from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.runs.memory_lock import TURN_BYTES, stamp_of, taking_turns
from emg_lens.studies.spec.cohort import CHOSEN_LATER, Cohort
from emg_lens.training.objectives import Objective

TRIALS_AT_A_TIME = 1024
"""Standardised at once, in double precision."""


@dataclass(frozen=True, eq=False)
class FitTrials:
    """Trials of a fit, as recorded, and what standardises them: statistics of the training trials alone.

    Attributes:
        train: Those fitted.
        test: Those tested.
        rectify: Modalities whose standardised samples are replaced by their absolute value.
        validation: Those that an epoch is chosen by, if there are any.
        seen: Then both those fitted and those of validation: all that decide the weights.
        recorded: Channels of each modality before some were chosen.
    """

    train: TrialSet
    test: TrialSet
    rectify: tuple[str, ...]
    validation: TrialSet | None = None
    seen: TrialSet | None = None
    recorded: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> InputStatistics:
        """What standardises the samples."""
        return InputStatistics.of(self.train, self.rectify)

    @cached_property
    def targets(self) -> TargetStatistics | None:
        """What standardises the targets of a regression."""
        return None if self.train.targets is None else TargetStatistics.of(self.train)

    def x(self, part: TrialSet, in_place: bool = False) -> torch.Tensor:
        """Standardised samples `[trial, channel, time]` of one of the parts.

        Args:
            part: The training trials, those tested, or those for validation.
            in_place: Whether the part itself holds them afterwards: long recordings are not in memory twice then.
        """
        inputs, x = self.inputs, part.x if in_place else np.empty_like(part.x)
        for first in range(0, len(x), TRIALS_AT_A_TIME):
            some = slice(first, first + TRIALS_AT_A_TIME)
            x[some] = inputs.apply(part.x[some])
        return torch.from_numpy(x)

    def y(self, part: TrialSet, objective: Objective) -> torch.Tensor:
        """What a model is fitted to: the objective's targets, z-scored where they are numbers."""
        found = objective.targets(part)
        if self.targets is None or not found.is_floating_point():
            return found
        return torch.from_numpy(self.targets.apply(found.numpy()))


def load_fit(fit_unit: Fit, data: Path | None) -> FitTrials:
    """Read the recordings of a fit's fold and make its training and test trials from them.

    Raises:
        DataError: A missing or damaged file, or a fold that these trials cannot be divided into.
    """
    cohort = fit_unit.spec.cohort
    cohort_json = cohort.model_dump_json(exclude=CHOSEN_LATER)
    with taking_turns(cohort, data):
        trials = _read(cohort_json, data, fit_unit.fold.subjects, stamp_of(cohort, data))
        if trials.x.nbytes > TURN_BYTES:
            _read.cache_clear()
        if cohort.targets:
            trials = trials.with_targets(cohort.targets)
        if cohort.modalities is not None:
            trials = trials.keep(cohort.modalities)
        recorded = trials.modalities
        if cohort.groups is not None:
            trials = trials.regroup(cohort.groups)
        parts, validation = fit_unit.fold.divide(trials), fit_unit.fold.validation(trials)
        seen = None if validation is None else fit_unit.fold.seen(trials)
        del trials
    return FitTrials(*parts, cohort.rectified, validation, seen, recorded)


@lru_cache(maxsize=1)
def _read(cohort_json: str, data: Path | None, subjects: tuple[str, ...], stamp: tuple) -> TrialSet:  # noqa: ARG001
    """Trials of some subjects; kept for the next fit of the same worker, if that reads the same and no file changed."""
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
        whose = f"subject {subjects[0]}: " if len(subjects) == 1 and f"{subjects[0]}" not in str(error) else ""
        raise DataError(f"{whose}{error}") from None
