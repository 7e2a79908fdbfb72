"""The planner of a sweep: which forward computations are really different, and what they share.

Each condition is brought to a normal form (dead edges dropped), equal ones are merged, and the rest are arranged as a
tree over layers: two conditions share a node as long as they cut the same live edges in every layer so far. The
executors in `emg_lens.sweeps.executors` walk it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emg_lens.layout import TokenLayout
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.live_edges import reach


@dataclass(frozen=True)
class Target:
    """What the planner needs to know of a model.

    Attributes:
        layout: What the positions stand for.
        n_layers: Blocks.
        n_heads: Heads a block.
        readout: Positions of the last residual stream that may reach the output; all, where it is not known.
        severed: Edges that the model does not have, or None.
    """

    layout: TokenLayout
    n_layers: int
    n_heads: int
    readout: Int[Tensor, " position"]
    severed: Bool[Tensor, "layer head dest src"] | None = None


@dataclass(frozen=True)
class Mask:
    """The live edges that one layer cuts, as packed bits; the head axis has size 1 where all heads agree.

    Equal masks are equal values, so they can be dictionary keys; `tensor` unpacks. Every head starts a new byte.
    """

    bits: bytes
    shape: tuple[int, int, int]

    @staticmethod
    def pack(mask: Bool[np.ndarray, "head dest src"]) -> "Mask | None":
        """None where nothing is cut."""
        packed = np.packbits(mask.reshape(len(mask), -1), axis=1)
        if not packed.any():
            return None
        if (packed == packed[:1]).all():
            packed = packed[:1]
        return Mask(packed.tobytes(), (len(packed), *mask.shape[1:]))

    def tensor(self) -> Bool[Tensor, "head|1 dest src"]:
        """The mask of every head, or the one that all share."""
        flat = np.unpackbits(self._rows(), axis=1, count=self.shape[1] * self.shape[2])
        return torch.from_numpy(flat.view(bool)).view(self.shape)

    def changed_heads(self, other: "Mask | None") -> list[int] | None:
        """Heads in which two masks of a layer differ; None = in all, because both or one hold for all heads."""
        if self.shape[0] == 1 and (other is None or other.shape[0] == 1):
            return None
        mine, theirs = self._rows(), np.zeros((1, 1), np.uint8) if other is None else other._rows()
        return (mine != theirs).any(axis=1).nonzero()[0].tolist()

    def _rows(self) -> np.ndarray:
        return np.frombuffer(self.bits, np.uint8).reshape(self.shape[0], -1)


@dataclass
class Node:
    """A distinct prefix of the computation: this layer's output under the cuts made so far.

    Attributes:
        mask: What this layer cuts; None = nothing.
        children: Continuations in the next layer, by what they cut there; the one that cuts nothing first.
        leaf: Index of the distinct condition that ends here (in the last layer), else None.
    """

    mask: Mask | None
    children: dict[Mask | None, "Node"] = field(default_factory=dict)
    leaf: int | None = None

    def in_order(self) -> list["Node"]:
        """Children, the one that cuts nothing first: the others are computed as changes to it where that is less."""
        return sorted(self.children.values(), key=lambda node: node.mask is not None)

    def leaves(self) -> Iterator[int]:
        """The distinct conditions that pass through this node."""
        if self.leaf is not None:
            yield self.leaf
        for child in self.children.values():
            yield from child.leaves()


@dataclass(frozen=True)
class SweepPlan:
    """A planned sweep.

    Attributes:
        root: The tree; the root itself stands for the embeddings.
        distinct: Index into the conditions of the first of each distinct computation.
        of: For every condition, which distinct computation it is.
        audit: One row a condition: condition, edges_cut, live_edges_cut, rows_fully_cut, structural_null (no cut edge
            has a path to the readout), equivalent_to (the first condition that cuts the same live edges).
    """

    root: Node
    distinct: tuple[int, ...]
    of: tuple[int, ...]
    audit: pd.DataFrame

    @property
    def n_nodes(self) -> tuple[int, ...]:
        """Distinct computations in each layer."""
        level, counts = [self.root], []
        while level := [child for node in level for child in node.children.values()]:
            counts.append(len(level))
        return tuple(counts)


def plan_sweep(target: Target, conditions: Sequence[Condition]) -> SweepPlan:
    """Plan a sweep.

    Raises:
        EdgeError: Edges that do not fit the layout, the layers or the heads.
    """
    root, rows = Node(None), []
    distinct: list[int] = []
    of: list[int] = []
    severed = None if target.severed is None else target.severed.numpy()
    for i, condition in enumerate(conditions):
        mask = condition.edges.mask(target.layout, target.n_layers, target.n_heads)
        found = reach(mask, target.readout, target.severed)
        live_cut, cut = found.live_cut.numpy(), mask.numpy()  # counting is several times faster in numpy
        node = root
        for layer in range(target.n_layers):
            key = Mask.pack(live_cut[layer])
            node = node.children.setdefault(key, Node(key))
        if node.leaf is None:
            node.leaf = len(distinct)
            distinct.append(i)
        of.append(node.leaf)
        absent = cut if severed is None else cut | severed
        cut = cut if severed is None else cut & ~severed
        empty = absent.all(axis=-1)
        live = np.count_nonzero(live_cut)
        rows.append(
            {
                "condition": condition.name,
                "edges_cut": np.count_nonzero(cut),
                "live_edges_cut": live,
                "rows_fully_cut": np.count_nonzero(empty & cut.any(axis=-1)) if empty.any() else 0,
                "structural_null": live == 0,
                "equivalent_to": conditions[distinct[node.leaf]].name,
            }
        )
    return SweepPlan(root, tuple(distinct), tuple(of), pd.DataFrame(rows))
