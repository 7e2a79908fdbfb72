"""The LSTM for discrete gestures: its size, torch's own layers with the same weights, and no look into the future."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from emg_lens.analysis import model_costs
from emg_lens.data import Batch
from emg_lens.errors import EmgLensError
from emg_lens.hooks import cutting, every
from emg_lens.models import LSTMGestures, build_model
from emg_lens.models.encoder import count_parameters
from emg_lens.models.registry import ModelError, architecture
from emg_lens.training import TrainingRecipe, fit, fit_cohort

SIZES = {
    "modalities": {"emg": 2, "acc": 1}, "n_samples": 60, "n_classes": 4, "d_model": 12, "n_lstm_layers": 2,
    "kernel_samples": 9, "stride": 5,
}  # fmt: skip


def make(**changes):
    torch.manual_seed(0)
    return build_model("lstm-gestures", **{**SIZES, **changes}).eval()


def inputs(model, batch: int = 2):
    return 20 * model.example_input(batch, seed=1)


def test_its_size_is_the_published_one():
    with torch.device("meta"):
        model = build_model("lstm-gestures", modalities={"emg": 16}, n_samples=16000, n_classes=9)
    assert count_parameters(model) == 6_482_953 and model.cfg.output_shape == (1598, 9)


@pytest.mark.parametrize("readout", ["each", "mean"])
def test_it_equals_torchs_own_layers(readout):
    model = make(readout=readout).double()
    x, state = inputs(model).double(), model.state_dict()
    with torch.no_grad():
        hidden = F.conv1d(64 * x / (32 + x.abs()), state["front_end.conv.weight"], state["front_end.conv.bias"], 5)
        rows = F.layer_norm(hidden.relu().mT, (12,), state["front_end.norm.weight"], state["front_end.norm.bias"])
        for layer in range(2):  # gates in torch's order: input, forget, cell, output
            w_in, w_state = state[f"lstm.weight_ih_l{layer}"], state[f"lstm.weight_hh_l{layer}"]
            bias = state[f"lstm.bias_ih_l{layer}"] + state[f"lstm.bias_hh_l{layer}"]
            h, c, outputs = torch.zeros(2, 12).double(), torch.zeros(2, 12).double(), []
            for row in rows.unbind(1):
                i, f, g, o = (row @ w_in.T + h @ w_state.T + bias).chunk(4, dim=1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                outputs.append(h)
            rows = torch.stack(outputs, 1)
        rows = F.layer_norm(rows, (12,), state["norm.weight"], state["norm.bias"])
        rows = rows if readout == "each" else rows.mean(1)
        expected = F.linear(rows, state["classifier.weight"], state["classifier.bias"])
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
        assert model(x).shape[1:] == model.cfg.output_shape


@settings(max_examples=15, deadline=None)
@given(step=st.integers(0, 10), seed=st.integers(0, 99))
def test_no_output_depends_on_samples_after_its_step(step, seed):
    model = make()
    x = inputs(model)
    first, every_samples = model.cfg.step_grid
    later = x.clone()
    after = first + every_samples * step + 1
    later[..., after:] += 50 * torch.randn(x[..., after:].shape, generator=torch.Generator().manual_seed(seed))
    moved = (model(later) - model(x)).abs().amax((0, 2))
    assert moved[: step + 1].sum() == 0 and (step > 9 or (moved[step + 1 :] > 0).all())


def test_it_has_no_attention_and_says_so():
    model = make()
    assert (model.cfg.n_layers, model.cfg.n_heads, len(model.layout)) == (0, 0, 3)
    with pytest.raises(EmgLensError, match="LSTMGestures has no attention that can be cut"), cutting(model, every()):
        model(inputs(model))


def test_hook_points_are_live_and_files_give_the_same_model(tmp_path):
    model = make()
    x = inputs(model)
    silent = model.run_with_hooks(x, fwd_hooks=[("hook_state", lambda value, hook: torch.zeros_like(value))])
    torch.testing.assert_close(silent, model.classifier.bias.expand(2, 11, 4))
    model.save_pretrained(tmp_path)
    again = LSTMGestures.from_pretrained(tmp_path)
    assert torch.equal(again(x), model(x)) and again.cfg == model.cfg
    with pytest.raises(ModelError, match="gives an output at every time step"):
        _ = architecture("lstm-gestures").default_objective


def test_all_its_operations_are_counted():
    model = make()
    (costs,) = model_costs({"lstm": model}, seconds=0.001).to_dict("records")
    assert costs["flops"] == 2 * 11 * (
        3 * 9 * 12 + 2 * 8 * 12 * 12 + 12 * 4
    )  # convolution, two LSTM layers, linear map
    assert torch.backends.mkldnn.enabled


def test_it_learns_and_is_fitted_one_by_one():
    x, y = torch.randn(32, 3, 60, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2
    x[y == 1, 0, 30:] *= 40
    model, batch = make(readout="mean", n_classes=2).train(), Batch(x, y)
    table = fit(model, batch, TrainingRecipe(epochs=30, lr=1e-2))
    assert table["loss"].iloc[-1] < 0.2 < table["loss"].iloc[0]
    with pytest.raises(EmgLensError, match="cannot map a training step of LSTMGestures; fit the models one by one"):
        fit_cohort([model, make(readout="mean", n_classes=2)], [batch, batch], TrainingRecipe(epochs=1))


def test_dropout_acts_in_training_alone_and_after_the_front_end():
    model = make(n_lstm_layers=1, dropout=0.5)
    x = inputs(model)
    assert torch.equal(model(x), make(n_lstm_layers=1)(x)) and isinstance(model.lstm, nn.LSTM)
    assert not torch.equal(model.train()(x), model(x))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_samples": 8}, "n_samples=8 is too short for one time step; expected at least kernel_samples=9"),
        ({"readout": "cls"}, "readout='cls'"),
        ({"n_lstm_layers": 0}, "n_lstm_layers=0"),
        ({"dropout": 1.0}, "dropout=1.0; expected a number less than 1"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(changes, match):
    with pytest.raises(ModelError, match=match) as error:
        make(**changes)
    assert "\n" not in str(error.value)
