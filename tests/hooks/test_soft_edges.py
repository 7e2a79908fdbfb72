"""Gates on edges, compared with computations in torch by hand."""

import math

import pytest
import torch
from torch_layers import torch_encoder
from toy import Toy, hooks_left

from emg_lens.errors import EmgLensError
from emg_lens.hooks import (
    DeadHookError,
    EdgeCut,
    EdgeError,
    EdgeGate,
    adapt,
    cross_modal,
    cut,
    cutting,
    every,
    flow,
    gate_edges,
    unimodal,
)  # fmt: skip
from emg_lens.hooks.interventions import read_interventions
from emg_lens.hooks.soft_edges import gates_on
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import build_model
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.studies.spec.condition_spec import SingleCondition
from emg_lens.sweeps import Condition, audit, sweep

N_LAYERS, N_HEADS, N_TOKENS = 2, 2, 6
SHAPE = (N_LAYERS, N_HEADS, N_TOKENS, N_TOKENS)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    model = HookedBiosignalEncoder(EncoderConfig({"emg": 3, "acc": 2}, 6, 3, 8, N_LAYERS, N_HEADS, 8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.fixture
def x(encoder):
    return encoder.example_input(4)


def random_gates(low=0.05, seed=3):
    return low + (1 - low) * torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def run(model, x, gates):
    return model.run_with_hooks(x, fwd_hooks=gate_edges(model, gates))


def by_torch(model, x, added):
    """Logits of torch's own layers with `added` [layer, head, dest, src] added to the scores."""
    tokens, layers = model(x, stop_at_layer=0), torch_encoder(model.blocks, norm_first=model.cfg.norm == "pre").layers
    for layer, own in zip(layers, added, strict=True):
        tokens = layer(tokens, src_mask=own.repeat(len(x), 1, 1))
    return model(tokens, start_at_layer=model.cfg.n_layers)


# --- gates ------------------------------------------------------------------------------------------------


def test_a_gate_adds_its_logarithm_to_the_score(encoder, x):
    gates = random_gates()
    with torch.no_grad():
        torch.testing.assert_close(run(encoder, x, gates), by_torch(encoder, x, gates.log()), atol=1e-5, rtol=1e-5)


def test_gates_of_one_change_nothing_and_gates_of_zero_are_a_cut(encoder, x):
    with torch.no_grad():
        assert torch.equal(run(encoder, x, torch.ones(SHAPE)), encoder(x))
        for edges in (cross_modal(), unimodal().at(layers=1, heads=0), flow("emg", "cls")):
            gates = 1.0 - edges.mask(encoder.layout, N_LAYERS, N_HEADS).float()
            expected = encoder.run_with_hooks(x, fwd_hooks=cut(encoder, edges))
            torch.testing.assert_close(run(encoder, x, gates), expected)
            with cutting(encoder, edges):
                torch.testing.assert_close(run(encoder, x, gates), expected)


def test_a_row_with_all_gates_at_zero_has_a_zero_attention_output(encoder, x):
    gates = torch.ones(SHAPE)
    gates[0, :, 2] = 0
    z = {}
    hooks = [*gate_edges(encoder, gates), ("blocks.0.attn.hook_z", lambda value, hook: z.update(z=value))]
    with torch.no_grad():
        assert encoder.run_with_hooks(x, fwd_hooks=hooks).isfinite().all()
    assert (z["z"][:, 2] == 0).all() and (z["z"][:, 1] != 0).all()


def test_one_head_in_the_gates_stands_for_all(encoder, x):
    one = random_gates()[:, :1]
    with torch.no_grad():
        torch.testing.assert_close(run(encoder, x, one), run(encoder, x, one.expand(SHAPE).contiguous()))


def test_only_gated_layers_get_hooks_unless_gradients_are_wanted(encoder):
    gates = torch.ones(SHAPE)
    gates[1, 0, 0, 1] = 0.5
    assert {name.split(".")[1] for name, _ in gate_edges(encoder, gates)} == {"1"}
    assert {name.split(".")[1] for name, _ in gate_edges(encoder, gates.requires_grad_())} == {"0", "1"}
    assert gate_edges(encoder, torch.ones(SHAPE)) == [] and not hooks_left(encoder)


@pytest.mark.parametrize("where", ["open", "some closed", "a row closed but one edge", "unchanged"])
def test_gradients_to_gates_equal_finite_differences(encoder, x, where):
    """Gates of 0 and 1 have one-sided differences."""
    encoder, x = encoder.double(), x.double()
    gates = random_gates().double()
    if where == "unchanged":
        gates = torch.ones(SHAPE, dtype=torch.float64)
    elif where == "some closed":
        gates[torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < 0.3] = 0
    elif where == "a row closed but one edge":
        gates[:, :, 0, 1:] = 0
    gates.requires_grad_()
    value = lambda some: run(encoder, x, some)[:, 0].square().sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(value(gates), gates)
    assert gradient.isfinite().all()
    places = torch.randint(0, gates.numel(), (25,), generator=torch.Generator().manual_seed(2)).tolist()
    places += (gates.flatten() == 0).nonzero().flatten().tolist()[:15]
    for place in places:
        step = -1e-6 if gates.flatten()[place] == 1 else 1e-6
        moved = gates.detach().clone()
        moved.view(-1)[place] += step
        with torch.no_grad():
            difference = (value(moved) - value(gates.detach())) / step
        assert gradient.flatten()[place].item() == pytest.approx(difference.item(), rel=2e-4, abs=2e-6), place


def test_closed_gates_keep_their_value_and_get_a_gradient(encoder, x):
    gates = 1.0 - cross_modal().mask(encoder.layout, N_LAYERS, N_HEADS).float()
    plain = run(encoder, x, gates)
    learned = run(encoder, x, gates.clone().requires_grad_())
    torch.testing.assert_close(learned, plain)
    (gradient,) = torch.autograd.grad(run(encoder, x, g := gates.clone().requires_grad_())[0, 0], g)
    assert (gradient[gates == 0] != 0).any()


def test_an_edge_without_a_path_to_the_readout_has_no_gradient(encoder, x):
    """In the last layer a CLS readout reads no other row."""
    gates = random_gates().requires_grad_()
    (gradient,) = torch.autograd.grad(run(encoder, x, gates)[:, 0].sum(), gates)
    assert (gradient[-1, :, 1:] == 0).all() and (gradient[-1, :, 0] != 0).any()


def test_gates_that_are_optimised_in_place_are_read_in_every_forward(encoder, x):
    gates = torch.ones(SHAPE)
    gates[0, 0, 0, 1] = 0.5
    hooks = gate_edges(encoder, gates)
    gates[0, 0, 0, 1] = 0
    with torch.no_grad():
        torch.testing.assert_close(encoder.run_with_hooks(x, fwd_hooks=hooks), run(encoder, x, gates.clone()))


def test_gates_work_in_torch_func_and_on_an_adapted_torch_model():
    torch.manual_seed(0)
    plain = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2).eval()
    x, layout = torch.randn(3, 5, 8), TokenLayout.groups({"emg": [0, 1], "acc": [2, 3]}, n_tokens=5)
    model, gates = adapt(plain, x), random_gates()[:, :, :5, :5].contiguous()
    with torch.no_grad():
        hooks = gate_edges(model, gates, layout)
        tokens = x
        for layer, own in zip(plain.layers, gates.log(), strict=True):
            tokens = layer(tokens, src_mask=own.repeat(3, 1, 1))
        torch.testing.assert_close(model.run_with_hooks(x, fwd_hooks=hooks), tokens, atol=1e-5, rtol=1e-5)
    value = lambda some: model.run_with_hooks(x, fwd_hooks=gate_edges(model, some, layout)).square().sum()  # noqa: E731
    learned = gates.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(learned), learned)
    torch.testing.assert_close(torch.func.grad(value)(gates), expected)


