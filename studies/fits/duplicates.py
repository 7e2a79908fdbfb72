"""Fits that are the same, and electrodes that no random set holds."""

from collections.abc import Mapping, Sequence

from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.spec.electrode_sets import are_all_sets
from emg_lens.studies.spec.factors import ELECTRODE_SET
from emg_lens.studies.spec.study_spec import StudySpec

SHOWN = 3
"""Number of fits or ranges of electrodes that a message names."""


def first_alike(fits: Sequence[Fit]) -> dict[str, Fit]:
    """Map the folder name of every fit to the first fit with the same settings, channels and trials.

    Random sets of all electrodes are the same, and so are levels with the same settings. The outputs of such fits would
    be bit-identical.
    """
    first: dict[str, Fit] = {}
    return {one.folder_name: first.setdefault(one.settings, one) for one in fits}


def alike_warnings(fits: Sequence[Fit]) -> list[str]:
    """Warn about levels that define the same fit, one line for all of them."""
    groups: dict[str, dict[str, None]] = {}
    for one in fits:
        groups.setdefault(one.settings, {})[" · ".join(one.levels.values())] = None
    warnings = [
        f"{_some(list(levels))} have the same settings and channels; this is one fit that counts {len(levels)} times"
        for levels in groups.values()
        if len(levels) > 1
    ]
    return list(dict.fromkeys(warnings))  # all folds have the same warning


def electrode_warnings(study: StudySpec, recorded: Sequence[Mapping[str, int]]) -> list[str]:
    """Warn about electrodes that are in no random set, and about studies that use every possible set.

    Args:
        study: The study.
        recorded: Channels of each modality before some were chosen, for each cell of `study.cells`.
    """
    sets = study.factors.get(ELECTRODE_SET, {})
    held: dict[str, set[int]] = {}
    available: dict[str, int] = {}
    for (_, spec), channels in zip(study.cells if sets else (), recorded, strict=False):
        for of in (spec.cohort.channels or {}).values():
            for modality, some in of.items():
                if some.electrodes in spec.cohort.electrodes:
                    available[modality] = channels[modality] // some.axes
                    chosen = some.numbered(spec.cohort.electrodes).chosen(available[modality])
                    held.setdefault(modality, set()).update(chosen)
    warnings = []
    for modality, n in available.items():
        left = sorted(set(range(n)) - held[modality])
        if left:
            warnings.append(
                f"no electrode set holds {_some(_ranges(left), 'electrode', 'electrodes')} of {modality}, which has"
                f" {n}; factors.{ELECTRODE_SET}.of is the number of electrodes to choose from"
            )
    if are_all_sets([level.get("cohort", {}).get("electrodes", {}) for level in sets.values()]):
        warnings.append(f"these {len(sets)} electrode sets are all that exist; another seed gives the same sets")
    return warnings


def _some(names: Sequence[str], one: str = "", several: str = "") -> str:
    """Join names: `"electrodes 0 and 2 to 5"`, `"a and b and c and 7 more"`."""
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    what = one if len(names) == 1 and names[0].isdigit() else several
    return f"{what} {' and '.join([*names[:SHOWN], *more])}".strip()


def _ranges(numbers: Sequence[int]) -> list[str]:
    """`[2, 3, 4, 7]` -> `["2 to 4", "7"]`."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
