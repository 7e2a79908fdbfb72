"""The `cohort:` of a study file: which recordings are read, and which channels of them the model receives."""

from typing import Any

from emg_lens.data.channels import ALL, ChannelGroups
from emg_lens.data.preprocessing import Recipe
from emg_lens.data.segment import Segment
from emg_lens.validation import Name, SpecModel

CHOSEN_LATER = {"subjects", "modalities", "electrodes", "channels", "targets", "rectify"}
"""Keys that choose from the trials after reading. Cohorts that differ only in these keys are read once."""


class Cohort(SpecModel):
    """Recordings of a study, and channels that the model receives.

    Attributes:
        dataset: Name of a data set (`emg-lens list` shows them).
        options: Options of the data set's loader.
        subjects: Subjects; default all.
        modalities: Input modalities; default all that the data set has, without the targets.
        electrodes: Sets of electrodes (numbers from 0), by names that `channels` uses. The factor
            `electrode_set` fills them.
        channels: Groups of channels. The model receives each group as a modality: `{emg: [0, 2, 4], acc: all}`, or
            `{first: {emg: a}, second: {emg: {electrodes: b, first: 2}}}`. Default: all channels of each modality. See
            `emg_lens.data.channels`.
        targets: Modalities to predict (regression). They are not part of the input. The target of a window is
            their mean.
        labels: Gestures, in this order; default all that occur.
        recipe: Filters and common sampling rate.
        segment: The part of each repetition that is used.
        rectify: Modalities whose standardized samples are replaced by their absolute value (order of the IsoNet paper,
            §2.2), also within groups of channels.
    """

    dataset: str
    options: dict[str, Any] = {}
    subjects: tuple[str | int, ...] | None = None
    modalities: tuple[str, ...] | None = None
    electrodes: dict[Name, tuple[int, ...]] = {}
    channels: ChannelGroups | None = None
    targets: tuple[str, ...] = ()
    labels: tuple[int, ...] | None = None
    recipe: Recipe = Recipe()
    segment: Segment = Segment()
    rectify: tuple[str, ...] = ()

    @property
    def groups(self) -> ChannelGroups | None:
        """Groups of channels by electrode numbers; None if `channels` is not set.

        Raises:
            ValueError: `channels` uses a name that `electrodes` does not define, or a set is called `all`.
        """
        if ALL in self.electrodes:
            raise ValueError(f"cohort.electrodes: a set is called {ALL!r}, which means every electrode; rename the set")
        if self.channels is None:
            return None
        return {
            group: {modality: some.numbered(self.electrodes) for modality, some in of.items()}
            for group, of in self.channels.items()
        }

    @property
    def names_electrodes(self) -> bool:
        """Whether `channels` uses a set of `electrodes`."""
        every = [some.electrodes for of in (self.channels or {}).values() for some in of.values()]
        return any(name in self.electrodes for name in every if isinstance(name, str))

    @property
    def with_numbered_channels(self) -> "Cohort":
        """The same cohort with channels given by their numbers. Equal choices of channels then have equal texts."""
        if self.channels is None:
            return self
        groups = {group: {m: some.in_order for m, some in of.items()} for group, of in (self.groups or {}).items()}
        return self.model_copy(update={"electrodes": {}, "channels": groups})

    @property
    def of_every_channel(self) -> "Cohort":
        """Return a copy of this cohort with all channels."""
        return self.model_copy(update={"electrodes": {}, "channels": None})

    @property
    def rectified(self) -> tuple[str, ...]:
        """Modalities or groups of channels that the model receives rectified.

        Raises:
            ValueError: Only a part of a group would be rectified.
        """
        if self.channels is None:
            return self.rectify
        rectified = [m for m in self.rectify if not any(m in of for of in self.channels.values())]
        for group, of in self.channels.items():
            these = {modality in self.rectify for modality in of}
            if len(these) > 1:
                raise ValueError(
                    f"cohort.rectify names only a part of the channel group {group!r}; name all its modalities, or make"
                    " two groups"
                )
            rectified += [group] * (these == {True})
        return tuple(rectified)
