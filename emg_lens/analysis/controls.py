"""Controls: conditions to compare the effect of a cut with (docs/controls.md §8).

A cut removes what its edges transmit, and attention moves to the edges that are left. Three controls help to separate
the two: random cuts of the same size, superset ablations, and the same cut with the path through CLS closed. If a
superset ablation hurts less, the effect of the smaller cut is not only lost information.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

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
from emg_lens.tables import WholeTable
from emg_lens.validation import checked

SetCount = Annotated[int, Field(ge=0, le=10_000)]
LEAST_TRIES, TRIES_PER_SET = 200, 20
"""Random sets in a row that may fail to match or be known before the search ends: so many, and more for each set."""


@checked
def random_edges(
    model: nn.Module,
    edges: EdgeSet,
    n: SetCount = 20,
    seed: NonNegativeInt = 0,
    layout: TokenLayout | None = None,
    heads: Literal["own", "any"] = "own",
) -> list[EdgeSet]:
    """Choose random edge sets of the same size as a cut.

    Each set has, in every layer and head, as many edges of each kind as the live part of the cut, and all of them stay
    live when the set is cut. The kinds are: edges that CLS reads, edges that read CLS, edges of a token with itself,
    and all others. If the cut is the same in all heads of a layer, so is each set. With `heads="any"`, the numbers of
    edges match in every layer only, and the edges are chosen from all heads of the layer. Unless a set separates tokens
    from the readout, set number i has the same edges in a layer whatever the other layers cut, so that a sweep can
    share their computation.

    All sets differ from each other and from the cut. For models that are not ours, liveness is unknown: every edge
    counts as live, including the edges that a causal mask forbids.

    Args:
        model: The model. Its layers, heads and live edges decide what can be chosen.
        edges: The cut.
        n: Number of sets. If fewer sets exist, all of them are returned; fewer, too, if matching sets are too rare.
        seed: Seed of the random numbers.
        layout: Meaning of the token positions; default `model.layout`.
        heads: Where the edges are chosen: in the `"own"` heads of the cut, or in `"any"` head of the same layer.

    Returns:
        The edge sets.

    Raises:
        EdgeError: The edges do not fit the model, none of them is live, or no other set of this size exists.

    Example:
        >>> from emg_lens import build_model, flow
        >>> from emg_lens.analysis import random_edges
        >>> model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=2,
        ...                     d_model=8, n_heads=2, n_layers=1, d_mlp=8)
        >>> edge_sets = random_edges(model, flow("acc", "cls"), n=3)
        >>> [int(one.mask(model.layout, 1, 2).sum()) for one in edge_sets]  # 2 edges in each of 2 heads, as in the cut
        [4, 4, 4]
        >>> one_head = flow("acc", "cls").at(heads=0)
        >>> [int(one.mask(model.layout, 1, 2).sum()) for one in random_edges(model, one_head, n=3, heads="any")]
        [2, 2, 2]
    """
    target = target_of(model, layout)
    cut = _live_cut(target, edges)
    if heads == "any":
        cut = np.broadcast_to(cut, (len(cut), target.n_heads, *cut.shape[2:]))
    permanent_mask = None if target.permanent_mask is None else target.permanent_mask[:, : cut.shape[1]]
    uncut = reach(torch.zeros(cut.shape, dtype=torch.bool), target.readout, permanent_mask)
    pool = uncut.live_rows[:, None, :, None].expand(cut.shape).numpy()
    absent = np.zeros((len(cut), 1, 1, 1), bool) if permanent_mask is None else permanent_mask.numpy()
    if not cut.any():
        raise EdgeError(f"{edges} cuts no live edge, so no random set can match it; cut edges that reach the readout")
    kinds = [pool & ~absent & kind for kind in _kinds(target.layout)]
    wanted, different, itself, failures = (
        min(n, _count_others(cut, kinds, n, heads == "any")),
        {},
        edges_from_mask(cut),
        0,
    )
    read = np.isin(np.arange(len(target.layout)), target.readout)
    random_sets = (
        _random_set(cut, kinds, absent, read, (seed, number), heads == "any") for number in itertools.count()
    )
    while len(different) < wanted and failures < LEAST_TRIES + TRIES_PER_SET * wanted:
        drawn = next(random_sets)
        one = itself if drawn is None else edges_from_mask(drawn)
        failures = failures + 1 if one == itself or one in different else 0
        if not failures:
            different[one] = None
    if n and not different:
        raise EdgeError(
            f"{edges} cuts all live edges of its kinds (docs/controls.md §8), so no random set of this size exists; cut"
            " fewer edges"
        )
    return [*different]


@checked
def superset_ablations(
    model: nn.Module, conditions: Sequence[Condition], layout: TokenLayout | None = None
) -> pd.DataFrame:
    """Find all pairs of conditions in which one condition cuts all live edges of the other, and more.

    A condition that changes the input is compared only with conditions that change it in the same way. Conditions that
    act inside the model in another way than by cutting edges are left out.

    Args:
        model: The model. Its live edges decide what a condition cuts.
        conditions: The conditions.
        layout: Meaning of the token positions; default `model.layout`.

    Returns:
        One row a pair: the name of a `condition`, and the name of its superset ablation (`superset`).

    Raises:
        EdgeError: Edges do not fit the model, or two conditions have the same name.
    """
    target = target_of(model, layout)
    with_baseline(conditions)  # raises if two conditions have the same name
    planned = [condition for condition in conditions if not condition.in_the_model]
    live = [_live_cut(target, condition.edges) for condition in planned]
    n_heads = max((cut.shape[1] for cut in live), default=1)
    cuts = [np.packbits(np.broadcast_to(cut, (len(cut), n_heads, *cut.shape[2:]))) for cut in live]
    rows = []
    for smaller, few in zip(planned, cuts, strict=True):
        for larger, more in zip(planned, cuts, strict=True):
            inside = smaller.input_changes == larger.input_changes and few.any() and not (few & ~more).any()
            if inside and (more & ~few).any():
                rows.append({"condition": smaller.name, "superset": larger.name})
    return WholeTable(rows, columns=["condition", "superset"])


@checked
def with_cls_path_closed(edges: EdgeSet) -> EdgeSet:
    """Cut, in addition to `edges`, the edges on which other tokens attend to CLS, in every layer.

    A cut between tokens leaves an indirect path: CLS reads a token, and another token reads CLS in the next layer
    (docs/isonet-protocol.md §4.9, item 6). This closes the path.
    """
    return edges | (positions(src=[CLS]) - positions(dest=[CLS]))


def _live_cut(target: Target, edges: EdgeSet) -> Bool[np.ndarray, "layer one_or_head dest src"]:
    """Return the live edges of a cut; for one head if the cut is the same in all heads."""
    mask = edges.mask(target.layout, target.n_layers, target.n_heads)
    some = one_head_for_all(mask, target.permanent_mask)
    permanent_mask = None if target.permanent_mask is None else target.permanent_mask[:, some]
    return reach(mask[:, some], target.readout, permanent_mask).live_cut.numpy()


def _kinds(layout: TokenLayout) -> list[Bool[np.ndarray, "dest src"]]:
    """Return masks of the edges that CLS reads, that read CLS, of a token with itself, and of all others."""
    n = len(layout)
    is_cls = np.array([group == CLS for group in layout.group])
    into, own = np.broadcast_to(is_cls[:, None], (n, n)), np.eye(n, dtype=bool)
    out_of = is_cls[None] & ~into
    return [into, out_of, own & ~into, ~(into | out_of | own)]


def _count_others(
    cut: Bool[np.ndarray, "layer head dest src"],
    kinds: Sequence[Bool[np.ndarray, "layer head dest src"]],
    enough: int,
    any_head: bool,
) -> int:
    """Count the other edge sets that match a cut, up to about `enough`."""
    n_sets = 1
    for layer in np.flatnonzero(cut.any((1, 2, 3))).tolist():
        for heads in _random_heads(cut, kinds, layer, any_head):
            for kind in kinds:
                there, taken = kind[layer, heads], (cut & kind)[layer, heads]
                n_sets *= math.comb(np.count_nonzero(there), np.count_nonzero(taken))
                if n_sets > enough:
                    return n_sets - 1
    return n_sets - 1


def _random_heads(
    cut: Bool[np.ndarray, "layer head dest src"],
    kinds: Sequence[Bool[np.ndarray, "layer head dest src"]],
    layer: int,
    any_head: bool,
) -> list[int | slice]:
    """Return the heads with separate random edges: each head, or only the first if the cut is the same in all.

    With `any_head`, all heads together have one random set, and the only item is a slice.
    """
    if any_head:
        return [slice(None)]
    alike = all((mask[layer] == mask[layer, :1]).all() for mask in (cut, *kinds))
    return [*range(1 if alike else cut.shape[1])]


def _random_set(
    cut: Bool[np.ndarray, "layer head dest src"],
    kinds: Sequence[Bool[np.ndarray, "layer head dest src"]],
    absent: Bool[np.ndarray, "layer head dest src"],
    read: Bool[np.ndarray, " position"],
    seed: tuple[int, int],
    any_head: bool,
) -> Bool[np.ndarray, "layer head dest src"] | None:
    """Choose as many edges of each kind as the cut has, that are live when the whole set is cut; None if too few are.

    The edges chosen in later layers decide which tokens are live in a layer, as in `reach`.
    """
    chosen, live = np.zeros(cut.shape, bool), read
    n = len(live)
    for layer in reversed(range(len(cut))):
        groups = _random_heads(cut, kinds, layer, any_head) if cut[layer].any() else []
        for number, heads in enumerate(groups):
            rng = np.random.default_rng([*seed, layer, number])
            for kind in kinds:
                order = rng.permutation(np.flatnonzero(kind[layer, heads]))
                order, size = order[live[order // n % n]], np.count_nonzero(cut[layer, heads] & kind[layer, heads])
                if len(order) < size:
                    return None
                np.put(chosen[layer, heads], order[:size], True)
        if groups == [0]:
            chosen[layer] = chosen[layer, :1]
        live = live | (~(chosen[layer] | absent[layer]).all(0))[live].any(0)
    return chosen
