"""Layers that perform the same operations are checked once; each still gets a test of its own."""

from collections import Counter

import torch
from torch import nn

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
    assert 10 < first <= 16 and others == [3, 3, 3]  # in the forward, with a cut, and with a cut and other tokens


def test_in_an_adapted_model_the_search_for_routes_tests_the_other_layers():
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
    x = torch.randn(2, 6, 4)
    adapted = adapt(model, x)
    counted = Counter()
    for place, one in enumerate(model.layers):
        one.self_attn.register_forward_pre_hook(lambda *_, place=place: counted.update([place]))
    find_intervention_point(adapted, LAYOUT)
    assert 10 < counted[0] <= 15 and [counted[place] for place in (1, 2, 3)] == [3, 3, 3]


def test_settings_are_compared_and_rates_and_names_are_not():
    first, second = nn.Dropout(0.1), nn.Dropout(0.2)
    assert have_equal_settings(first, second)
    second.inplace = True
    assert not have_equal_settings(first, second)
    assert not have_equal_settings(first, nn.Dropout1d(0.1))
