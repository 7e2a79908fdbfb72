"""Errors of masked samples: the simple methods by hand, the model from its own output, gaps of each length."""

import matplotlib.figure
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emg_lens.analysis.reconstruction import gap_curve, interpolate, masked_errors, predict_mean, reconstruct
from emg_lens.analysis.reconstruction_figures import plot_gap_curve, plot_reconstruction
from emg_lens.models import build_model
from emg_lens.training.pretraining.masking import masked_samples, random_mask
from emg_lens.validation import ArgumentError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 32, "patch_samples": 10}
    return build_model("tinymyo", modalities={"emg": 3}, n_samples=80, n_classes=0, head="reconstruction", **sizes)


@pytest.fixture(scope="module")
def x():
    return torch.randn(5, 3, 80, generator=torch.Generator().manual_seed(1))


def test_simple_methods_use_the_mean_of_visible_samples_and_straight_lines():
    x = np.array([[[0.0, 1, 2, 3, 4, 9], [5, 5, 5, 5, 5, 5]]])
    hidden = np.zeros_like(x, bool)
    hidden[0, 0, [1, 2, 5]] = True
    assert predict_mean(x, hidden)[0, 0].tolist() == pytest.approx([0, 7 / 3, 7 / 3, 3, 4, 7 / 3])
    assert interpolate(x, hidden)[0, 0].tolist() == [0, 1, 2, 3, 4, 4]  # level at the end
    assert np.array_equal(interpolate(x, hidden)[0, 1], x[0, 1])
    hidden[0, 0] = True
    for fill in (predict_mean, interpolate):
        assert (fill(x, hidden)[0, 0] == 5).all()  # the mean of the other channels
    assert np.isfinite(interpolate(x, np.ones_like(hidden))).all()


def test_a_line_is_interpolated_exactly_and_a_constant_predicted_exactly_by_its_mean(model):
    line = torch.linspace(-1, 1, 80).expand(4, 3, 80).clone()
    errors = gap_curve(model, line, [2], seed=3).query("method == 'interpolation'")["mae"]
    assert errors.min() < 1e-6
    errors = masked_errors(model, torch.full((4, 3, 80), 0.3)).groupby("method")["mse"].max()
    assert errors["mean"] < 1e-12 and errors["interpolation"] < 1e-12 < errors["model"]


def test_errors_cover_masked_samples_only(model, x):
    table = masked_errors(model, x, seed=4, beta=0.5)
    assert set(table["method"]) == {"model", "mean", "interpolation"} and table.notna().all(axis=None)
    masked = torch.from_numpy(np.stack([random_mask(np.ones(24, bool), 0.5, (4, i)) for i in range(5)]))
    with torch.no_grad():
        out = model(x, masked=masked)
    assert torch.allclose(reconstruct(model, x, masked), out, atol=1e-6)
    hidden = masked_samples(masked, 3, 80)
    for row in table.query("method == 'model'").itertuples():
        where = hidden[row.window, row.channel]
        predicted, original = out[row.window, row.channel][where], x[row.window, row.channel][where]
        assert row.smooth_l1 == pytest.approx(F.smooth_l1_loss(predicted, original, beta=0.5).item(), rel=1e-4)
        assert row.mse == pytest.approx(F.mse_loss(predicted, original).item(), rel=1e-4)
        assert row.mae == pytest.approx(F.l1_loss(predicted, original).item(), rel=1e-4)


def test_channels_that_are_not_real_are_neither_masked_nor_scored(model, x):
    real = torch.tensor([[True, False, True]] * 5)
    assert set(masked_errors(model, x, real=real)["channel"]) == {0, 2}
    other = x.clone()
    other[:, 1] = 7
    means = [masked_errors(model, some, real=real).query("method == 'mean'")["mse"].to_numpy() for some in (x, other)]
    assert np.array_equal(*means)


def test_a_gap_has_the_given_length_and_the_same_middle_in_each_window(model, x):
    curve = gap_curve(model, x, fs=200.0)
    assert sorted(set(curve["patches"])) == [1, 2, 4]
    assert curve.query("patches == 4")["seconds"].unique().tolist() == [0.2]
    assert len(curve) == 5 * 3 * 3 and curve.groupby(["patches", "method"])["window"].nunique().eq(5).all()
    assert gap_curve(model, x, [7], all_channels=True)["patches"].unique().tolist() == [7]
    alone, together = (gap_curve(model, x, [3], all_channels=each).query("method == 'mean'") for each in (False, True))
    assert not np.allclose(alone["mse"], together["mse"])


def test_input_that_does_not_fit_is_refused(model, x):
    with pytest.raises(ArgumentError, match="one must stay visible"):
        gap_curve(model, x, [8])
    with pytest.raises(ArgumentError, match="80 samples"):
        masked_errors(model, x[..., :70])
    with pytest.raises(ArgumentError, match="real selects no channel in a window"):
        masked_errors(model, x, real=torch.zeros(5, 3, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="expected torch.bool"):
        masked_errors(model, x, real=torch.ones(5, 2, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="channels 0 to 2"):
        plot_reconstruction(model, x[0], channels=[3])
    with pytest.raises(ArgumentError, match=r"torch.bool \[24\]"):
        plot_reconstruction(model, x[0], masked=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="curve has no rmse"):
        plot_gap_curve(gap_curve(model, x), "rmse")


def test_the_figure_shades_masked_spans_and_shows_the_reconstruction(model, x, tmp_path):
    masked = torch.zeros(24, dtype=torch.bool)
    masked[[1, 2, 8 + 5]] = True  # channel 0: patches 1 and 2; channel 1: patch 5
    figure = plot_reconstruction(model, x[0], channels=[0, 1, 2], masked=masked, fs=200.0)
    assert isinstance(figure, matplotlib.figure.Figure) and [len(a.patches) for a in figure.axes] == [1, 1, 0]
    span = figure.axes[0].patches[0]
    assert (span.get_x(), span.get_width()) == (pytest.approx(0.05), pytest.approx(0.1))
    original, filled = figure.axes[0].lines
    assert np.allclose(original.get_ydata(), x[0, 0])
    out = reconstruct(model, x[:1], masked[None])[0, 0].numpy()
    assert np.allclose(filled.get_ydata()[10:30], out[10:30]) and np.isnan(filled.get_ydata()[30:]).all()
    figure.savefig(tmp_path / "a.png")


def test_the_curve_has_one_line_per_method(model, x, tmp_path):
    curve = gap_curve(model, x, fs=200.0)
    figure = plot_gap_curve(curve, "mae")
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["model", "mean", "interpolation"]
    expected = curve.query("method == 'mean'").groupby("seconds")["mae"].mean()
    assert np.allclose(axis.lines[1].get_xdata(), [0.05, 0.1, 0.2]) and np.allclose(axis.lines[1].get_ydata(), expected)
    figure.savefig(tmp_path / "a.png")
