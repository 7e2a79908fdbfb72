"""The `cohort:` of a study file: which recordings are read, and which channels of them the model receives."""

from typing import Any

from emg_lens.data.channels import ALL, ChannelGroups
from emg_lens.data.preprocessing import Recipe
from emg_lens.data.segment import Segment
from emg_lens.validation import Name, SpecModel

CHOSEN_LATER = {"subjects", "modalities", "electrodes", "channels", "targets", "rectify"}
"""Parts of a cohort that are chosen from trials; cohorts that differ in them alone are read once."""


class Cohort(SpecModel):
    """Whose recordings, and which part of them.

    Attributes:
        dataset: A known data set (`emg-lens list`).
        options: Options of its loader.
        subjects: Only these; default all.
        modalities: Only these as input; default all that the data set has (and that are no targets).
        electrodes: Sets of electrodes (numbers from 0) by a name that `channels` uses; the factor `draw` fills them.
        channels: Groups of channels, which are the modalities that a model hears: `{emg: [0, 2, 4], acc: all}`, or
            `{first: {emg: a}, second: {emg: {electrodes: b, first: 2}}}`; default each modality whole. See
            `emg_lens.data.channels`.
        targets: Modalities to predict (regression): taken out of the input, their mean over each window is the target.
        labels: Only these movements, in this order; default all that occur.
        recipe: Filters and common rate.
        segment: The part of each movement that is used.
        rectify: Modalities whose standardised samples are replaced by their absolute value (IsoNet paper §2.2 order);
            so are groups made of their channels.
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
        """The groups of channels, with numbers in the place of names.

        Raises:
            ValueError: A name that is not among the `electrodes`, or a set of those that is called `all`.
        """
        if ALL in self.electrodes:
            raise ValueError(f"cohort.electrodes cannot be called {ALL!r}: that is every electrode; rename them")
        if self.channels is None:
            return None
        return {
            group: {modality: some.numbered(self.electrodes) for modality, some in of.items()}
            for group, of in self.channels.items()
        }

    @property
    def names_electrodes(self) -> bool:
        """Whether `channels` uses a set of the `electrodes`."""
        every = [some.electrodes for of in (self.channels or {}).values() for some in of.values()]
        return any(name in self.electrodes for name in every if isinstance(name, str))

    @property
    def as_heard(self) -> "Cohort":
        """The same channels, said one way: by their numbers alone, whichever names, order and `first` chose them."""
        if self.channels is None:
            return self
        groups = {group: {m: some.in_order for m, some in of.items()} for group, of in (self.groups or {}).items()}
        return self.model_copy(update={"electrodes": {}, "channels": groups})

    @property
    def of_every_channel(self) -> "Cohort":
        """The same recordings, with no channels chosen."""
        return self.model_copy(update={"electrodes": {}, "channels": None})

    @property
    def rectified(self) -> tuple[str, ...]:
        """What a model hears rectified: the modalities, or the groups made of them.

        Raises:
            ValueError: A group of which a part would be rectified.
        """
        if self.channels is None:
            return self.rectify
        found = [m for m in self.rectify if not any(m in of for of in self.channels.values())]
        for group, of in self.channels.items():
            these = {modality in self.rectify for modality in of}
            if len(these) > 1:
                raise ValueError(f"rectify holds a part of the group {group!r} of channels; make it all, or two groups")
            found += [group] * (these == {True})
        return tuple(found)
