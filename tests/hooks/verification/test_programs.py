"""Layers that perform the same operations are checked once; each still gets a test of its own."""

from collections import Counter

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from emg_lens.hooks import adapt, cross_modal, cutting
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.hooks.verification.programs import have_equal_settings
from emg_lens.layout import TokenLayout
from emg_lens.models import build_model

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})


def runs(model, modules):
    """Count the forwards of attention modules while the model is probed."""
    counted = Counter()
    for place, module in enumerate(modules):
        module.register_forward_pre_hook(lambda *_, place=place: counted.update([place]))
    with cutting(model, cross_modal(), LAYOUT):
        probed = dict(counted)
        model(model.example_input(2))
    return probed


def test_only_the_first_of_equal_layers_is_checked_in_full():
    config = {"modalities": {"emg": 3, "acc": 2}, "n_samples": 4, "n_classes": 3, "n_layers": 4}
    model = build_model("isonet", **config, d_model=16, n_heads=2).eval()
    first, *others = runs(model, [block.attn for block in model.blocks]).values()
    assert 10 < first <= 19 and others == [3, 3, 3]  # in the forward, with a cut, and with a cut and other tokens


def test_in_an_adapted_model_the_search_for_routes_tests_the_other_layers():
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    x = torch.randn(2, 6, 4)
    adapted = adapt(model, x)
    counted = Counter()
    for place, one in enumerate(model.layers):
        one.self_attn.register_forward_pre_hook(lambda *_, place=place: counted.update([place]))
    find_intervention_point(adapted, LAYOUT)
    assert 10 < counted[0] <= 13 and [counted[place] for place in (1, 2, 3)] == [4, 4, 4]


def test_settings_are_compared_and_rates_and_names_are_not():
    first, second = nn.Dropout(0.1), nn.Dropout(0.2)
    assert have_equal_settings(first, second)
    second.inplace = True
    assert not have_equal_settings(first, second)
    assert not have_equal_settings(first, nn.Dropout1d(0.1))


class Eager(nn.Module):
    """A layer with attention by matrix products, and an MLP."""

    def __init__(self, width=24, n_heads=3):
        super().__init__()
        self.qkv, self.n_heads = nn.Linear(width, 3 * width), n_heads
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.mlp(((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).flatten(2))


def operations(run):
    """Count the floating point operations of matrix products."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_the_first_entry_of_eager_attention_needs_few_operations():
    model, x = nn.Sequential(*(Eager() for _ in range(8))).eval(), torch.randn(1, 100, 24)
    layout = TokenLayout.groups({"emg": list(range(50)), "acc": list(range(50, 100))}, n_tokens=100)
    adapted, plain = adapt(model, x), operations(lambda: model(x))
    assert operations(lambda: find_intervention_point(adapted, layout)) < 4.6 * plain
