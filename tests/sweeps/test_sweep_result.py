"""Tables and figures of a sweep."""

import pytest
import torch

from emg_lens import IsoNet, IsoNetConfig, cross_modal, layer_masks, sweep, unimodal


@pytest.fixture(scope="module")
def swept():
    torch.manual_seed(0)
    model = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2))
    x, y = model.example_input(40), torch.arange(40) % 2
    return sweep(model, x, layer_masks({"uni": unimodal(), "cross": cross_modal()}, n_layers=2)), y


def test_the_frame_has_tags_accuracy_and_audit_of_every_condition(swept):
    result, y = swept
    table = result.to_frame(y)
    assert table["condition"].tolist() == [one.name for one in result.conditions]
    for name, accuracy, edges in zip(table["condition"], table["accuracy"], table["edges_cut"], strict=True):
        assert accuracy == pytest.approx(float((result.logits[name].argmax(1) == y).double().mean()))
        assert edges == result.audit.set_index("condition").loc[name, "edges_cut"]
    assert "accuracy" not in result.to_frame()


def test_the_plot_has_one_bar_for_each_condition_and_the_baseline(swept, tmp_path):
    result, y = swept
    axes = result.plot(y)
    table = result.accuracy(y)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(table["accuracy"].tolist()[1:])
    assert axes.lines[0].get_xdata()[0] == pytest.approx(table["accuracy"][0])
    axes.figure.savefig(tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.svg").stat().st_size > 1000
    assert repr(result).startswith(f"SweepResult({len(table)} conditions of 40 trials, outputs [2]")
