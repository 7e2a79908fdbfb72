"""What does not fit a model is refused in one line, before many conditions run."""

import pytest
import torch
from torch import nn

from emg_lens import Condition, TokenLayout, adapt, attribute, cross_modal, find_circuit, sweep
from emg_lens.hooks import EdgeError
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps.engine import audit
from emg_lens.sweeps.result import SweepError
from emg_lens.sweeps.settings import SweepInputError
from emg_lens.validation import ArgumentError

LAYOUT = TokenLayout.channels({"emg": 4, "acc": 3}, cls=False)
LONGER = TokenLayout.channels({"emg": 4, "acc": 3})
CONDITIONS = [Condition("cut", cross_modal())]


class Attention(nn.Module):
    """Attention whose number of heads can be changed."""

    def __init__(self):
        super().__init__()
        self.n_heads, self.qkv = 2, nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)


class Classifier(nn.Module):
    """Seven channels of ten samples; four classes."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.head, self.runs = nn.Linear(10, 8), Attention(), nn.Linear(8, 4), []

    def forward(self, x):
        self.runs.append(len(x))
        tokens = self.embed(x)
        tokens = tokens + self.attention(tokens)
        return self.head(tokens.mean(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return adapt(Classifier().eval(), torch.randn(2, 7, 10))


@pytest.fixture
def x():
    return torch.randn(6, 7, 10)


Y = torch.arange(6) % 4


@pytest.mark.parametrize("method", ["shared_gates", "attention", "rollout", "first_order", "contexts", "cut"])
def test_an_attribution_with_a_layout_of_another_length_is_refused_before_it_runs(model, x, method):
    model.original_model.runs.clear()
    with pytest.raises(EdgeError, match=r"blocks.0.attn.* has shape \[2, 2, 7, 7\].*but the layout has 8 positions"):
        attribute(model, x, Y, by="modality", method=method, layout=LONGER)
    assert model.original_model.runs == [2]


def test_sweeps_circuits_and_audits_with_a_layout_of_another_length_are_refused(model, x):
    for call in (
        lambda: sweep(model, x, CONDITIONS, layout=LONGER),
        lambda: find_circuit(model, x, Y, by="modality", layout=LONGER),
    ):
        with pytest.raises(EdgeError, match="but the layout has 8 positions"):
            call()
    with pytest.raises(EdgeError, match="the layout has 8 positions, but the attention of Classifier has 7 with the"):
        audit(model, cross_modal(), layout=LONGER)
    assert audit(model, cross_modal(), layout=LAYOUT)["edges_cut"].tolist() == [2 * 2 * 4 * 3]


def test_a_sweep_of_other_sequence_lengths_than_the_inputs_of_adapt_runs():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = adapt(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(2, 5, 8))
    result = sweep(model, torch.randn(3, 7, 8), CONDITIONS, layout=LAYOUT)
    assert result.logits["cut"].shape == (3, 7, 8)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        (lambda x: x.double(), "x is torch.float64, the parameters are torch.float32; pass x.to"),
        (lambda x: x.long(), "x is torch.int64, the parameters are torch.float32; pass x.to"),
        (lambda x: x[..., :9], "RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_a_model_that_fails_without_interventions_stops_the_sweep_with_this_error_alone(model, x, wrong, reason):
    for call in (
        lambda: sweep(model, wrong(x), CONDITIONS, layout=LAYOUT),
        lambda: attribute(model, wrong(x), Y, by="modality", layout=LAYOUT),
    ):
        with pytest.raises(SweepInputError, match=f"^Classifier fails on x .*, without any intervention: {reason}"):
            call()


def test_a_failing_baseline_of_one_of_our_models_is_no_failed_condition():
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=10, n_classes=4, d_model=8, n_heads=2, n_layers=1))

    def broken(*_):
        raise RuntimeError("no such kernel")

    model.unembed.register_forward_pre_hook(broken)
    with pytest.raises(SweepInputError, match="^IsoNet fails on x .*: RuntimeError: no such kernel") as caught:
        sweep(model, model.example_input(4), CONDITIONS, executor="loop")
    assert not isinstance(caught.value, SweepError)


@pytest.mark.parametrize(
    "y, output, message",
    [
        (Y + 9, None, "y runs from 9 to 12; expected 0 to 3"),
        (Y - 1, None, "y runs from -1 to 2; expected 0 to 3"),
        (Y, lambda o: o[:, :2], "y runs from 0 to 3; expected 0 to 1"),
        (Y, lambda o: o[:, None], r"outputs have shape \[2, 1, 4\]; accuracy needs class logits"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused_before_the_first_condition(model, x, y, output, message):
    model.original_model.runs.clear()
    with pytest.raises(ArgumentError, match=message):
        sweep(model, x, CONDITIONS, layout=LAYOUT, y=y, output=output)
    assert model.original_model.runs == [2]
    ours = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=10, n_classes=4, d_model=8, n_heads=2, n_layers=1))
    with pytest.raises(ArgumentError, match=message):
        sweep(ours, x, CONDITIONS, y=y, output=output)


def test_outputs_with_trials_in_the_second_axis_are_refused_for_as_many_trials_as_classes(model, x):
    with pytest.raises(ArgumentError, match=r"is \[4, 2\].*one row per trial"):
        sweep(model, x[:4], CONDITIONS, layout=LAYOUT, output=lambda o: o.T)


@pytest.mark.parametrize("n_heads", [1, 4])
def test_a_changed_number_of_heads_is_refused(model, x, n_heads):
    model.original_model.attention.n_heads = n_heads
    for call in (
        lambda: sweep(model, x, CONDITIONS, layout=LAYOUT),
        lambda: attribute(model, x, Y, by="modality", layout=LAYOUT),
    ):
        with pytest.raises(
            EdgeError, match=f"has n_heads={n_heads}, but had 2 when it was adapted; .* call adapt again"
        ):
            call()


def test_a_replaced_layer_is_refused_before_the_baseline(model, x):
    model.original_model.attention = Attention()
    with pytest.raises(EdgeError, match="attention of Classifier was moved, replaced or removed after adapt"):
        sweep(model, x, CONDITIONS, layout=LAYOUT)
