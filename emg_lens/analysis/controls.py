"""Controls: conditions that say what the cost of another one is worth (docs/controls.md §8).

A cut takes away what its edges brought, and moves attention to the edges that are left. Beside its price stand that of
as many other edges, chosen at random; that of larger cuts: where one costs less, the model can do without more than the
smaller one took, so not all of that one's price is information that only its edges bring; and that of the same cut with
a detour closed.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from pydantic import Field, NonNegativeInt
from torch import nn

from emg_lens.hooks import EdgeError, EdgeSet, edges_from_mask, positions
from emg_lens.layout import CLS, TokenLayout
from emg_lens.sweeps.conditions import Condition, with_baseline
from emg_lens.sweeps.live_edges import one_head_for_all, reach
from emg_lens.sweeps.target import Target, target_of
from emg_lens.validation import checked

Draws = Annotated[int, Field(ge=0, le=10_000)]


@checked
def random_edges(
    model: nn.Module, edges: EdgeSet, n: Draws = 20, seed: NonNegativeInt = 0, layout: TokenLayout | None = None
) -> list[EdgeSet]:
    """Random edge sets that match a cut: in every layer and head as many live edges of each kind as it cuts of those.

    The kinds are what CLS reads, what reads CLS, a token's edge with itself, and all others: an edge into CLS is not
    worth one between two channels. Edges are drawn from those that are live in the unmasked model. Where the cut is the
    same in all heads of a layer so is the draw: an edge that stays open in one head is not cut. The same draw takes the
    same edges in a layer whatever else is cut, so that draws of nested cuts share their prefixes in a sweep. What is
    live is known of our encoders; of every other model each edge counts as live, also one that a causal mask forbids.
    No draw is the cut itself, and no two are the same.

    Args:
        model: The model, for its layers, its heads and its live edges.
        edges: The cut.
        n: Draws; where so many sets of edges do not exist, each of those that do is drawn.
        seed: Of the draws.
        layout: What the positions stand for; default `model.layout`.

    Raises:
        EdgeError: Edges that do not fit the model, that are all dead, or that leave no other edge to draw.
    """
    target = target_of(model, layout)
    cut = _live_cut(target, edges)
    permanent_mask = None if target.permanent_mask is None else target.permanent_mask[:, : cut.shape[1]]
    uncut = reach(torch.zeros(cut.shape, dtype=torch.bool), target.readout, permanent_mask)
    pool = uncut.live_rows[:, None, :, None].expand(cut.shape).numpy()
    pool = pool if permanent_mask is None else pool & ~permanent_mask.numpy()
    if not cut.any():
        raise EdgeError(f"{edges} cuts no live edge, so there is nothing to match")
    kinds = [pool & kind for kind in _kinds(target.layout)]
    wanted = min(n, _count_others(cut, kinds, n))
    if not wanted and n:
        raise EdgeError(f"{edges} cuts every live edge of the kinds that it cuts, so there is no other edge to draw")
    found, itself = {}, edges_from_mask(cut)
    draws = (edges_from_mask(_draw(cut, kinds, (seed, draw))) for draw in itertools.count())
    while len(found) < wanted:
        drawn = next(draws)
        if drawn != itself:
            found[drawn] = None
    return [*found]


@checked
def superset_ablations(
    model: nn.Module, conditions: Sequence[Condition], layout: TokenLayout | None = None
) -> pd.DataFrame:
    """All pairs of conditions of which one cuts all live edges that the other cuts, and more.

    Conditions that do something else to the model than cutting edges are compared with those that do the same to its
    input, and with no other where they act inside it.

    Returns:
        One row a pair: `condition` and `larger`, the names.

    Raises:
        EdgeError: Edges that do not fit the model, or conditions that share a name.
    """
    target = target_of(model, layout)
    with_baseline(conditions)  # which refuses two of one name
    planned = [condition for condition in conditions if not condition.in_the_model]
    live = [_live_cut(target, condition.edges) for condition in planned]
    n_heads = max((cut.shape[1] for cut in live), default=1)
    cuts = [np.packbits(np.broadcast_to(cut, (len(cut), n_heads, *cut.shape[2:]))) for cut in live]
    rows = []
    for smaller, mine in zip(planned, cuts, strict=True):
        for larger, theirs in zip(planned, cuts, strict=True):
            inside = smaller.input_changes == larger.input_changes and mine.any() and not (mine & ~theirs).any()
            if inside and (theirs & ~mine).any():
                rows.append({"condition": smaller.name, "larger": larger.name})
    return pd.DataFrame(rows, columns=["condition", "larger"])


@checked
def with_cls_path_closed(edges: EdgeSet) -> EdgeSet:
    """The edges, and those by which other tokens read CLS, in every layer.

    With CLS exempt, what a cut keeps from passing between tokens still passes through CLS, layer by layer
    (docs/isonet-protocol.md §4.9, item 6).
    """
    return edges | (positions(src=[CLS]) - positions(dest=[CLS]))


def _live_cut(target: Target, edges: EdgeSet) -> Bool[np.ndarray, "layer one_or_head dest src"]:
    """The live edges of a cut; of one head, where all are cut alike."""
    mask = edges.mask(target.layout, target.n_layers, target.n_heads)
    some = one_head_for_all(mask, target.permanent_mask)
    permanent_mask = None if target.permanent_mask is None else target.permanent_mask[:, some]
    return reach(mask[:, some], target.readout, permanent_mask).live_cut.numpy()


def _kinds(layout: TokenLayout) -> list[Bool[np.ndarray, "dest src"]]:
    """What CLS reads, what reads CLS, self-edges, and all others."""
    n = len(layout)
    is_cls = np.array([group == CLS for group in layout.group])
    into, own = np.broadcast_to(is_cls[:, None], (n, n)), np.eye(n, dtype=bool)
    out_of = is_cls[None] & ~into
    return [into, out_of, own & ~into, ~(into | out_of | own)]


def _count_others(
    cut: Bool[np.ndarray, "layer head dest src"], kinds: Sequence[Bool[np.ndarray, "layer head dest src"]], enough: int
) -> int:
    """How many other sets of edges match a cut; not counted on where there are `enough`."""
    found = 1
    for layer in np.flatnonzero(cut.any((1, 2, 3))).tolist():
        for head in _drawn_heads(cut, kinds, layer):
            for kind in kinds:
                there, taken = kind[layer, head], (cut & kind)[layer, head]
                found *= math.comb(np.count_nonzero(there), np.count_nonzero(taken))
                if found > enough:
                    return found - 1
    return found - 1


def _drawn_heads(
    cut: Bool[np.ndarray, "layer head dest src"], kinds: Sequence[Bool[np.ndarray, "layer head dest src"]], layer: int
) -> range:
    """The heads of a layer that are drawn for: one, where all are cut alike."""
    alike = all((mask[layer] == mask[layer, :1]).all() for mask in (cut, *kinds))
    return range(1 if alike else cut.shape[1])


def _draw(
    cut: Bool[np.ndarray, "layer head dest src"],
    kinds: Sequence[Bool[np.ndarray, "layer head dest src"]],
    seed: tuple[int, int],
) -> Bool[np.ndarray, "layer head dest src"]:
    """As many live edges of each kind as are cut, layer by layer: the same in all heads where the cut is."""
    drawn = np.zeros(cut.shape, bool)
    for layer in np.flatnonzero(cut.any((1, 2, 3))).tolist():
        heads = _drawn_heads(cut, kinds, layer)
        for head in heads:
            rng = np.random.default_rng([*seed, layer, head])
            for kind in kinds:
                order = rng.permutation(np.flatnonzero(kind[layer, head]))
                np.put(drawn[layer, head], order[: np.count_nonzero((cut & kind)[layer, head])], True)
        if len(heads) == 1:
            drawn[layer] = drawn[layer, :1]
    return drawn
