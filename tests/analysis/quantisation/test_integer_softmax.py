"""Softmax in whole numbers against Python's integers, and the edges that it removes against a hand count."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emg_lens import cutting, unimodal
from emg_lens.analysis import IntegerSoftmax, quantised, quantised_edges
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 24}
ROUNDINGS = ("floor", "reciprocal")


def built(name="isonet", n_samples=40, **settings):
    torch.manual_seed(0)
    model = build_model(
        name, modalities={"emg": 4, "acc": 3}, n_samples=n_samples, n_classes=3, **{**SMALL, **settings}
    )
    return model.eval()


def by_hand(row, sharpness, rounding):
    """One row in Python's whole numbers."""
    kept = [s for s in row if s > -math.inf]
    if not kept:
        return [0] * len(row)
    e = []
    for s in row:
        if s == -math.inf:
            e.append(0)
            continue
        x = min(0, max(-128, int(np.rint(np.float32(16) * np.float32(s - max(kept))))))
        e.append(int(np.rint(math.exp(sharpness * x / 16) * 2**24)))
    total = sum(e)
    if rounding == "floor":
        return [255 * one // total for one in e]
    inverse = 255 * 2**24 // total
    return [(one * inverse + 2**23) // 2**24 for one in e]


scores = st.one_of(st.just(-math.inf), st.floats(-12, 12, width=32), st.sampled_from([0.0, 0.03125, -0.09375, 1.5]))


@given(st.lists(scores, min_size=1, max_size=40), st.sampled_from([1.0, 4.0, 16.0]), st.sampled_from(ROUNDINGS))
def test_every_row_equals_whole_number_arithmetic(row, sharpness, rounding):
    row = [float(np.float32(s)) for s in row]
    softmax = IntegerSoftmax(sharpness, rounding)
    expected = by_hand(row, sharpness, rounding)
    assert softmax.levels(torch.tensor(row)).tolist() == expected
    assert (255 * softmax(torch.tensor(row))).round().long().tolist() == expected


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_more_than_255_equal_scores_empty_the_row(rounding):
    softmax = IntegerSoftmax(rounding=rounding)
    assert softmax.levels(torch.zeros(255)).tolist() == [1] * 255
    assert softmax.levels(torch.zeros(256)).tolist() == [0] * 256
    with_one_cut = torch.zeros(256)
    with_one_cut[7] = -torch.inf
    assert softmax.levels(with_one_cut).sum() == 255, "a cut edge takes no attention from the others"


@pytest.mark.parametrize("sharpness", [1.0, 16.0])
def test_it_approximates_softmax_of_the_scaled_scores(sharpness):
    s = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    attention = IntegerSoftmax(sharpness)(s)
    # A score is rounded to 1/16, so an exponential is off by a factor of up to exp(sharpness / 32), and so is the sum.
    exact, factor = (sharpness * s).softmax(-1), math.exp(sharpness / 16)
    assert (attention <= exact * factor + 1e-6).all() and (attention >= exact / factor - 1 / 255 - 1e-6).all()


def test_the_published_sizes_of_the_loss():
    """Random scores of standard deviation 0.3 (docs/deployment.md §3)."""
    s = 0.3 * torch.randn(500, 800, generator=torch.Generator().manual_seed(0))
    for n, mass in ((400, 0.95), (800, 0.93)):
        attention = IntegerSoftmax()(s[:, :n])
        assert (attention == 0).float().mean() == pytest.approx(0.975, abs=0.01)
        assert attention.sum(-1).mean() == pytest.approx(mass, abs=0.005)
    assert IntegerSoftmax(rounding="reciprocal")(s[:, :400]).sum(-1).mean() == pytest.approx(0.98, abs=0.005)


def averaging(n_patches, softmax):
    """One head that gives every token the same attention, in a model with one channel."""
    model = build_model(
        "tinymyo", modalities={"emg": 1}, n_samples=2 * n_patches, n_classes=2, patch_samples=2,
        d_model=8, n_heads=1, n_layers=1, d_mlp=8, positions="none",
    ).eval()  # fmt: skip
    for weight in (model.blocks[0].attn.W_Q, model.blocks[0].attn.b_Q):
        weight.data.zero_()
    return quantised(model, None, softmax=softmax)


def test_a_head_that_averages_400_tokens_is_lost():
    lost, kept = (averaging(n, "integer") for n in (400, 200))
    x = lost.example_input(2)
    (row,) = quantised_edges(lost, x).to_dict("records")
    names = ["rounded_to_zero", "rows_emptied", "attention_lost", "distance"]
    assert [row[name] for name in names] == pytest.approx([1, 1, 1, 1])
    _, cache = lost.run_with_cache(x)
    assert (cache["z", 0] == 0).all()
    (row,) = quantised_edges(kept, kept.example_input(2)).to_dict("records")
    assert row["rows_emptied"] == 0 and row["attention_lost"] == pytest.approx(1 - 200 / 255)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_audit_counts_what_numpy_counts(rounding):
    made = quantised(built(), softmax=IntegerSoftmax(rounding=rounding))
    x = made.example_input(8)
    table = quantised_edges(made, x)
    with torch.no_grad():
        _, cache = made.run_with_cache(x)
    for layer in range(2):
        s, a = (cache[name, layer].numpy().astype(float) for name in ("attn_scores", "pattern"))
        softmax = np.exp(s - s.max(-1, keepdims=True))
        softmax /= softmax.sum(-1, keepdims=True)
        row = table.iloc[layer]
        assert row["edges"] == 2 * 8 * 8
        assert row["rounded_to_zero"] == pytest.approx((a == 0).mean())
        assert row["attention_lost"] == pytest.approx(1 - a.sum(-1).mean(), abs=1e-6)
        assert row["rows_emptied"] == (a.sum(-1) == 0).mean()
        lost = np.abs(1 - a.sum(-1))
        assert row["distance"] == pytest.approx(((np.abs(a - softmax).sum(-1) + lost) / 2).mean(), abs=1e-6)
        assert 0 < row["rounding_distance"] < row["distance"]
    parts = pd.concat([quantised_edges(made, one) for one in x.split(1)]).groupby("layer").mean()
    pd.testing.assert_frame_equal(parts.reset_index(), table, check_dtype=False, atol=1e-6)


def test_edges_that_are_cut_already_are_not_counted():
    made = quantised(built(), softmax="integer")
    x = made.example_input(4)
    before = quantised_edges(made, x)
    with cutting(made, unimodal()):
        during = quantised_edges(made, x)
    n_cut = int(unimodal().mask(made.layout, 2, 2)[0].sum())
    assert (before["edges"] - during["edges"] == n_cut).all()


def test_stages_have_their_own_rows_and_other_models_are_refused():
    model = built("hierarchical", patch_samples=10, n_layers=3, n_fusion_layers=1)
    table = quantised_edges(quantised(model, softmax="integer"), model.example_input(2))
    assert list(zip(table["layer"], table["stage"], strict=True)) == [
        (0, "emg"), (1, "emg"), (0, "acc"), (1, "acc"), (2, "fusion"),
    ]  # fmt: skip
    for other in (model, quantised(model)):
        with pytest.raises(ArgumentError, match="has no integer softmax; expected a copy from quantised"):
            quantised_edges(other, model.example_input(2))
    made = quantised(built(), softmax="integer")
    x = made.example_input(4)
    with pytest.raises(ArgumentError, match="x has NaN or infinite values in 1 trials, the first is trial 2"):
        quantised_edges(made, torch.where(torch.arange(4)[:, None, None] == 2, torch.nan, x))
    with pytest.raises(ArgumentError, match=r"x has shape \[\]; expected trials"):
        quantised_edges(made, torch.tensor(1.0))
    with pytest.raises(ArgumentError, match="sharpness=0; expected"):
        IntegerSoftmax(0)
    with pytest.raises(ArgumentError, match="rounding='up'; expected 'floor'"):
        IntegerSoftmax(rounding="up")


def test_a_first_use_inside_an_export_leaves_nothing_behind():
    from torch._subclasses.fake_tensor import FakeTensorMode

    softmax = IntegerSoftmax(sharpness=13.0)  # not used before
    with FakeTensorMode():
        softmax.levels(torch.zeros(2, 3))
    levels = softmax.levels(torch.zeros(2, 3))
    assert type(levels) is torch.Tensor and levels.tolist() == [[85, 85, 85]] * 2
