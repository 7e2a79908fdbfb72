"""What a study would do twice, or leave out: fits of the same settings and channels, electrodes that no draw holds."""

from collections.abc import Mapping, Sequence

from emg_lens.studies.fits.fit_unit import Fit
from emg_lens.studies.spec.electrode_sets import are_all_draws
from emg_lens.studies.spec.factors import DRAW
from emg_lens.studies.spec.study_spec import StudySpec

SHOWN = 3
"""How many fits or spans of electrodes a note names."""


def first_alike(fits: Sequence[Fit]) -> dict[str, Fit]:
    """For the folder of every fit, the first fit of the same settings, channels and trials: often the fit itself.

    Draws of all electrodes are one, and so are levels that say the same in other words: their outputs are the same to
    the bit.
    """
    first: dict[str, Fit] = {}
    return {one.folder_name: first.setdefault(one.settings, one) for one in fits}


def alike_warnings(fits: Sequence[Fit]) -> list[str]:
    """A line for all levels that make one and the same fit."""
    groups: dict[str, dict[str, None]] = {}
    for one in fits:
        groups.setdefault(one.settings, {})[" · ".join(one.levels.values())] = None
    said = [
        f"{_some(list(levels))} are the same settings and channels: one fit, counted {len(levels)} times"
        for levels in groups.values()
        if len(levels) > 1
    ]
    return list(dict.fromkeys(said))  # once for all folds


def draw_warnings(study: StudySpec, recorded: Sequence[Mapping[str, int]]) -> list[str]:
    """Electrodes that no draw holds, and draws of which there are no more.

    Args:
        study: The study.
        recorded: Channels of each modality before any are chosen, of every cell of `study.cells`, in its order.
    """
    held: dict[str, set[int]] = {}
    there: dict[str, int] = {}
    for (_, spec), channels in zip(study.cells if DRAW in study.factors else (), recorded, strict=False):
        for of in (spec.cohort.channels or {}).values():
            for modality, some in of.items():
                if some.electrodes in spec.cohort.electrodes:
                    there[modality] = channels[modality] // some.axes
                    chosen = some.numbered(spec.cohort.electrodes).chosen(there[modality])
                    held.setdefault(modality, set()).update(chosen)
    found = []
    for modality, n in there.items():
        left = sorted(set(range(n)) - held[modality])
        if left:
            found.append(
                f"no draw holds {_some(_spans(left), 'electrode', 'electrodes')} of {modality}, which has {n};"
                " factors.draw.of says how many there are to draw from"
            )
    draws = study.factors.get(DRAW, {})
    if are_all_draws([level.get("cohort", {}).get("electrodes", {}) for level in draws.values()]):
        found.append(f"the {len(draws)} draws of electrodes are all that there are: no seed gives others")
    return found


def _some(names: Sequence[str], one: str = "", several: str = "") -> str:
    """`"electrodes 0, 2 to 5"`, `"a and b and 7 more"`."""
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    what = one if len(names) == 1 and names[0].isdigit() else several
    return f"{what} {' and '.join([*names[:SHOWN], *more])}".strip()


def _spans(numbers: Sequence[int]) -> list[str]:
    """`[2, 3, 4, 7]` -> `["2 to 4", "7"]`."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return [f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
