"""A model that fails on an input: one line says on what, where, why, and what to do."""

import pytest
import torch
from torch import nn

from emg_lens import Condition, IsoNet, IsoNetConfig, TokenLayout, adapt, cross_modal, cutting, sweep
from emg_lens.hooks import replace
from emg_lens.validation import ArgumentError

X, NAMES = torch.randn(3, 6, 16), list("abcdef")
LAYOUT = TokenLayout.channels({"emg": 4, "acc": 2}, cls=False)
SIZE = "check that the input has the size that the model was built for"
WRAP = r"wrap the model in a class that gives {} \(docs/own-model.md\)$"


class Required(nn.Module):
    """A model that reads signals `[trial, 6, 16]` and the names of their channels."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.embed, self.encoder = nn.Linear(16, 16), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, x, ch_names):
        if ch_names is None:
            raise ValueError("x has 6 channels but ch_names is None.")
        return self.encoder(self.embed(x)).mean(1)


class Optional(Required):
    def forward(self, x, return_features=False, ch_names=None):  # noqa: ARG002
        return super().forward(x, ch_names)


class WithNames(nn.Module):
    """What the message asks for."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x, ch_names=NAMES)


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (
            Required,
            (X[..., :15], NAMES),
            r"inputs\[0\] \[3, 6, 15\], inputs\[1\]: RuntimeError: mat1 and mat2 .* \(in embed, Linear\(in_features=16,"
            rf" .*\)\); {SIZE}$",
        ),
        (Optional, {"x": X[0, 0], "ch_names": NAMES}, rf"x \[16\], ch_names: \w+Error: .* \(in encoder.*\); {SIZE}$"),
        (Required, X, rf"x \[3, 6, 16\]: TypeError: .* argument: 'ch_names'; {WRAP.format('ch_names')}"),
        (Required, {"y": X}, r"y \[3, 6, 16\]: TypeError: .* 'y'; expected the arguments \(x, ch_names\)$"),
        (Optional, X, rf"x \[3, 6, 16\]: ValueError: .* is None; {SIZE}; if it needs ch_names, {WRAP.format('it')}"),
    ],
)
def test_adapt_names_the_input_the_part_and_the_remedy(model, inputs, reason):
    with pytest.raises(ArgumentError, match=f"^{model.__name__} fails on {reason}") as error:
        adapt(model().eval(), inputs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("model", [Required, Optional])
def test_a_wrapped_model_can_be_cut_and_swept(model):
    wrapped = WithNames(model().eval())
    adapted = adapt(wrapped, X)
    with cutting(adapted, cross_modal(), layout=LAYOUT) as report:
        wrapped(X)
    assert report.layers[0].edges_cut == 2 * 2 * 4 * 2
    assert sweep(adapted, X, [Condition("cut", cross_modal())], layout=LAYOUT).audit["max_abs_delta_logit"][1] > 0


def test_reference_trials_that_the_model_cannot_run_are_refused():
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=3, d_model=8, n_heads=2, n_layers=1))
    with pytest.raises(
        ArgumentError, match=r"^IsoNet fails on x \[5, 7, 20\]: TypeError: .*; expected the arguments \(in"
    ):
        replace(model, "acc", by="mean", reference={"x": model.example_input(5)})
