"""Adapted models that are used in another way than they were adapted for, and what their reports and errors say."""

import pytest
import torch
from torch import nn

from emg_lens import Condition, CutMLP, TokenLayout, adapt, cross_modal, cutting, sweep
from emg_lens.hooks import EdgeError
from emg_lens.hooks.evaluation import has_active_dropout
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.registry import UnknownNameError
from emg_lens.validation import ArgumentError

LAYOUT = TokenLayout.channels({"emg": 2, "acc": 2}, cls=False)
SENTENCE = "the model ran in training mode with dropout, so two runs differ; call model.eval() first"


def adapted(dropout=0.1):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
    return adapt(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 4, 8))


@pytest.mark.parametrize("dropout, training", [(0.1, True), (0.1, False), (0.0, True)])
def test_a_report_says_that_the_model_ran_with_dropout(dropout, training):
    model = adapted(dropout).train(training)
    with cutting(model, cross_modal(), layout=LAYOUT) as report:
        model(torch.randn(3, 4, 8))
    assert report.dropout == (dropout > 0 and training)
    assert (SENTENCE in str(report)) == report.dropout and not report.routes


class OwnRate(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.attention_dropout = rate


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.p = rate


def isonet(rate):
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 1, "dropout": rate}
    return IsoNet(IsoNetConfig({"emg": 2, "acc": 1}, n_samples=8, n_classes=3, **sizes))


@pytest.mark.parametrize("make", [OwnRate, DropPath, nn.Dropout, isonet, lambda p: nn.MultiheadAttention(8, 2, p)])
def test_active_dropout_is_found_in_parts_of_all_kinds(make):
    model = nn.Sequential(make(0.5)).train()
    assert has_active_dropout(model) and not has_active_dropout(model.eval())
    assert not has_active_dropout(nn.Sequential(make(0.0)).train())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_heads, self.qkv = 2, nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("training", [False, True])
def test_a_cut_of_a_model_whose_heads_were_changed_is_refused(training):
    model, x = adapt(Attention().eval(), torch.randn(2, 4, 8)), torch.randn(3, 4, 8)
    with cutting(model, cross_modal(), layout=LAYOUT):
        model(x)
    model.original_model.n_heads = 4
    model.train(training)
    with (
        pytest.raises(EdgeError, match="has n_heads=4, but had 2 when it was adapted; .* call adapt again"),
        cutting(model, cross_modal(), layout=LAYOUT),
    ):
        model(x)


def test_interventions_without_a_hook_name_the_hooks_of_an_adapted_model():
    reason = "an adapted model has only hook_attn_scores and hook_pattern in each layer"
    model, x = adapted(), torch.randn(3, 4, 8)
    with pytest.raises(RuntimeError, match=f"unknown hook point 'blocks.0.hook_mlp_out': {reason}"):
        sweep(model, x, [Condition("mlp", CutMLP("acc", layers=0))], layout=LAYOUT)
    for name in ("blocks.0.attn.hook_v", "blocks.7.attn.hook_pattern"):
        with pytest.raises(UnknownNameError, match=f"unknown hook point '{name}': {reason}"):
            model.run_with_hooks(x, fwd_hooks=[(name, lambda v, hook: v)])  # noqa: ARG005
        with pytest.raises(UnknownNameError, match=reason):
            model.add_hook(name, lambda v, hook: v)  # noqa: ARG005


@pytest.mark.parametrize("names", ["blocks.0.hook_mlp_out", ["hook_embed"], lambda name: "hook_v" in name])
def test_a_cache_without_any_activation_is_refused(names):
    model, x = adapted(), torch.randn(3, 4, 8)
    with pytest.raises(ArgumentError, match="names_filter matches no hook point; the model has blocks.0.attn.hook_"):
        model.run_with_cache(x, names_filter=names)
    assert len(model.run_with_cache(x, names_filter=lambda name: "pattern" in name)[1]) == 2


def test_inputs_of_another_type_than_the_parameters_are_named():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(2, 4, 8)
    reason = r"TransformerEncoder cannot run this input: {} is torch.float64.*; pass {}.to\(torch.float32\)"
    with pytest.raises(ArgumentError, match=reason.format("x", "x")):
        adapt(model, x.double())
    with pytest.raises(ArgumentError, match=reason.format("src", "src")):
        adapt(model, {"src": x.double()})
    with (
        pytest.raises(ArgumentError, match=reason.format(r"inputs\[0\]", r"inputs\[0\]")),
        cutting(adapt(model, x), cross_modal(), layout=LAYOUT, inputs=(x.double(),)),
    ):
        pass


def test_a_model_whose_heads_are_as_before_is_cut_again():
    model, x = adapted(), torch.randn(3, 4, 8)
    attention = model.original_model.layers[0].self_attn

    def edges_cut(n_heads: int) -> list[int]:
        attention.num_heads, attention.head_dim = n_heads, 8 // n_heads
        with cutting(model, cross_modal(), layout=LAYOUT) as report:
            model(x)
        return [layer.edges_cut for layer in report.layers]

    for _ in range(2):
        with pytest.raises(
            EdgeError, match=r"^layers.0.self_attn of TransformerEncoder has num_heads=4, but had 2 when"
        ):
            edges_cut(4)
        assert edges_cut(2) == [16, 16]
