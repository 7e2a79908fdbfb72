"""Select the channels that a model receives as input, and group them.

`{"emg": [0, 2, 4], "acc": "all"}` keeps some electrodes of a modality. `{"first": {"emg": [0, 1]}, "second": {"emg":
[2, 3]}}` makes two groups of one modality. A model treats each group as a modality, with its own head or stage.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, model_validator

from emg_lens.data.recording import DataError
from emg_lens.validation import Name, SpecModel, describe_errors, short

ALL = "all"
"""Every electrode of a modality."""


class Electrodes(SpecModel):
    """Some electrodes (or other sensors) of a modality.

    Attributes:
        electrodes: Their numbers, from 0; or `"all"`; or the name of a set that a study defines in
            `cohort.electrodes`.
        first: Keep only this many of them, in the listed order.
        axes: Number of consecutive channels of one sensor: 3 for an accelerometer with x, y, z; 1 for an electrode.
    """

    electrodes: tuple[NonNegativeInt, ...] | Name = ALL
    first: PositiveInt | None = None
    axes: PositiveInt = 1

    @model_validator(mode="after")
    def _once(self) -> "Electrodes":
        numbers = self.electrodes if isinstance(self.electrodes, tuple) else (0,)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"electrodes must be different numbers from 0, at least one, got {list(numbers)}")
        return self

    def numbered(self, named: Mapping[str, tuple[int, ...]]) -> "Electrodes":
        """Replace the name of a set by its numbers."""
        if isinstance(self.electrodes, tuple) or self.electrodes == ALL:
            return self
        if self.electrodes not in named:
            known = ", ".join([*named, ALL])
            raise ValueError(f"unknown electrodes {self.electrodes!r} in channels; known: {known}, or numbers from 0")
        return Electrodes(electrodes=named[self.electrodes], first=self.first, axes=self.axes)

    def rows(self, n_channels: int, modality: str) -> list[int]:
        """Return the indices of the electrodes' channels within the modality's `n_channels`, in channel order."""
        n, left = divmod(n_channels, self.axes)
        if left:
            raise DataError(
                f"{modality} has {n_channels} channels, which is not a multiple of axes={self.axes}; give other axes"
            )
        if isinstance(self.electrodes, str) and self.electrodes != ALL:
            raise DataError(f"electrodes of {modality} must be numbers from 0 or 'all', got {self.electrodes!r}")
        numbers = range(n) if isinstance(self.electrodes, str) else self.electrodes
        beyond = [number for number in numbers if number >= n]
        if beyond:
            axes = f" of {self.axes} axes" * (self.axes > 1)
            raise DataError(f"{modality} has no electrode {beyond[0]}; it has electrodes 0 to {n - 1}{axes}")
        if self.first is not None and self.first > len(numbers):
            raise DataError(
                f"first={self.first} is more than the {len(numbers)} electrodes of {modality} that are listed"
            )
        return [axis + self.axes * number for number in self.chosen(n) for axis in range(self.axes)]

    @property
    def in_order(self) -> "Electrodes":
        """Return a copy with sorted electrode numbers; the electrodes are unchanged if given by name."""
        if isinstance(self.electrodes, str):
            return self
        return Electrodes(electrodes=tuple(self.chosen(0)), axes=self.axes)

    def chosen(self, n: int) -> list[int]:
        """Return the numbers of the electrodes in channel order; `n` is the number of electrodes of the modality."""
        return sorted((range(n) if isinstance(self.electrodes, str) else self.electrodes)[: self.first])


def _full_groups(given: Any) -> Any:
    """Expand short groups: `{"emg": [0, 1]}` becomes `{"emg": {"emg": {"electrodes": [0, 1]}}}`."""
    if not isinstance(given, Mapping):
        return given
    groups = {}
    for group, of in given.items():
        is_short = not isinstance(of, Mapping) or (of and set(of) <= set(Electrodes.model_fields))
        groups[group] = {
            modality: some if isinstance(some, Mapping | Electrodes) else {"electrodes": some}
            for modality, some in ({group: of} if is_short else of).items()
        }
    return groups


ChannelGroups = Annotated[dict[Name, dict[Name, Electrodes]], BeforeValidator(_full_groups)]
"""Group -> modality -> electrodes."""
_GROUPS = TypeAdapter(ChannelGroups)


def select_channels(channels: pd.DataFrame, groups: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """Find the rows of a channel table that each group selects.

    Args:
        channels: Channel table, with one row per channel and the column `modality`.
        groups: Group -> modality -> electrodes; the module's docstring shows short forms.

    Returns:
        Row numbers, group after group, and the group of each row.
    """
    try:
        known = _GROUPS.validate_python(groups)
    except ValidationError as error:
        raise DataError(f"channels {short(groups)}: {describe_errors(error, groups)}") from None
    if not known:
        raise DataError("channels is empty; expected groups such as {'emg': [0, 1, 2]}")
    order = channels["modality"].to_numpy()
    listed = {modality for selection in known.values() for modality in selection}
    missing = [modality for modality in dict.fromkeys(order) if modality not in listed]
    rows: list[int] = []
    names: list[str] = []
    for group, selection in known.items():
        in_group: list[int] = []
        for modality, electrodes in selection.items():
            of_modality = np.flatnonzero(order == modality)
            if not len(of_modality):
                present = ", ".join(dict.fromkeys(order.tolist()))
                raise DataError(f"channels of {group!r}: unknown modality {modality!r}; known: {present}")
            in_group += of_modality[electrodes.rows(len(of_modality), modality)].tolist()
        rows, names = [*rows, *sorted(in_group)], [*names, *[group] * len(in_group)]
    if missing:  # it must not be lost by mistake
        raise DataError(
            f"channels does not list {missing[0]!r}; write '{missing[0]}: all' to keep it, or remove it from modalities"
        )
    doubled = next((row for i, row in enumerate(rows) if row in rows[:i]), None)
    if doubled is not None:
        where = " and ".join(repr(names[i]) for i, row in enumerate(rows) if row == doubled)
        channel = channels.iloc[doubled]
        raise DataError(f"{channel['modality']} channel {channel['name']} is in {where}; keep it in one group")
    return rows, names
