import math
import operator
from functools import reduce
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import RandomEdges, as_tuples

from emg_lens.errors import EmgLensError
from emg_lens.hooks import (
    EdgeError,
    cls_edges,
    cross_modal,
    every,
    flow,
    lag,
    none,
    positions,
    same_channel,
    same_patch,
    self_edges,
    unimodal,
)
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.patches({"emg": 2, "acc": 1}, n_patches=2, cls=True)
L, H, T = 3, 2, len(LAYOUT)
randoms = st.randoms(use_true_random=False)


def meant(edges):
    return as_tuples(edges.mask(LAYOUT, L, H))


@settings(max_examples=300, deadline=None)
@given(randoms)
def test_every_expression_selects_the_edges_that_it_describes(rng: Random):
    edges, expected = RandomEdges(rng, LAYOUT, L, H).draw()
    assert meant(edges) == expected


@settings(max_examples=100, deadline=None)
@given(randoms)
def test_the_operators_obey_the_laws_of_sets(rng: Random):
    draw = RandomEdges(rng, LAYOUT, L, H)
    (a, _), (b, _), (c, _) = draw.draw(2), draw.draw(2), draw.draw(2)
    assert meant(a | b) == meant(b | a)
    assert meant(a & (b | c)) == meant((a & b) | (a & c))
    assert meant(~(a | b)) == meant(~a & ~b)
    assert meant(a - b) == meant(a & ~b)
    assert meant(~~a) == meant(a)
    assert meant(a | none()) == meant(a) == meant(a & every())
    assert meant((a | b).at(layers=1)) == meant(a.at(layers=1) | b.at(layers=1))


def test_cls_edges_are_what_cls_reads_and_what_reads_it():
    into_or_out = {(d, s) for d in range(T) for s in range(T) if (d == 0) != (s == 0)}
    assert {edge[2:] for edge in meant(cls_edges())} == into_or_out
    everything = unimodal() | cross_modal() | cls_edges() | self_edges()
    assert meant(everything) == meant(every())
    with pytest.raises(EdgeError, match=r"cls_edges\(\) needs a CLS token; the layout has only the groups \['emg'\]"):
        cls_edges().mask(TokenLayout.channels({"emg": 2}, cls=False), 1, 1)


def test_cls_edges_are_neither_unimodal_nor_cross_modal():
    touched = {edge for edge in meant(unimodal() | cross_modal()) if 0 in edge[2:]}
    assert touched == set()
    assert {edge[2:] for edge in meant(flow("cls", "acc"))} == {(5, 0), (6, 0)}


def test_unimodal_and_cross_modal_and_cls_edges_partition_all_edges():
    around_cls = positions(dest=[0]) | positions(src=[0])
    parts = [meant(unimodal()), meant(cross_modal()), meant(around_cls)]
    assert sum(map(len, parts)) == L * H * T * T == len(set.union(*parts))


def test_unimodal_holds_self_edges():
    assert all((0, 0, t, t) in meant(unimodal()) for t in range(1, T))


def test_a_flow_runs_from_src_to_dest_so_dest_reads_src():
    mask = flow("emg", "acc").mask(LAYOUT, L, H)
    assert mask[0, 0, 5, 1] and not mask[0, 0, 1, 5]


def test_a_lag_counts_patches_back_from_dest():
    assert {(d, s) for _, _, d, s in meant(lag(1, 1) & same_channel())} == {(2, 1), (4, 3), (6, 5)}


def test_edge_sets_are_values():
    assert flow("emg", "acc") == flow("emg", "acc") != flow("acc", "emg")
    assert hash(unimodal() | none()) == hash(unimodal() | none())
    assert (unimodal() | none()) != (unimodal() & none())
    assert cross_modal().at(layers=[2, 0]) == cross_modal().at(layers=(0, 2, 2))
    with pytest.raises(AttributeError):
        flow("emg", "acc").src = "acc"  # pyright: ignore


def test_tensors_and_numpy_integers_count_as_positions_and_layers():
    from_tensor = positions(dest=LAYOUT.positions("acc"), src=np.arange(2)).at(layers=np.int64(1))
    assert from_tensor == positions(dest=[5, 6], src=[0, 1]).at(layers=[1])