def test_a_gradient_at_gate_zero_is_refused_if_other_gates_follow(encoder, x):
    first, second = random_gates().round().requires_grad_(), random_gates(seed=4).requires_grad_()
    with pytest.raises(DeadHookError, match="another hook .* changed the scores .* multiply all gates into one tensor"):
        encoder.run_with_hooks(x, fwd_hooks=gate_edges(encoder, first) + gate_edges(encoder, second))
    both = gate_edges(encoder, second) + gate_edges(encoder, first)  # the closed gates last
    logits, product = encoder.run_with_hooks(x, fwd_hooks=both), (first * second).detach().requires_grad_()
    (of_first,) = torch.autograd.grad(logits.sum(), first)
    (of_product,) = torch.autograd.grad(run(encoder, x, product).sum(), product)
    torch.testing.assert_close(of_first, of_product * second)


def test_gradients_at_gate_zero_inside_vmap(encoder, x):
    gates = random_gates().round().requires_grad_()
    hooks = gate_edges(encoder, gates)
    with encoder.hooks(fwd_hooks=hooks):
        mapped = torch.func.vmap(lambda one: encoder(one[None])[0])(x)
    torch.testing.assert_close(mapped, run(encoder, x, gates))
    (a,), (b,) = (torch.autograd.grad(y.sum(), gates) for y in (mapped, run(encoder, x, gates)))
    torch.testing.assert_close(a, b)


