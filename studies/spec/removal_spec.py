"""The `conditions.removals` of a study file: which sensors or channels are removed from the input, and how."""

import itertools
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from emg_lens.hooks.interventions import Replace
from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition
from emg_lens.validation import SpecModel

REMOVAL = "removal"
"""The tag `mode` of a removal."""
MOST_SINGLE_CHANNELS, GROUPS = 6, 4
"""A sensor alone is removed channel by channel up to so many channels, otherwise in so many groups of neighbours.

Groups of two of eight channels have 27 random removals of the same size; a single channel has seven, too few for a
verdict."""


class Removals(SpecModel):
    """Sensors removed from the input of each fitted model, one at a time; groups of channels if there is one sensor.

    Attributes:
        by: What replaces the signals: `resample`, the signals of another trial (of the training set); `mean`, their
            mean over the training trials.
        alone: With three or more sensors, also remove all but one.
    """

    by: tuple[Literal["resample", "mean"], ...] = Field(default=("resample", "mean"), min_length=1)
    alone: bool = True

    def build(self, layout: TokenLayout) -> list[Condition]:
        """Make the conditions for a model with this layout.

        They have the tags `mode` (`removal`), `edges` (what is removed), `by`, and `kept` if one sensor is left.
        """
        parts, modalities = list(_parts(layout)), layout.modalities
        conditions = []
        for by in dict.fromkeys(self.by):
            for name, removed, tokens in parts:
                tags = {"edges": removed, "mode": REMOVAL, "by": by}
                if self.alone and len(modalities) == 2 and by == self.by[0]:
                    tags["kept"] = next(one for one in modalities if one != removed)
                whose = "its" if isinstance(tokens, str) or len(tokens) == 1 else "their"
                done = {"resample": "removed", "mean": f"set to {whose} mean"}[by]
                conditions.append(Condition(f"{name} {done}", Replace(tokens, by=by), tags))
        for kept in modalities if self.alone and len(modalities) > 2 else ():
            others, by = tuple(one for one in modalities if one != kept), self.by[0]
            tags = {"edges": " and ".join(others), "mode": REMOVAL, "by": by, "kept": kept}
            conditions.append(Condition(f"all but {_printed(kept, layout)} removed", Replace(others, by=by), tags))
        return conditions


def are_most_channels(n_removed: int, n_channels: int) -> bool:
    """Say whether random removals of as many channels would take most of the removed ones, and so cannot judge them."""
    return 2 * n_removed > n_channels


def input_channels(layout: TokenLayout) -> list[str]:
    """Return the names of all channels of the input: `emg.0`, `emg.1`, ..."""
    return [f"{name}.{channel}" for name in layout.modalities for channel in range(layout.n_channels(name))]


def _parts(layout: TokenLayout) -> Iterator[tuple[str, str, str | tuple[str, ...]]]:
    """Yield the parts of the input that are removed: printed name, name, and tokens."""
    sensor, *others = layout.modalities
    if others:
        for modality in layout.modalities:
            yield _printed(modality, layout), modality, modality
        return
    channels = input_channels(layout)
    n = len(channels)
    n_groups = n if n <= MOST_SINGLE_CHANNELS else GROUPS
    limits = [n * k // n_groups for k in range(n_groups + 1)]
    for start, stop in itertools.pairwise(limits) if n > 1 else ():
        numbers = f"channel {stop}" if stop == start + 1 else f"channels {start + 1}-{stop}"
        yield f"{_printed(sensor, layout)} {numbers}", f"{sensor} {numbers}", tuple(channels[start:stop])


def _printed(modality: str, layout: TokenLayout) -> str:
    """Return a modality's name in capitals, if that does not mix it up with another."""
    return modality if [m.upper() for m in layout.modalities].count(modality.upper()) > 1 else modality.upper()
