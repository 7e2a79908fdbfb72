"""Sweeps whose outputs keep their graph: gradients to inputs, parameters and gates equal those of plain torch."""

import pytest
import torch

from emg_lens.hooks import CutMLP, EdgeGate, Replace, cross_modal, cut, unimodal
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.sweeps import Condition, SweepInputError, sweep


@pytest.fixture
def model() -> IsoNet:
    torch.manual_seed(0)
    config = IsoNetConfig({"emg": 3, "acc": 2}, 10, 4, d_model=16, n_heads=2, n_layers=2, d_mlp=8)
    return IsoNet(config).eval().double()


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_gradients_to_inputs_and_parameters_are_those_of_a_hooked_forward(model, batch_size):
    x = model.example_input(6).double().requires_grad_()
    weight = model.blocks[0].attn.W_Q
    conditions = [
        Condition("cut", unimodal().at(layers=1)),
        Condition("zeroed", (Replace("acc"), cross_modal().at(layers=0))),
        Condition("mlp", CutMLP("cls", layers=1)),  # cannot be planned
    ]
    result = sweep(model, x, conditions, gradients=True, batch_size=batch_size)
    assert result.executor == "loop" and all(logits.requires_grad for logits in result.logits.values())
    zeroed = torch.cat([x[:, :3], 0 * x[:, 3:]], 1)
    by_hand = {
        "baseline": model(x),
        "cut": model.run_with_hooks(x, fwd_hooks=cut(model, unimodal().at(layers=1))),
        "zeroed": model.run_with_hooks(zeroed, fwd_hooks=cut(model, cross_modal().at(layers=0))),
    }
    for name, expected in by_hand.items():
        torch.testing.assert_close(result.logits[name], expected)
        ours = gradients(result.logits[name].square().sum(), x, weight)
        for one, other in zip(ours, gradients(expected.square().sum(), x, weight), strict=True):
            torch.testing.assert_close(one, other)
    (of_mlp,) = gradients(result.logits["mlp"].square().sum(), x)
    assert of_mlp.abs().sum() > 0
    plain = sweep(model, x.detach(), conditions)
    for name, logits in plain.logits.items():
        assert not logits.requires_grad
        torch.testing.assert_close(result.logits[name].detach(), logits)


def test_gradients_reach_the_gates_and_equal_finite_differences(model):
    x = model.example_input(5).double()
    gates = torch.full((2, 2, 6, 6), 0.7, dtype=torch.float64, requires_grad=True)

    def loss(values, keep_graph):
        result = sweep(model, x, [Condition("gated", EdgeGate(cross_modal(), values))], gradients=keep_graph)
        return result.logits["gated"].square().sum()

    (gradient,) = gradients(loss(gates, True), gates)
    edges = cross_modal().mask(model.layout, 2, 2)
    assert not gradient[~edges].any() and gradient[edges].any()
    place = edges.nonzero()[3]
    for step in (1e-6,):
        moved = [gates.detach().clone() for _ in range(2)]
        moved[0][tuple(place)] += step
        moved[1][tuple(place)] -= step
        slope = (loss(moved[0], False) - loss(moved[1], False)) / (2 * step)
        torch.testing.assert_close(gradient[tuple(place)], slope, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("option", ["checkpoint", "scratch", "executor"])
def test_options_that_exclude_gradients_are_refused(model, option, tmp_path):
    value = "tree" if option == "executor" else tmp_path / "file"
    with pytest.raises(SweepInputError, match="gradients=True .*; leave out checkpoint, scratch and") as error:
        sweep(model, model.example_input(2).double(), [], gradients=True, **{option: value})
    assert "\n" not in str(error.value)


def test_gradients_inside_inference_mode_are_refused(model):
    with torch.inference_mode(), pytest.raises(SweepInputError, match="no gradients inside torch.inference_mode"):
        sweep(model, model.example_input(2).double(), [], gradients=True)
