"""The check of causality: against the Jacobian of torch, on strides and look-ahead, on our models."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from zoo.tiny_models import plain_native

from emg_lens import EncoderConfig, HookedBiosignalEncoder, build_model
from emg_lens.analysis import check_model
from emg_lens.analysis.model_checks.causality import last_samples
from emg_lens.analysis.model_checks.probed_model import ProbedModel
from emg_lens.data import OutputSteps


def finding(model: nn.Module, x: Tensor, **options):
    return check_model(model.eval(), x, checks=["causal"], **options).findings["causal"]


class Steps(nn.Module):
    """A convolution over padded input: [batch, channel, time] -> [batch, step, class]."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.pads = (before, after)
        self.conv = nn.Conv1d(2, 3, before + after + 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pad(x, self.pads)).transpose(1, 2)


@given(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3))
def test_a_convolution_is_causal_without_look_ahead(before, after, stride):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 18)
    found = finding(Steps(before, after, stride), x, causal=True, steps=OutputSteps(first=0, every=stride))
    assert (found.verdict == "pass") == (after == 0), found.sentence
    ahead = finding(Steps(before, after, stride), x, causal=True, steps=OutputSteps(first=after, every=stride))
    assert ahead.verdict == "pass" and ahead.number == 0


class Attends(nn.Module):
    def __init__(self, mask: Tensor | None = None, causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2)
        return self.attn(tokens, tokens, tokens, attn_mask=self.mask)[0]


def leaky_mask(n: int, dest: int, src: int) -> Tensor:
    mask = torch.ones(n, n, dtype=torch.bool).triu(1)
    mask[dest, src] = False
    return mask


def test_the_leak_is_where_the_jacobian_of_torch_is_not_zero():
    n = 8
    model = Attends(leaky_mask(n, dest=2, src=6)).eval()
    x = torch.randn(1, 4, n)
    influence = jacobian(model, x)[0].abs().sum((1, 2, 3))  # [step, sample]
    leaks = influence.triu(1).nonzero().tolist()
    assert leaks == [[2, 6]]
    found = finding(model, x, causal=True)
    assert found.verdict == "fail" and found.sentence.startswith("step 2 may read samples up to 2, and changes by ")
    assert finding(Attends(leaky_mask(n, 6, 2)), x, causal=True).verdict == "pass"


def test_bidirectional_attention_and_a_norm_over_time_are_not_causal():
    x = torch.randn(2, 4, 10)
    assert finding(Attends(), x, causal=True).verdict == "fail"

    class Normed(Steps):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True))

    assert finding(Normed(2, 0), torch.randn(2, 2, 10), causal=True).verdict == "fail"


def test_recurrent_networks():
    class Recurrent(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True, bidirectional=both)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0]

    x = torch.randn(2, 9, 3)  # [batch, time, feature]
    assert finding(Recurrent(False), x, causal=True, time_axis=1).verdict == "pass"
    assert finding(Recurrent(True), x, causal=True, time_axis=1).verdict == "fail"


def test_other_axes():
    x = torch.randn(2, 2, 12)
    model = nn.Conv1d(2, 3, 3)  # [batch, class, step]
    steps = OutputSteps(first=2, every=1)
    assert finding(model, x, causal=True, steps=steps, step_axis=2).verdict == "pass"
    assert finding(model, x, causal=True, steps=OutputSteps(1, 1), step_axis=-1).verdict == "fail"


def test_without_a_claim_nothing_is_checked():
    assert finding(Attends(), torch.randn(2, 4, 6)).verdict == "not applicable"
    model = build_model("tinymyo-gestures", modalities={"emg": 2}, n_samples=100, n_classes=2, d_model=24, n_heads=3)
    assert finding(model, model.example_input(2), causal=False).verdict == "not applicable"


SMALL = {"d_model": 24, "n_heads": 3, "n_layers": 2, "d_mlp": 16}


@pytest.mark.parametrize("modalities", [{"emg": 3}, {"emg": 2, "acc": 1}])
def test_our_causal_model_reads_what_its_front_end_says(modalities):
    model = build_model("tinymyo-gestures", modalities=modalities, n_samples=121, n_classes=2, **SMALL)
    x = model.example_input(2)
    assert finding(model, x).verdict == "pass"
    first, every = model.cfg.step_grid
    n = model.cfg.n_patches
    expected = torch.tensor([first + every * k for k in range(n)] * len(modalities))
    assert torch.equal(last_samples(ProbedModel(model, x), n * len(modalities), 121), expected)
    if len(modalities) == 1:
        assert finding(model, x, steps=OutputSteps(first - 1, every)).verdict == "fail"
    bidirectional = build_model(
        "tinymyo-gestures", modalities=modalities, n_samples=121, n_classes=2, attention_dir="bidirectional", **SMALL
    )
    assert finding(bidirectional, x).verdict == "not applicable"
    assert finding(bidirectional, x, causal=True).verdict == "fail"


def test_our_recurrent_model_claims_causality_and_keeps_it():
    sizes = {"modalities": {"emg": 3}, "n_samples": 121, "n_classes": 2, "d_model": 12}
    model = build_model("lstm-gestures", **sizes)
    x = model.example_input(2)
    assert finding(model, x).verdict == "pass"
    first, every = model.cfg.step_grid
    assert finding(model, x, steps=OutputSteps(first - 1, every)).verdict == "fail"
    whole = build_model("lstm-gestures", readout="mean", **sizes)
    assert finding(whole, x).verdict == "not applicable"


def test_the_residual_front_end_reads_ahead_of_its_middle():
    """Convolutions of width 3 on both sides: docs of `ResidualConv.step_grid` say by how much."""
    sizes = {"n_samples": 64, "n_classes": 2, "front_end": "residual", "n_halvings": 2, "attention_dir": "causal"}
    model = build_model("tinymyo-gestures", modalities={"emg": 2}, **sizes, **SMALL)
    x = model.example_input(2)
    assert finding(model, x).verdict == "fail"
    ahead = 3 * (2**2 - 1)
    assert finding(model, x, steps=OutputSteps(ahead, 4)).verdict == "pass"


def test_causal_patches_with_cls():
    """CLS may read everything; patches of a channel may read up to their own end."""
    sizes = {"n_samples": 40, "n_classes": 0, "patch_samples": 10, "attention_dir": "causal", "readout": "none"}
    model = HookedBiosignalEncoder(EncoderConfig({"emg": 2}, **sizes, **SMALL))
    x = model.example_input(2)
    assert last_samples(ProbedModel(model, x), 9, 40).tolist() == [39] + [9, 19, 29, 39] * 2
    assert finding(model, x).verdict == "pass"


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_models_of_transformer_lens(direction):
    model = plain_native(direction)
    tokens = torch.randint(5, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    assert finding(model, tokens).verdict == "not applicable"
    assert finding(model, tokens, causal=True).verdict == ("pass" if direction == "causal" else "fail")
