"""Which channels a model hears, and in which groups: `{"emg": [0, 2, 4]}`, or groups of one's own.

`{"emg": [0, 2, 4], "acc": "all"}` keeps some electrodes of a modality. `{"first": {"emg": [0, 1]}, "second": {"emg":
[2, 3]}}` makes two groups of one modality, which a model takes for two modalities: it has a head or a stage for each.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError, model_validator

from emg_lens.data.recording import DataError
from emg_lens.validation import Name, SpecModel, findings, short

ALL = "all"
"""Every electrode of a modality."""


class Electrodes(SpecModel):
    """Some electrodes (or other sensors) of a modality.

    Attributes:
        electrodes: Their numbers, from 0; `"all"`; or the name of a set that stands elsewhere (a study's
            `cohort.electrodes`).
        first: Only the first so many of them, in the order in which they are listed.
        axes: Channels of each, which stand together: 3 for accelerometers whose axes are kept, 1 for single channels.
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
        """The same with numbers in the place of a name.

        Raises:
            ValueError: A name that is not known, or numbers that are none of electrodes.
        """
        if isinstance(self.electrodes, tuple) or self.electrodes == ALL:
            return self
        if self.electrodes not in named:
            known = ", ".join([*named, ALL])
            raise ValueError(f"channels name the electrodes {self.electrodes!r}; known: {known}, or numbers from 0")
        return Electrodes(electrodes=named[self.electrodes], first=self.first, axes=self.axes)

    def rows(self, n_channels: int, modality: str) -> list[int]:
        """Places of their channels among those of the modality, in the order in which the channels stand.

        Raises:
            DataError: Electrodes that the modality does not have, or channels that are not so many an electrode.
        """
        n, left = divmod(n_channels, self.axes)
        if left:
            raise DataError(f"{modality} has {n_channels} channels, which are no electrodes of {self.axes} axes each")
        if isinstance(self.electrodes, str) and self.electrodes != ALL:
            raise DataError(f"electrodes of {modality} must be numbers from 0 or 'all', got {self.electrodes!r}")
        numbers = range(n) if isinstance(self.electrodes, str) else self.electrodes
        beyond = [number for number in numbers if number >= n]
        if beyond:
            axes = f" of {self.axes} axes" * (self.axes > 1)
            raise DataError(f"{modality} has electrodes 0 to {n - 1}{axes}, got {beyond[0]}")
        if self.first is not None and self.first > len(numbers):
            raise DataError(f"the first {self.first} electrodes of {modality} were asked for, of {len(numbers)}")
        return [axis + self.axes * number for number in self.chosen(n) for axis in range(self.axes)]

    @property
    def in_order(self) -> "Electrodes":
        """The same electrodes by their numbers, in the order of the channels, where numbers are known."""
        if isinstance(self.electrodes, str):
            return self
        return Electrodes(electrodes=tuple(self.chosen(0)), axes=self.axes)

    def chosen(self, n: int) -> list[int]:
        """Their numbers, of `n` that there are, in the order of the channels; a name must be numbered before."""
        return sorted((range(n) if isinstance(self.electrodes, str) else self.electrodes)[: self.first])


def read_groups(given: Any) -> Any:
    """Groups in full: `{"emg": [0, 1]}` is short for `{"emg": {"emg": {"electrodes": [0, 1]}}}`."""
    if not isinstance(given, Mapping):
        return given
    return {group: _read_group(group, of) for group, of in given.items()}


def _read_group(group: Any, of: Any) -> Any:
    if isinstance(of, Electrodes) or not isinstance(of, Mapping) or (of and set(of) <= set(Electrodes.model_fields)):
        return {group: _read_electrodes(of)}
    return {modality: _read_electrodes(some) for modality, some in of.items()}


def _read_electrodes(given: Any) -> Any:
    return given if isinstance(given, Mapping | Electrodes) else {"electrodes": given}


ChannelGroups = Annotated[dict[Name, dict[Name, Electrodes]], BeforeValidator(read_groups)]
"""Group -> modality -> electrodes."""
_GROUPS = TypeAdapter(ChannelGroups)


def chosen_channels(channels: pd.DataFrame, groups: Mapping[str, Any]) -> tuple[list[int], list[str]]:
    """Rows of a channel table that groups are made of, group after group, and the group of each.

    Args:
        channels: One row a channel, with `modality`.
        groups: Group -> modality -> electrodes, or short: see the module.

    Raises:
        DataError: What is no such mapping; a modality or electrode that there is not, that no group has, or that is
            twice there.
    """
    try:
        known = _GROUPS.validate_python(groups)
    except ValidationError as error:
        raise DataError(f"channels {short(groups)}: {findings(error)}") from None
    if not known:
        raise DataError("channels names no group; expected groups such as {'emg': [0, 1, 2]}")
    order = channels["modality"].to_numpy()
    rows: list[int] = []
    names: list[str] = []
    for group, of in known.items():
        mine: list[int] = []
        for modality, some in of.items():
            there = np.flatnonzero(order == modality)
            if not len(there):
                listed = ", ".join(dict.fromkeys(order.tolist()))
                raise DataError(f"channels of {group!r}: no modality {modality!r}; there is {listed}")
            mine += there[some.rows(len(there), modality)].tolist()
        rows, names = [*rows, *sorted(mine)], [*names, *[group] * len(mine)]
    _check_named(order, known)
    doubled = next((row for i, row in enumerate(rows) if row in rows[:i]), None)
    if doubled is not None:
        where = " and ".join(repr(names[i]) for i, row in enumerate(rows) if row == doubled)
        channel = channels.iloc[doubled]
        raise DataError(f"{channel['modality']} channel {channel['name']} is in {where}; a channel is in one group")
    return rows, names


def _check_named(order: Iterable[str], groups: Mapping[str, Mapping[str, Electrodes]]) -> None:
    """Refuse a modality that is not spoken of, so that none is lost by an oversight."""
    spoken = {modality for of in groups.values() for modality in of}
    silent = [modality for modality in dict.fromkeys(order) if modality not in spoken]
    if silent:
        raise DataError(
            f"channels does not name {silent[0]!r}; say '{silent[0]}: all' to keep it, or leave it out of modalities"
        )
