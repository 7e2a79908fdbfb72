"""The meaning of each position of a residual stream: token, modality, channel and time patch.

Encoders build their embeddings from a `TokenLayout`, edge sets use the layout to select positions, and figures use
its names as labels. A layout does not depend on a model.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Int
from pydantic import PositiveInt

from emg_lens.registry import UnknownNameError
from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError, check_fields, checked, short

if TYPE_CHECKING:  # a study can be read without torch
    from torch import Tensor

CLS = "cls"
MOST_TOKENS = 100_000
"""Largest number of tokens: an attention pattern of one head would take 40 GB."""
NO_INDEX = -1
"""Channel or patch index of a token without one (CLS, and tokens of a `groups` layout)."""


@dataclass(frozen=True)
class Stage:
    """A stack of blocks that works on some of the positions. In these blocks, the positions attend only to each other.

    Attributes:
        name: Name in edge expressions and hook names.
        layers: Layers of the stage, counted from the first layer of the model.
        positions: Positions of the stage.
    """

    name: str
    layers: range
    positions: range

    @property
    def edges(self) -> tuple[slice, slice, slice, slice]:
        """Slices that select the edges of the stage in a mask `[layer, head, dest, src]`."""
        layers, positions = (slice(span.start, span.stop) for span in (self.layers, self.positions))
        return (layers, slice(None), positions, positions)


@dataclass(frozen=True)
class TokenLayout:
    """The meaning of every token: its name, its group (modality), its channel and its patch.

    Build one with `TokenLayout.channels`, `TokenLayout.patches`, `TokenLayout.times` or `TokenLayout.groups`.

    In a model with several stages, every layer works on the whole residual stream, but only positions of the same stage
    attend to each other (`stages`).

    Attributes:
        names: One unique name per position, such as `"cls"`, `"emg.3"`, `"emg.3.p12"`.
        group: Modality of each position; `"cls"` for the CLS token, `None` for a token outside all groups.
        channel: Index of the channel within its modality; -1 for a token without one.
        patch: Index of the time patch; -1 for a token without one.
        stages: The stages of the model; empty = one stage with all positions and layers.
        channels_in_token: If a token combines all channels of a modality: the number of channels of each modality.

    Example:
        >>> from emg_lens import TokenLayout
        >>> layout = TokenLayout.channels({"emg": 3, "acc": 2})
        >>> layout.names
        ('cls', 'emg.0', 'emg.1', 'emg.2', 'acc.0', 'acc.1')
        >>> len(layout), layout.modalities, layout.positions("acc").tolist()
        (6, ('emg', 'acc'), [4, 5])
        >>> TokenLayout.patches({"emg": 2}, n_patches=2, cls=False).names  # position = channel * n_patches + patch
        ('emg.0.p0', 'emg.0.p1', 'emg.1.p0', 'emg.1.p1')
        >>> layout
        TokenLayout(6 tokens: cls, emg.0 to emg.2, acc.0 to acc.1)
    """

    names: tuple[str, ...]
    group: tuple[str | None, ...]
    channel: tuple[int, ...]
    patch: tuple[int, ...]
    stages: tuple[Stage, ...] = ()
    channels_in_token: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.names:
            raise ArgumentError("names is empty; a token layout needs at least one position")
        lengths = [len(self.names), len(self.group), len(self.channel), len(self.patch)]
        if len(set(lengths)) != 1:
            raise ArgumentError(f"names, group, channel and patch have lengths {lengths}; expected equal lengths")
        if len(set(self.names)) != len(self.names):
            raise ArgumentError(f"names={list(self.names)}; expected unique names")

    def __repr__(self) -> str:
        runs = [list(run) for _, run in itertools.groupby(range(len(self)), self.group.__getitem__)]
        spans = [" to ".join(dict.fromkeys([self.names[run[0]], self.names[run[-1]]])) for run in runs]
        return f"TokenLayout({len(self)} tokens: {', '.join(spans)})"

    @staticmethod
    @checked
    def channels(modalities: Mapping[str, int], *, cls: bool = True) -> "TokenLayout":
        """Make a layout with one token per channel, modality by modality, and CLS first, if there is one.

        `modalities` gives the number of channels of each, in the order of the input's channel axis.
        """
        tokens = [(f"{name}.{c}", name, c, NO_INDEX) for name, c in _channels(modalities)]
        return TokenLayout._from_tokens(tokens, cls)

    @staticmethod
    @checked
    def patches(modalities: Mapping[str, int], n_patches: PositiveInt, *, cls: bool = True) -> "TokenLayout":
        """Make a layout with one token per time patch of a channel: position = channel * n_patches + patch.

        `modalities` is as in `channels`. With CLS (position 0) all other positions increase by one.
        """
        _check_number(sum(modalities.values()) * n_patches)
        tokens = [(f"{name}.{c}.p{p}", name, c, p) for name, c in _channels(modalities) for p in range(n_patches)]
        return TokenLayout._from_tokens(tokens, cls)

    @staticmethod
    @checked
    def times(modalities: Mapping[str, int], n_patches: PositiveInt, *, cls: bool = True) -> "TokenLayout":
        """Make a layout with one token per time patch of a modality, for all channels of the modality.

        `modalities` is as in `channels`.
        """
        _channels(modalities)
        _check_number(len(modalities) * n_patches)
        tokens = [(f"{name}.p{p}", name, NO_INDEX, p) for name in modalities for p in range(n_patches)]
        return replace(TokenLayout._from_tokens(tokens, cls), channels_in_token=tuple(modalities.items()))

    @staticmethod
    @checked
    def groups(groups: Mapping[str, Iterable[int]], n_tokens: PositiveInt) -> "TokenLayout":
        """Make a layout from named groups of positions of any model: `{"cls": [0], "image": range(1, 10)}`.

        Args:
            groups: Positions of each group. Groups are disjoint; positions outside all groups are allowed.
            n_tokens: Number of positions of the residual stream.
        """
        _check_number(n_tokens)
        owner: dict[int, str] = {}
        for name, positions in groups.items():
            members = list(itertools.islice(getattr(positions, "tolist", lambda p=positions: p)(), n_tokens + 1))
            _check_name(name, extra=(CLS,))
            if not members:
                raise ArgumentError(f"group {name!r} has no position; expected at least one")
            for p in members:
                if not isinstance(p, int | np.integer) or isinstance(p, bool) or not 0 <= p < n_tokens:
                    raise ArgumentError(f"group {name!r} has position {short(p)}; expected 0 to {n_tokens - 1}")
                if p in owner:
                    raise ArgumentError(f"position {p} is in groups {owner[p]!r} and {name!r}; expected one group")
                owner[int(p)] = name
        none = (NO_INDEX,) * n_tokens
        names = tuple(f"token.{p}" for p in range(n_tokens))
        return TokenLayout(names, tuple(owner.get(p) for p in range(n_tokens)), none, none)

    @staticmethod
    def _from_tokens(tokens: list[tuple[str, str, int, int]], cls: bool) -> "TokenLayout":
        rows = [(CLS, CLS, NO_INDEX, NO_INDEX), *tokens] if cls else tokens
        names, group, channel, patch = zip(*rows, strict=True)
        return TokenLayout(names, group, channel, patch)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Names of the groups in order of first appearance, without CLS."""
        return tuple(dict.fromkeys(g for g in self.group if g is not None and g != CLS))

    @property
    def has_cls(self) -> bool:
        """Whether there is a CLS token."""
        return CLS in self.group

    def stage(self, name: str) -> Stage:
        """Return a stage by its name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = f"known: {[stage.name for stage in self.stages]}" if self.stages else "this model has only one stage"
        raise UnknownNameError(f"unknown stage {short(name)}; {known}")

    def of_stage(self, name: str) -> "TokenLayout":
        """Return the layout of a stage's positions."""
        own = self.stage(name).positions
        parts = (self.names, self.group, self.channel, self.patch)
        inside = TokenLayout(*(part[own.start : own.stop] for part in parts))  # pyright: ignore
        channels = tuple((name, n) for name, n in self.channels_in_token if name in inside.modalities)
        return replace(inside, channels_in_token=channels)

    def n_channels(self, modality: str) -> int:
        """Return the number of channels of a modality."""
        if self.channels_in_token:
            counts = dict(self.channels_in_token)
            if not isinstance(modality, str) or modality not in counts:
                raise UnknownNameError(f"unknown modality {short(modality)}; known: {list(self.modalities)}")
            return counts[modality]
        return len({self.channel[p] for p in self.find(modality)})

    def positions(self, name: str) -> "Int[Tensor, ' position']":
        """Return the positions of a group, of `"cls"`, of a channel (`"emg.3"`), or of one token by its name.

        Raises:
            UnknownNameError: Unknown name; the message lists the known groups, and a token.
        """
        import torch

        return torch.tensor(self.find(name))

    def find(self, name: str) -> list[int]:
        """Return `positions` as a list, without torch."""
        named = isinstance(name, str)
        positions = [p for p, g in enumerate(self.group) if named and g == name]
        if not positions and named and name in self.names:
            positions = [self.names.index(name)]
        if not positions and named:
            channels = [f"{g}.{c}" if c != NO_INDEX else None for g, c in zip(self.group, self.channel, strict=True)]
            positions = [p for p, channel in enumerate(channels) if channel == name]
        if not positions:
            known = [*(CLS,) * self.has_cls, *self.modalities]
            token = next((one for one, group in zip(self.names, self.group, strict=True) if group != CLS), CLS)
            raise UnknownNameError(
                f"unknown group or token {short(name)}; this layout has the groups {known}, and tokens such as"
                f" {token!r}"
            )
        return positions

    def to_frame(self) -> pd.DataFrame:
        """Tabulate one row per position: position, name, group, channel, patch (-1 = none)."""
        columns = {"name": self.names, "group": self.group, "channel": self.channel, "patch": self.patch}
        return WholeTable({"position": range(len(self)), **columns})


