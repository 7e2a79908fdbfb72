"""The planner of a sweep: which forward computations differ, and which layers they share.

Conditions with the same change of the input have one root. Below a root, the planner removes dead edges from each
condition, merges equal conditions, and arranges the rest as a tree over layers: two conditions share a node as long as
they cut the same live edges in every layer so far. The executors in `emg_lens.sweeps.executors` walk this tree. A
condition that changes something else inside the model runs alone and verified. If its changes are known to end in
positions that are not read (MLPs of the last layer with a CLS readout), they are removed like dead edges.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from emg_lens.hooks import EdgeError, Intervention, none
from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.live_edges import one_head_for_all, reach
from emg_lens.sweeps.target import Target

Rows = frozenset[int]
"""Rows of a sweep's outputs: one for each distinct condition, or for each condition in the verified loop."""
Keep = Callable[[Mapping[int, Tensor | Exception]], None]
"""Receives outputs `[trial, class]` by row as soon as they are finished."""


@dataclass(frozen=True)
class Mask:
    """The live edges that are cut in one layer, as packed bits; the head axis has size 1 if all heads are equal.

    Equal masks are equal values and can be dictionary keys; `tensor` unpacks. Every head starts a new byte.
    """

    bits: bytes
    shape: tuple[int, int, int]

    @staticmethod
    def pack(mask: Bool[np.ndarray, "head dest src"]) -> "Mask | None":
        """Pack a mask into bits; return None if the mask cuts no edge."""
        packed = np.packbits(mask.reshape(len(mask), -1), axis=1)
        if not packed.any():
            return None
        if (packed == packed[:1]).all():
            packed = packed[:1]
        return Mask(packed.tobytes(), (len(packed), *mask.shape[1:]))

    def tensor(self) -> Bool[Tensor, "head|1 dest src"]:
        """Return the mask of every head, or the one of all heads."""
        rows = np.frombuffer(self.bits, np.uint8).reshape(self.shape[0], -1)
        flat = np.unpackbits(rows, axis=1, count=self.shape[1] * self.shape[2])
        return torch.from_numpy(flat.view(bool)).view(self.shape)

    def part(self, positions: range) -> "Mask | None":
        """Return the part of the mask among some positions; None if nothing is cut there."""
        return _part(self, positions)


@lru_cache(256)
def _part(mask: Mask, positions: range) -> Mask | None:
    own = slice(positions.start, positions.stop)
    return Mask.pack(mask.tensor()[:, own, own].numpy())


@dataclass
class Node:
    """A distinct start of the computation: the output of a layer under the cuts made so far.

    Attributes:
        mask: The cut of this layer; None = nothing.
        children: Continuations in the next layer, by their cut there.
        leaf: Index of the distinct condition that ends here (in the last layer), otherwise None.
    """

    mask: Mask | None
    children: dict[Mask | None, "Node"] = field(default_factory=dict)
    leaf: int | None = None

    def leaves(self) -> Iterator[int]:
        """Yield the distinct conditions that pass through this node."""
        if self.leaf is not None:
            yield self.leaf
        for child in self.children.values():
            yield from child.leaves()

    def unfinished(self, done: Rows) -> list["Node"]:
        """Return the children, without those that lead only to conditions that are done."""
        return [child for child in self.children.values() if not done or not done.issuperset(child.leaves())]


@dataclass(frozen=True)
class Root:
    """One (changed) input, and the tree of all edge cuts that are run on this input.

    Attributes:
        changes: Changes of the input, in order; empty for the original input.
        tree: The root of the tree: the residual stream after the embeddings.
        members: Indices of the conditions that are planned here.
    """

    changes: tuple[Intervention, ...]
    tree: Node = field(default_factory=lambda: Node(None))
    members: list[int] = field(default_factory=list)


def changed_input(x: Tensor, changes: Sequence[Intervention], layout: TokenLayout, reference: Tensor | None) -> Tensor:
    """Compute the input `[trial, channel, time]` of a root, for all trials at once."""
    for change in changes:
        changed = change.on_input(x, layout, reference)
        if changed.shape != x.shape:
            raise EdgeError(f"{change} returned shape {list(changed.shape)}; expected the input's, {list(x.shape)}")
        x = changed
    return x


