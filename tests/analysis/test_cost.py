"""Costs: published counts, torch's count against the formula, memory against a count by hand."""

import pytest
import torch
from torch import nn

from emg_lens.analysis import forward_flops, model_costs
from emg_lens.analysis.cost import cost_cells
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

SMALL = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 24}
PATCHES = {**SMALL, "patch_samples": 10}


def built(name, n_classes=3, modalities=None, **settings):
    return build_model(name, modalities=modalities or {"emg": 3}, n_samples=40, n_classes=n_classes, **settings)


def test_the_published_sizes_come_out():
    model = build_model("tinymyo", modalities={"emg": 16}, n_samples=1000, n_classes=0, head="reconstruction")
    (costs,) = model_costs({"TinyMyo": model}, seconds=0.01).to_dict("records")
    assert costs["parameters"] == 3_567_380 and costs["tokens"] == 800  # docs/tinymyo-model.md §9.1
    assert round(costs["flops"] / 1e9, 1) == 9.6  # thesis, App. C
    assert costs["flops"] == costs["flops_formula"]
    sizes = {kind: costs[f"{kind}_bytes"] / 2**20 for kind in ("fp32", "int8", "int4")}
    assert sizes == pytest.approx({"fp32": 13.61, "int8": 3.40, "int4": 1.70}, abs=0.005)
    assert [costs[f"{kind}_in"] for kind in sizes] == ["external", "external", "eMRAM"]
    regression = build_model("tinymyo", modalities={"emg": 8}, n_samples=1000, n_classes=6)
    assert round(forward_flops(regression) / 1e9, 1) == 3.8  # thesis, App. C: EPN-612


@pytest.mark.parametrize(
    "model",
    [
        built("isonet", modalities={"emg": 3, "acc": 2}, **SMALL),
        built("isonet", **PATCHES, tokens="time"),
        built("tinymyo", 0, **PATCHES, head="reconstruction"),
        built("tinymyo", **PATCHES),
        built("tinymyo", **PATCHES, fusion="mean", positions="rotary_time"),
        built("tinymyo", **PATCHES, head="regression", channel_slots=4),
        built("tinymyo", **{**PATCHES, "patch_samples": 12}, drop_tail=True),
        built("tinymyo-gestures", modalities={"emg": 3, "acc": 2}, **SMALL),
        built("tinymyo-speech", **SMALL, relative_reach=2),
        built("hierarchical", modalities={"emg": 3, "acc": 2}, **{**PATCHES, "n_layers": 3}, n_fusion_layers=1),
        built("multimodal-transformer", modalities={"emg": 3, "acc": 2}, **PATCHES),
    ],
)
def test_the_formula_is_what_torch_counts(model):
    (costs,) = model_costs({"it": model.train()}, seconds=0.001).to_dict("records")
    assert costs["flops"] == costs["flops_formula"] == forward_flops(model)
    assert model.training and all(p.grad is None for p in model.parameters())


class Doubling(nn.Module):
    """Holds 3 tensors of 400 bytes in addition to its input at once, views and constants not counted."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(100))
        self.cfg = type("Cfg", (), {"n_channels": 1, "n_samples": 100})

    def example_input(self, batch=1, seed=0):
        return torch.ones(batch, 1, 100)

    def forward(self, x):
        a = x * self.weight
        b = a.view(100) + 1
        del a
        c = (b * 2).sin()  # b, its double, the sine
        return c[:10]


def test_memory_is_what_is_held_at_once():
    costs = model_costs({"it": Doubling()}, seconds=0.001).iloc[0]
    assert costs["activation_bytes"] == 3 * 400 and costs["parameters"] == 100 and costs["fp32_in"] == "L1"
    assert cost_cells(model_costs({"it": Doubling()}, seconds=0.001))["INT4 (MiB)"].tolist() == ["0.00 L1"]


def test_what_has_no_formula_is_counted_and_what_cannot_run_is_refused():
    model = built("multimodal-mlp", d_hidden=8, d_fused=6)
    (costs,) = model_costs({"mlp": model}, seconds=0.001).to_dict("records")
    assert costs["flops"] == 2 * (120 * 8 + 8 * 8 + 8 * 6 + 6 * 3) and costs["flops_formula"] != costs["flops_formula"]
    with pytest.raises(ArgumentError, match="needs an encoder .HookedBiosignalEncoder., got MultimodalMLP"):
        forward_flops(model)
    with pytest.raises(ArgumentError, match="'it' is a Linear without example_input"):
        model_costs({"it": nn.Linear(2, 2)})
