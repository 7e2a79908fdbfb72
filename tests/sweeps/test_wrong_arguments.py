"""Plausible wrong arguments: an error is one line of ours, which says what is expected."""

import numpy as np
import pytest
import torch
from torch import nn

from emg_lens import (
    Condition,
    EmgLensError,
    IsoNet,
    IsoNetConfig,
    Replace,
    adapt,
    cls_edges,
    cross_modal,
    cut,
    edges_from_mask,
    every,
    flow,
    lag,
    parse_edges,
    reach,
    self_edges,
    sweep,
    unimodal,
)
from emg_lens.hooks import mean_edges, patch_edges

EDGES = cross_modal()
MODEL = IsoNet(IsoNetConfig({"emg": 4, "acc": 3}, n_samples=20, n_classes=3, d_model=8, n_heads=2, n_layers=2)).eval()
X = MODEL.example_input(6)
MASK = np.zeros((8, 8), bool)
CONDITIONS = [Condition("fusion", EDGES)]
ENCODER = nn.TransformerEncoder(nn.TransformerEncoderLayer(20, 2, 8, batch_first=True), 1, enable_nested_tensor=False)
ADAPTED = adapt(ENCODER.eval(), X)


def handles(labels):
    with MODEL.handles(X, labels):
        pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lag(1), r"lag\(\) missing .* 'high'; expected lag\(low, high\)$"),
        (lambda: flow("emg", to="acc"), r"flow\(\) got an unexpected .* 'to'; expected flow\(src, dest\)$"),
        (lambda: self_edges("emg"), r"self_edges\(\) takes 0 .*; expected self_edges\(\)$"),
        (lambda: cls_edges("emg"), r"cls_edges\(\) takes 0 .*; expected cls_edges\(\)$"),
        (lambda: edges_from_mask(), r"expected edges_from_mask\(mask\)$"),
        (lambda: parse_edges(), r"expected parse_edges\(text\)$"),
        (lambda: parse_edges("lag(1)"), r"^edge expression 'lag\(1\)': .*; expected lag\(low, high\)$"),
        (lambda: EDGES.at(layer=0), r"'layer'; expected at\(layers, heads, stage\)$"),
        (
            lambda: unimodal(["emg", "acc"]),
            r"got \['emg', 'acc'\]; expected names in quotes: unimodal\('emg', 'acc'\)$",
        ),
        (
            lambda: cross_modal(["emg", "acc"]),
            r"got \['emg', 'acc'\]; expected names in quotes: cross_modal\('emg', 'acc'",
        ),
        (lambda: MASK | EDGES, r"got ndarray of bool, \[8, 8\] before an operator; expected an edge set"),
        (lambda: torch.tensor(MASK) & EDGES, "got Tensor of torch.bool.* before an operator; expected an edge set"),
        (lambda: None - EDGES, "got None before an operator; expected an edge set"),
        (lambda: mean_edges(MODEL, EDGES, reference=X, inputs=X * torch.nan), "NaN or infinite; give inputs=<finite"),
        (lambda: patch_edges(MODEL, EDGES, source={"x": X}), r"IsoNet fails on x \[6, 7, 20\]: TypeError"),
        (
            lambda: MODEL.run_with_hooks(X, fwd_hooks=EDGES),
            r"fwd_hooks=EdgeSet\(cross_modal\(\)\); expected a list of \(name",
        ),
        (lambda: MODEL.run_with_hooks(X, fwd_hooks=cut(MODEL, EDGES)[0]), "fwd_hooks=.*; expected a list of"),
        (lambda: MODEL.run_with_hooks(X, bwd_hooks=["hook_embed"]), r"bwd_hooks=\['hook_embed'\]; expected a list of"),
        (lambda: ADAPTED.run_with_hooks(X, fwd_hooks=EDGES), "fwd_hooks=.*; expected a list of"),
        (lambda: MODEL.add_hook("hook_embed", 3), "hook=3; expected a function"),
        (lambda: handles([0, 1, 2, 0, 1, 2]), r"labels=\[0, 1, 2, 0, 1, 2\]; expected a torch tensor"),
        (
            lambda: sweep(MODEL, X, CONDITIONS, reference=X[0, 0]),
            r"reference trials are \[\]; expected \[7, 20\], as in x$",
        ),
        (lambda: sweep(MODEL, X, CONDITIONS).logits["fusoin"], "no condition 'fusoin'; did you mean 'fusion'?"),
        (
            lambda: reach(EDGES.mask(MODEL.layout, 2, 2), torch.zeros(1)),
            r"readout=Tensor .*; expected positions, layout",
        ),
        (
            lambda: Condition("a", X),
            r"got Tensor of torch.float32, \[6, 7, 20\]; expected an edge set or an intervention",
        ),
        (lambda: Condition("a", cut(MODEL, EDGES)), "got a list of hooks, which a sweep cannot verify"),
        (lambda: Condition("a", ("emg",)), "got 'emg'; expected an edge set or an intervention"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(call, message):
    with pytest.raises(EmgLensError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    MODEL.reset_hooks()


def test_an_error_inside_an_edge_function_is_not_taken_for_a_wrong_call():
    class Odd(str):
        def __hash__(self):
            raise TypeError("no hash")

    with pytest.raises(TypeError, match="^no hash$"):
        flow(Odd("emg"), "cls")


def test_interventions_may_be_given_as_a_list():
    both = Condition("both", [Replace("acc"), EDGES])
    assert both.interventions == Condition("both", (Replace("acc"), EDGES)).interventions


def test_edge_sets_still_combine():
    assert str(every() | EDGES) == "every() | cross_modal()"