@dataclass(frozen=True)
class SweepPlan:
    """A planned sweep.

    Attributes:
        roots: The inputs, each with its tree.
        unplanned: Indices of the conditions that run one by one.
        distinct: For each distinct computation (a row of the outputs), the index of the first condition with it.
        of: For each condition, the index of its distinct computation.
        audit: One row for each condition: condition, edges_cut, live_edges_cut, rows_fully_cut, structural_null (the
            input is unchanged and no cut edge has a path to the readout), equivalent_to (the first condition with the
            same input that cuts the same live edges).
    """

    roots: tuple[Root, ...]
    unplanned: tuple[int, ...]
    distinct: tuple[int, ...]
    of: tuple[int, ...]
    audit: pd.DataFrame

    @property
    def n_nodes(self) -> tuple[int, ...]:
        """Number of distinct computations in each layer, over all roots."""
        level, counts = [root.tree for root in self.roots], []
        while level := [child for node in level for child in node.children.values()]:
            counts.append(len(level))
        return tuple(counts)


def plan_sweep(target: Target, conditions: Sequence[Condition]) -> SweepPlan:
    """Plan a sweep."""
    roots: dict[tuple[Intervention, ...], Root] = {}
    unplanned, distinct, of, rows = [], [], [], []
    for i, condition in enumerate(conditions):
        edges = condition.edges
        if edges != none() and not target.n_layers * target.n_heads:
            raise EdgeError(f"{target.model} has no attention, so condition {condition.name!r} cannot cut {edges}")
        mask = edges.mask(target.layout, target.n_layers, target.n_heads)
        some = one_head_for_all(mask, target.permanent_mask)
        mask, permanent_mask = (
            mask[:, some],
            None if target.permanent_mask is None else target.permanent_mask[:, some].numpy(),
        )
        cut = mask.numpy()  # counting is several times faster in numpy
        absent = cut if permanent_mask is None else cut | permanent_mask
        cut = cut if permanent_mask is None else cut & ~permanent_mask
        empty, n_alike = absent.all(axis=-1), target.n_heads // max(cut.shape[1], 1)
        writes = _written(condition, target)
        live_cut, planned = cut, False  # an unknown change may make any edge matter
        if writes is not None:
            live = reach(mask, target.readout, None if permanent_mask is None else torch.from_numpy(permanent_mask))
            live_cut, planned = live.live_cut.numpy(), not (writes & live.live_rows).any()
        if not planned:
            unplanned.append(i)
            of.append(len(distinct))
            distinct.append(i)
        else:
            root = roots.setdefault(condition.input_changes, Root(condition.input_changes))
            root.members.append(i)
            leaf = _leaf(root.tree, live_cut)
            if leaf.leaf is None:
                leaf.leaf = len(distinct)
                distinct.append(i)
            of.append(leaf.leaf)
        n_live = np.count_nonzero(live_cut) * n_alike
        rows.append(
            {
                "condition": condition.name,
                "edges_cut": np.count_nonzero(cut) * n_alike,
                "live_edges_cut": n_live,
                "rows_fully_cut": np.count_nonzero(empty & cut.any(axis=-1)) * n_alike if empty.any() else 0,
                "structural_null": n_live == 0 and planned and not condition.input_changes,
                "equivalent_to": conditions[distinct[of[-1]]].name,
            }
        )
    return SweepPlan(tuple(roots.values()), tuple(unplanned), tuple(distinct), tuple(of), pd.DataFrame(rows))


def _written(condition: Condition, target: Target) -> Bool[Tensor, "layer pos"] | None:
    """Return the outputs of layers that a condition changes in addition to its cuts; None if that is not known."""
    written = torch.zeros(target.n_layers, len(target.layout), dtype=torch.bool)
    for one in condition.in_the_model:
        try:
            writes = one.writes(target.layout, target.n_layers, target.n_heads)
        except EdgeError:  # raised again when it is applied, so that the other conditions run
            return None
        if writes is None:
            return None
        written |= writes
    return written


def _leaf(node: Node, live_cut: Bool[np.ndarray, "layer head dest src"]) -> Node:
    """Return the node of the last layer for these cuts, and make the nodes that are new."""
    for layer_cut in live_cut:
        key = Mask.pack(layer_cut)
        node = node.children.setdefault(key, Node(key))
    return node