def where_modalities_meet(layout: TokenLayout) -> str:
    """Return the end of a message about missing edges in a model with stages; otherwise an empty text."""
    if not layout.stages:
        return ""
    joining = [stage for stage in layout.stages if len(layout.of_stage(stage.name).modalities) > 1]
    stages = [
        f"stage {stage.name!r}, layer{'s' * (len(stage.layers) > 1)} {stage.layers.start}"
        + f" to {stage.layers.stop - 1}" * (len(stage.layers) > 1)
        for stage in joining
    ]
    return f"; modalities meet only in {' and '.join(stages)}" if stages else "; modalities meet in no stage"


def _channels(modalities: Mapping[str, int]) -> list[tuple[str, int]]:
    if not modalities:
        raise ArgumentError("modalities is empty; a layout needs at least one modality")
    for name, count in modalities.items():
        _check_name(name)
        if count < 1:
            raise ArgumentError(f"modality {name!r} has {count} channels; expected at least one")
    _check_number(sum(modalities.values()))
    return [(name, c) for name, count in modalities.items() for c in range(count)]


def _check_number(n_tokens: int) -> None:
    if n_tokens > MOST_TOKENS:
        raise ArgumentError(f"a layout of {short(n_tokens)} tokens; expected at most {MOST_TOKENS}")


def _check_name(name: str, extra: tuple[str, ...] = ()) -> None:
    if not name.isidentifier() or (name == CLS and CLS not in extra):
        raise ArgumentError(
            f"{name!r} cannot name a modality; use letters, digits and '_', and not {CLS!r}, the name of the token"
        )
