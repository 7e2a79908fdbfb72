"""Attribution against captum, which sees the model as a function of gates on its edges."""

import numpy as np
import pytest
import torch
from analysis.attribution.small_models import hierarchical, isonet, question_of, smooth, trials
from captum.attr import FeatureAblation, Saliency, ShapleyValues

from emg_lens import attribute, cross_modal, flow, gate_edges, unimodal
from emg_lens.analysis.attribution.trial_metrics import margin

MODELS = {"isonet": isonet, "smooth": smooth, "hierarchical": hierarchical}


def of_gates(model):
    """The mean margin as a function of gates `[1, layer, head, dest, src]`."""
    x, y = trials(model)
    return lambda gates: margin(model.run_with_hooks(x, fwd_hooks=gate_edges(model, gates[0])), y).mean()[None]


def gates_of(question):
    return torch.ones(1, *question.groups.index.shape)


@pytest.mark.parametrize("name", MODELS)
def test_single_cuts_are_captums_feature_ablation(name):
    model = MODELS[name]()
    question = question_of(model, by="modality")
    gates, index = gates_of(question), torch.from_numpy(question.groups.index)
    ablated = FeatureAblation(of_gates(model)).attribute(gates, baselines=0, feature_mask=index[None] + 1)[0]
    x, y = trials(model)
    table = attribute(model, x, y, method="cut", by="modality").table
    expected = [float(ablated[index == group].unique()) for group in range(len(table))]
    assert np.allclose(table["score"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["isonet", "smooth"])
def test_shapley_values_are_captums(name):
    model = MODELS[name]()
    groups = {"unimodal": unimodal(), "cross-modal": cross_modal(), "EMG to CLS": flow("emg", "cls"),
              "ACC to CLS": flow("acc", "cls")}  # fmt: skip
    question = question_of(model, by=groups)
    gates, index = gates_of(question), torch.from_numpy(question.groups.index)
    closed = torch.where(index >= 0, 0.0, 1.0)[None]
    values = ShapleyValues(of_gates(model)).attribute(gates, baselines=closed, feature_mask=index[None] + 1)[0]
    x, y = trials(model)
    table = attribute(model, x, y, method="shapley", by=groups).table
    expected = [float(values[index == group].unique()) for group in range(len(table))]
    assert np.allclose(table["score"], expected, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_gate_gradients_are_captums(name):
    model = MODELS[name]()
    question = question_of(model, by="head")
    gates, index = gates_of(question).requires_grad_(), torch.from_numpy(question.groups.index)
    slopes = Saliency(of_gates(model)).attribute(gates, abs=False)[0]
    x, y = trials(model)
    table = attribute(model, x, y, method="gate_gradient", by="head").table
    expected = torch.zeros(len(table)).index_add_(0, index[index >= 0], slopes[index >= 0])
    assert np.allclose(table["score"], expected, atol=1e-5)
