"""Edge sets from masks: round trip through the set and its text, and errors for masks that do not fit."""

import base64
import timeit
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens import IsoNet, IsoNetConfig, cut, cutting, edges_from_mask, unimodal
from emg_lens.hooks import DeadHookError, EdgeError, parse_edges
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), layers=st.sampled_from([1, 3]), heads=st.sampled_from([1, 2]))
def test_a_mask_is_unchanged_by_a_round_trip_through_text(seed, layers, heads):
    mask = np.random.default_rng(seed).random((layers, heads, 6, 6)) < 0.3
    edges = edges_from_mask(mask)
    for same in (edges, parse_edges(str(edges)), edges_from_mask(torch.from_numpy(mask))):
        np.testing.assert_array_equal(same.mask(LAYOUT, 3, 2), np.broadcast_to(mask, (3, 2, 6, 6)))
        assert same == edges and hash(same) == hash(edges)


def test_a_mask_combines_with_other_edge_sets():
    mask = unimodal().mask(LAYOUT, 2, 2)
    left = edges_from_mask(mask[0, 0]) - unimodal()
    assert not left.mask(LAYOUT, 2, 2).any()
    at = edges_from_mask(mask[0, 0]).at(layers=1, heads=0).mask(LAYOUT, 2, 2)
    assert at[1, 0].equal(mask[0, 0]) and at.sum() == mask[0, 0].sum()


def test_it_cuts_the_same_edges_as_the_expression_it_was_made_from():
    model = IsoNet(
        IsoNetConfig(modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=3, d_model=16, n_heads=2)
    ).eval()
    x = model.example_input(4)
    expected = model.run_with_hooks(x, fwd_hooks=cut(model, unimodal()))
    edges = edges_from_mask(unimodal().mask(model.layout, model.cfg.n_layers, 2))
    with cutting(model, edges):
        assert torch.equal(model(x), model(x)) and torch.allclose(model(x), expected, atol=1e-6)


def test_the_text_of_an_older_version_is_the_same_set():
    mask = np.random.default_rng(0).random((1, 1, 40, 40)) < 0.1
    packed = zlib.compress(np.packbits(mask).tobytes(), 9)
    text = f"1x1x40x40:{base64.b64encode(packed).decode()}"
    assert edges_from_mask(text) == edges_from_mask(mask) and text not in str(edges_from_mask(mask))


def test_random_edges_of_many_tokens_are_made_fast():
    """Less than a small part of one forward of a model of this size."""
    mask = np.random.default_rng(0).random((8, 3, 800, 800)) < 0.1
    packed = np.packbits(mask).tobytes()
    best = min(timeit.repeat(lambda: edges_from_mask(mask), number=1, repeat=3))
    assert best < 0.3 * min(timeit.repeat(lambda: zlib.compress(packed, 6), number=1, repeat=1))


def test_a_message_does_not_repeat_a_long_mask():
    model = IsoNet(IsoNetConfig(modalities={"emg": 30, "acc": 30}, n_samples=8, n_classes=3)).eval()
    edges = edges_from_mask(torch.rand(61, 61) < 0.5)
    with pytest.raises(DeadHookError, match="not run inside") as error, cutting(model, edges):
        pass
    assert len(str(edges)) > 500 > len(str(error.value))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((2, 3), bool), "expected booleans"),
        (np.ones((3, 3)), "the mask is float64"),
        (np.ones(3, bool), r"\[3\]"),
        (np.ones((0, 0), bool), "expected booleans"),
        ("1x1x3x3:AAAA", "not the complete text of a mask"),
        ("no mask", "not the complete text of a mask"),
        ("1x1x100000x100000:eNpjYAACAAACAAE=", "not the complete text of a mask"),
    ],
    ids=["not square", "numbers", "one axis", "empty", "damaged", "text", "huge"],
)
def test_an_invalid_mask_is_refused(wrong, message):
    with pytest.raises(EdgeError, match=message):
        edges_from_mask(wrong)


def test_a_truncated_text_is_refused():
    text = str(edges_from_mask(np.random.default_rng(0).random((2, 2, 6, 6)) < 0.5))
    with pytest.raises(EdgeError, match="not the complete text of a mask"):
        parse_edges(text[:-6] + "')")
    with pytest.raises(EdgeError, match="rows of equal length"):
        edges_from_mask([[True], [True, False]])


def test_a_mask_of_another_model_is_refused():
    with pytest.raises(EdgeError, match=r"the mask has shape \[1, 1, 1, 1\]; expected"):
        edges_from_mask(np.ones((1, 1), bool)).mask(LAYOUT, 3, 2)
    with pytest.raises(EdgeError, match=r"the mask has shape \[2, 1, 6, 6\]; expected \[3, 2, 6, 6\]"):
        edges_from_mask(np.ones((2, 1, 6, 6), bool)).mask(LAYOUT, 3, 2)