def test_the_mask_is_boolean_and_of_full_shape():
    mask = every().at(heads=1).mask(LAYOUT, L, H)
    assert mask.dtype == torch.bool and mask.shape == (L, H, T, T)
    assert mask[:, 1].all() and not mask[:, 0].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unimodal("gyro"), r"unknown modality 'gyro'; the layout has \['emg', 'acc'\]"),
        (lambda: unimodal("cls"), r"use flow"),
        (lambda: cross_modal("emg"), r"names one modality; name two or more"),
        (lambda: cross_modal("emg", "emg"), r"names a modality twice"),
        (lambda: flow("emg", "gyro"), r"unknown group or token 'gyro'"),
        (lambda: flow("emg.7", "acc"), r"unknown group or token 'emg.7'"),
        (
            lambda: positions(dest=[T]),
            rf"unknown position {T}; the layout has positions 0 to {T - 1}",
        ),
        (lambda: positions(src=[-T - 1]), r"unknown position -8"),
        (lambda: positions(dest=[]), r"selects nothing"),
        (lambda: positions(dest=[1.5]), r"integers or token names"),
        (lambda: positions(dest=[True]), r"integers or token names"),
        (lambda: lag(2, 1), r"low <= high"),
        (lambda: lag(0.5, 1), r"integers"),
        (lambda: every().at(layers=L), r"unknown layer 3; the model has layers 0 to 2"),
        (lambda: every().at(heads=-H - 1), r"unknown head -3"),
        (lambda: every().at(layers=[]), r"layers=\[\] selects nothing"),
        (lambda: every().at(layers=slice(5, 9)), r"selects none of the 3 layers"),
        (lambda: every().at(layers=slice(0, 2, 0)), r"step"),
        (lambda: every().at(layers=1.5), r"expected integers"),
        (lambda: every().at(layers="1"), r"expected integers"),
        (lambda: every().at(heads=[True]), r"expected integers"),
        (lambda: every().at(layers=np.array([True, False, True])), r"got True; expected integers"),
        (lambda: every().at(layers=torch.tensor([True])), r"got True; expected integers"),
        (lambda: every().at(layers=[math.inf]), r"expected integers"),
        (lambda: every().at(layers=np.array([1.0])), r"expected integers"),
        (lambda: every().at(layers=slice(True, 2)), r"expected a slice of integers"),
        (lambda: every().at(layers=range(10**22)), r"no model has so many"),
        (lambda: every().at(layers=10**22), r"expected integers"),
        (lambda: positions(range(10**9)), r"no model has so many"),
        (lambda: positions(range(10**22)), r"no model has so many"),
        (lambda: positions(math.nan), r"integers or token names"),
        (lambda: positions(b"ab"), r"integers or token names"),
        (lambda: positions({"emg": 1}), r"integers or token names"),
        (lambda: positions(object()), r"integers or token names"),
        (lambda: positions(np.array([[1]])), r"integers or token names"),
        (lambda: positions([10**5000]), r"a number|number of"),
        (lambda: lag(0, 10**30), r"integers"),
        (lambda: unimodal("a" * 10**7), r"unknown modality"),
        (lambda: unimodal(3), r"expected names in quotes"),
        (lambda: flow(1, "acc"), r"name"),
    ],
)
def test_unknown_names_and_indices_are_refused_with_the_known_ones(make, message):
    with pytest.raises(EdgeError, match=message) as error:
        make().mask(LAYOUT, L, H)
    assert len(str(error.value)) < 2000 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "sizes", [("x", L, H), (LAYOUT, -1, H), (LAYOUT, 2.5, H), (LAYOUT, L, "2"), (LAYOUT, 10**9, 10**9)]
)
def test_a_mask_is_of_a_layout_and_of_sizes(sizes):
    with pytest.raises(EmgLensError, match="mask: "):
        every().mask(*sizes)


def test_a_deeply_nested_edge_set_is_refused():
    with pytest.raises(EdgeError, match="nested operators"):
        reduce(operator.or_, [none()] * 5000)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (same_channel(), "needs tokens with a channel"),
        (same_patch(), "needs tokens with a patch"),
        (lag(0, 1), "needs tokens with a patch"),
        (cross_modal(), "needs at least two modalities"),
    ],
)
def test_a_layout_without_channels_patches_or_modalities_is_refused(edges, message):
    layout = TokenLayout.groups({"word": [1, 2]}, n_tokens=4)
    with pytest.raises(EdgeError, match=message):
        edges.mask(layout, L, H)


def test_an_edge_set_combines_only_with_edge_sets():
    with pytest.raises(TypeError, match="got 'acc'"):
        unimodal() | "acc"  # pyright: ignore


def test_self_edges_include_cls():
    assert (0, 0, 0, 0) in meant(self_edges())


@pytest.mark.parametrize(
    "write", [lambda: unimodal() and cross_modal(), lambda: not unimodal(), lambda: 0 or unimodal() or 1]
)
def test_and_or_not_are_refused(write):
    with pytest.raises(EdgeError, match=r"unimodal\(\) has no truth value; combine edge sets with \| & ~"):
        write()
