"""Profiles: operations and bytes by hand, times that follow the work, energy from a folder like the kernel's."""

import numpy as np
import pytest
import torch

from emg_lens import Condition, EdgeCut, Replace, adapt, cross_modal, cutting, every, layer_masks
from emg_lens.analysis import forward_flops, profile, quantised
from emg_lens.analysis.deployment import NOT_MEASURED, EnergyMeter, processor_name
from emg_lens.hooks import EdgeError
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

SIZES = {"d_model": 64, "n_heads": 4, "n_layers": 2, "d_mlp": 32}


def built(n_samples=40, **sizes):
    return build_model(
        "isonet", modalities={"emg": 4, "acc": 3}, n_samples=n_samples, n_classes=3, **{**SIZES, **sizes}
    )


def test_operations_and_bytes_are_those_of_a_hand_count():
    model = built()
    n, d, m, samples = 8, 64, 32, 40
    macs = 7 * samples * d + 2 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m) + d * 3  # the head of CLS
    (row,) = profile(model, model.example_input(3), bits=8, hop_s=0.1).to_dict("records")
    assert row["macs"] == macs == forward_flops(model) // 2
    matrices = 7 * samples * d + 2 * (4 * d * d + 2 * d * m) + 2 * 3 * d
    n_tensors, n_outputs = 1 + 2 * 6 + 2, 7 * d + 2 * (3 * d + d + m + d) + 2 * 3
    others = sum(p.numel() for p in model.parameters()) - matrices
    assert row["weight_bytes"] == matrices + 4 * n_tensors + 4 * others
    by_channel = profile(model, model.example_input(), bits=4, per="channel")["weight_bytes"][0]
    assert by_channel == matrices // 2 + 4 * n_outputs + 4 * others
    assert profile(model, model.example_input())["weight_bytes"][0] == 4 * (matrices + others)
    assert profile(quantised(model, 4), model.example_input())["weight_bytes"][0] == (
        matrices // 2 + 4 * n_tensors + 4 * others
    )
    assert row["runs"] == 50 and row["threads"] == 1 and row["processor"] == processor_name() != ""
    assert row["latency_ms"] > 0 and row["latency_iqr_ms"] >= 0
    assert row["real_time_factor"] == pytest.approx(row["latency_ms"] / 100)


def test_conditions_are_measured_in_place():
    model = built()
    x = model.example_input(4)
    conditions = [
        *layer_masks({"cross_modal": cross_modal()}, n_layers=2, modes=["from_beginning"]),
        Condition("no acc", Replace("acc", by="mean")),
    ]
    table = profile(model, x, conditions, reference=x).set_index("condition")
    assert list(table.index) == ["baseline", "cross_modal/from_beginning/L1", "cross_modal/from_beginning/L2", "no acc"]
    n_cut = 2 * 4 * 3 * 4  # both directions, four heads
    saved = table["macs"] - table["macs_without_cut_edges"]
    assert saved.tolist() == [0, 2 * 16 * n_cut, 2 * 16 * 2 * n_cut, 0]
    assert table["macs"].nunique() == 1 and table["weight_bytes"].nunique() == 1
    assert table["real_time_factor"].isna().all()
    assert not any(part._forward_hooks for part in model.modules()), "every condition is removed again"
    with cutting(model, every()):
        pass_inside = profile(model, x)
    assert len(pass_inside) == 1


def test_time_and_memory_follow_the_work():
    small, large = built(), built(d_model=512, n_layers=6, d_mlp=2048)
    ours, theirs = (
        profile(model, model.example_input())[["latency_ms", "activation_bytes"]].iloc[0] for model in (small, large)
    )
    assert theirs["latency_ms"] > 2 * ours["latency_ms"] and theirs["activation_bytes"] > 3 * ours["activation_bytes"]


def test_any_module_without_conditions():
    layer = torch.nn.Linear(10, 5)
    (row,) = profile(layer, torch.randn(3, 10)).to_dict("records")
    assert row["macs"] == 50 and row["weight_bytes"] == 4 * 55
    (row,) = profile(torch.nn.ReLU(), torch.randn(3, 10)).to_dict("records")
    assert row["macs"] == row["weight_bytes"] == 0 and row["activation_bytes"] == 4 * 10
    with pytest.raises(EdgeError, match="Linear has no hook points of TransformerLens; use adapt"):
        profile(layer, torch.randn(3, 10), [Condition("cut", EdgeCut(cross_modal()))])


class SelfAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_fused_kernels_of_torch_are_counted_as_plain_layers(frozen):
    n, d, m = 11, 16, 32
    layer = torch.nn.TransformerEncoderLayer(d, 2, m, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().requires_grad_(not frozen)
    x, attention = torch.randn(2, n, d), 4 * n * d * d + 2 * n * n * d
    whole = profile(encoder, x).iloc[0]
    assert whole["macs"] == 2 * (attention + 2 * n * d * m)
    adapted = profile(adapt(encoder, x), x).iloc[0]
    assert adapted[["macs", "activation_bytes"]].tolist() == whole[["macs", "activation_bytes"]].tolist()
    alone = profile(SelfAttention().eval().requires_grad_(not frozen), x).iloc[0]
    assert alone["macs"] == attention
    assert alone["activation_bytes"] > 4 * (3 * n * d + 2 * n * n), "queries, keys, values, and scores of two heads"
    assert torch.backends.mha.get_fastpath_enabled()


def counter(folder, name, values, most=10_000):
    """A file of the kernel's, whose next read has the next value."""
    zone = folder / name
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text(str(most))
    (zone / "energy_uj").write_text(str(values[0]))
    return zone / "energy_uj"


def test_energy_is_the_difference_of_the_packages_counters(tmp_path):
    package = counter(tmp_path, "intel-rapl:0", [9_000])
    second = counter(tmp_path, "intel-rapl:1", [100])
    counter(tmp_path, "intel-rapl:0:0", [5])  # part of package 0
    meter = EnergyMeter(tmp_path)
    assert "package" in meter.name and "idle included" in meter.name

    def run():
        package.write_text("1500")  # overflowed: 2,500 µJ
        second.write_text("700")

    assert meter.joules(run) == pytest.approx(3_100e-6)


def test_energy_is_not_measured_where_no_counter_can_be_read(tmp_path):
    assert EnergyMeter(tmp_path).name == NOT_MEASURED
    counter(tmp_path, "intel-rapl:0", ["no number"])
    meter = EnergyMeter(tmp_path)
    assert meter.name == NOT_MEASURED and np.isnan(meter.joules(lambda: None))


def test_what_cannot_be_profiled_is_one_line():
    model = built()
    for call, message in (
        (lambda: profile(model, model.example_input(0)), r"x has shape \[0, 7, 40\]; expected at least one trial"),
        (
            lambda: profile(model, model.example_input(), runs=10),
            "runs=10; expected a number greater than or equal to 30",
        ),
        (lambda: profile(model, model.example_input(), per="channel"), "per='channel' without bits"),
        (
            lambda: profile(model, model.example_input().half()),
            r"input is torch.float16 and the model torch.float32; use x.to\(torch.float32\)",
        ),
        (lambda: profile(model, model.example_input(), hop_s=0.0), "hop_s=0.0; expected"),
    ):
        with pytest.raises(ArgumentError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
