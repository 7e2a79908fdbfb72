"""Groups of attention edges that get one score each: by modality, by channel, or by channel and head."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from emg_lens.hooks import EdgeError, EdgeSet, edges_from_mask
from emg_lens.layout import NO_INDEX, TokenLayout
from emg_lens.tables import WholeTable

Granularity = Literal["modality", "channel", "head"]
"""One score for each layer and pair of modalities, or pair of channels; `"head"`: of channels, in each head."""


@dataclass(frozen=True, eq=False)
class EdgeGroups:
    """Disjoint groups of edges.

    Attributes:
        table: One row per group: `edge` (its name), and where it is (`layer`, `head`, `dest`, `src`), as far as all
            edges of the group agree.
        index: Index of the group of each edge; -1 for edges in no group.
    """

    table: pd.DataFrame
    index: Int[np.ndarray, "layer head dest src"]

    def __len__(self) -> int:
        return len(self.table)

    def chosen(self, elements: Iterable[int]) -> Bool[np.ndarray, " group"]:
        """Return one truth value per group: whether its number is among the elements."""
        return np.isin(np.arange(len(self)), list(elements))

    def mask(self, chosen: Bool[np.ndarray, " group"]) -> Bool[np.ndarray, "layer head dest src"]:
        """Return the edges of the chosen groups."""
        return np.append(chosen, False)[self.index]

    def edges(self, chosen: Bool[np.ndarray, " group"]) -> EdgeSet:
        """Return the edges of the chosen groups as an edge set."""
        return edges_from_mask(self.mask(chosen))

    def are(
        self,
        by: Granularity | Mapping[str, EdgeSet],
        candidates: Bool[np.ndarray, "layer head dest src"],
        layout: TokenLayout,
    ) -> bool:
        """Return whether `by` gives the same groups, in the same order."""
        try:
            other = group_edges(by, candidates, layout)
        except EdgeError:  # named groups that do not fit these candidates
            return False
        return np.array_equal(self.index, other.index) and self.table["edge"].equals(other.table["edge"])


def group_edges(
    by: Granularity | Mapping[str, EdgeSet], candidates: Bool[np.ndarray, "layer head dest src"], layout: TokenLayout
) -> EdgeGroups:
    """Divide the candidate edges into groups."""
    if isinstance(by, Mapping):
        return _named_groups(by, candidates, layout)
    units = _modalities(layout) if by == "modality" else _channels(layout)
    names = list(dict.fromkeys(units))
    unit = np.array([names.index(one) for one in units])
    n_layers, n_heads = candidates.shape[:2]
    head = np.arange(n_heads) if by == "head" else np.zeros(n_heads, int)
    sizes = (n_layers, n_heads if by == "head" else 1, len(names), len(names))
    place = np.ix_(np.arange(n_layers), head, unit, unit)
    number = np.ravel_multi_index(np.broadcast_arrays(*place), sizes)
    known, index = np.unique(number[candidates], return_inverse=True)
    everywhere = np.full(candidates.shape, -1)
    everywhere[candidates] = index
    layers, heads, dests, srcs = np.unravel_index(known, sizes)
    table = WholeTable({"layer": layers, "head": heads, "dest": dests, "src": srcs})
    for column in ("dest", "src"):
        table[column] = np.array(names, dtype=object)[table[column]]
    label = [f"L{row.layer + 1}" + (f"H{row.head}" if by == "head" else "") for row in table.itertuples()]
    table.insert(0, "edge", [f"{a} {src} → {dest}" for a, src, dest in zip(label, table.src, table.dest, strict=True)])
    return EdgeGroups(table if by == "head" else table.drop(columns="head"), everywhere)


def _named_groups(
    by: Mapping[str, EdgeSet], candidates: Bool[np.ndarray, "layer head dest src"], layout: TokenLayout
) -> EdgeGroups:
    if not by:
        raise EdgeError("by is empty; expected edge sets by name, {'fusion': cross_modal()}")
    index = np.full(candidates.shape, -1)
    for number, (name, edges) in enumerate(by.items()):
        if not isinstance(edges, EdgeSet):
            raise EdgeError(f"by[{name!r}]={edges!r}; expected an edge set such as cross_modal()")
        mask = edges.mask(layout, *candidates.shape[:2]).numpy() & candidates
        if not mask.any():
            raise EdgeError(
                f"by[{name!r}]={edges} has no live edge outside the floor; give other edges, or another floor"
            )
        if (index[mask] >= 0).any():
            other = list(by)[int(index[mask].max())]
            raise EdgeError(f"the groups {other!r} and {name!r} share edges; give disjoint edge sets")
        index[mask] = number
    return EdgeGroups(WholeTable({"edge": list(by)}), index)


def _modalities(layout: TokenLayout) -> list[str]:
    return [name if group is None else group for name, group in zip(layout.names, layout.group, strict=True)]


def _channels(layout: TokenLayout) -> list[str]:
    """Name the channel of each token; tokens without a channel keep their names."""
    return [
        name if channel == NO_INDEX else f"{group}.{channel}"
        for name, group, channel in zip(layout.names, layout.group, layout.channel, strict=True)
    ]