def test_gates_of_stages_belong_to_the_positions_of_the_stage():
    model = build_model("multimodal-transformer", modalities={"emg": 3, "acc": 2}, n_samples=80, n_classes=3).eval()
    x, layout = model.example_input(2), model.layout
    for edges in (unimodal("emg"), every()):
        with torch.no_grad():
            expected = model.run_with_hooks(x, fwd_hooks=cut(model, edges))
            hooks = gate_edges(model, gates_on(model, edges, 0.0, layout))
            torch.testing.assert_close(model.run_with_hooks(x, fwd_hooks=hooks), expected)


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (torch.ones(2, 2, 6, 5), r"expected \[2, 2, 6, 6\] \[layer, head, dest, src\], or one head"),
        (torch.ones(2, 3, 6, 6), "or one head"),
        (torch.ones(6, 6), "or one head"),
        (torch.full(SHAPE, 1.5), r"expected floats from 0 \(cut\) to 1 \(unchanged\)"),
        (torch.full(SHAPE, math.nan), "expected floats from 0"),
        (torch.ones(SHAPE, dtype=torch.int64), "expected floats from 0"),
    ],
)
def test_gates_that_do_not_fit_are_refused(encoder, gates, message):
    with pytest.raises(EdgeError, match=message):
        gate_edges(encoder, gates)


def test_models_whose_score_hook_has_no_effect_are_refused():
    layout = TokenLayout.channels({"emg": 3, "acc": 2})
    for live, message in ((False, "no intervention point"), ("pattern", "hook_attn_scores has no")):
        model = Toy(layout, live=live)
        with pytest.raises(DeadHookError, match=message):
            gate_edges(model, torch.full((3, 2, 6, 6), 0.5))


def test_gates_refuse_activation_checkpointing(encoder, x):
    from torch.utils.checkpoint import checkpoint

    hooks = gate_edges(encoder, random_gates())
    run = lambda given: encoder.run_with_hooks(given, fwd_hooks=hooks)  # noqa: E731
    with pytest.raises(DeadHookError, match="activation checkpointing"):
        checkpoint(run, x.requires_grad_(), use_reentrant=False)


# --- interventions ----------------------------------------------------------------------------------------


def test_they_are_values_and_study_files_give_them_by_their_keys(encoder):
    assert read_interventions({"gate_edges": "cross_modal()", "gate": 0.25}) == (EdgeGate(cross_modal(), 0.25),)
    spec = SingleCondition(name="half", gate_edges="cross_modal()", gate=0.5)  # pyright: ignore
    assert spec.build().interventions == (EdgeGate(cross_modal()),)
    assert eval(str(EdgeGate(cross_modal(), 0.25))) == EdgeGate(cross_modal(), 0.25) != EdgeGate(cross_modal(), 0.5)
    gates = torch.ones(1)
    assert EdgeGate(every(), gates) == EdgeGate(every(), gates) != EdgeGate(every(), gates.clone())
    assert str(EdgeGate(every(), gates)) == "EdgeGate(every(), gate=<tensor [1]>)"
    assert EdgeGate(every(), 0).cut_edges == every() and EdgeGate(every()).cut_edges != every()
    for wrong in (2, -0.1, True, "half"):
        with pytest.raises(EmgLensError, match="expected a number from 0"):
            EdgeGate(every(), wrong)


def test_a_sweep_runs_them_in_the_verified_loop(encoder, x):
    edges = cross_modal()
    conditions = [
        Condition("gated", EdgeGate(edges, 0.3)),
        Condition("closed", EdgeGate(edges, 0.0)),
        Condition("cut", edges),
        Condition("both", (EdgeCut(unimodal("acc")), EdgeGate(edges, 0.3))),
        Condition("dead", EdgeGate(flow("emg", "acc").at(layers=-1), 0.3)),
    ]
    result = sweep(encoder, x, conditions)
    logits = result.logits
    torch.testing.assert_close(logits["closed"], logits["cut"], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(logits["gated"], run(encoder, x, gates_on(encoder, edges, 0.3, encoder.layout)))
        with cutting(encoder, unimodal("acc")):
            torch.testing.assert_close(logits["both"], run(encoder, x, gates_on(encoder, edges, 0.3, encoder.layout)))
    nulls = result.audit.set_index("condition")["structural_null"]
    assert nulls["dead"] and not nulls[["gated", "closed", "both"]].any()
    assert torch.equal(logits["dead"], logits["baseline"])
    assert audit(encoder, conditions).set_index("condition")["edges_cut"]["gated"] == 0


def test_a_gate_that_did_not_run_is_an_error(encoder):
    with pytest.raises(DeadHookError, match="had no effect"), EdgeGate(cross_modal()).applied(encoder, encoder.layout):
        pass
    assert not hooks_left(encoder)


def test_gradients_flow_to_the_gate_of_an_intervention(encoder, x):
    gate = torch.tensor(0.5, requires_grad=True)
    with EdgeGate(cross_modal(), gate).applied(encoder, encoder.layout):
        encoder(x)[:, 0].sum().backward()
    assert gate.grad is not None and gate.grad != 0
