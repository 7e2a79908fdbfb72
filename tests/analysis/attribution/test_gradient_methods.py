"""Methods that use gradients: compared with finite differences and with loops written here."""

import numpy as np
import pytest
import torch
from analysis.attribution.small_models import DATA, SIZES, hierarchical, isonet, margin_of, question_of, smooth, trials
from zoo.architectures import WRAPPED
from zoo.tiny_models import bridged

from emg_lens import EmgLensError, TokenLayout, adapt, build_model, cross_modal, cut, flow, gate_edges
from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS
from emg_lens.analysis.attribution.methods.input_gradients import InputGradients
from emg_lens.analysis.attribution.methods.relp import constant_attention, linear_hooks
from emg_lens.analysis.attribution.run import attribute
from emg_lens.hooks import DeadHookError, edges_from_mask, every
from emg_lens.hooks.hook_points import attention_paths
from emg_lens.validation import ArgumentError

GRADIENT_METHODS = ["gate_gradient", "input_gradients", "relp", "chefer", "first_order", "shared_gates"]


@pytest.mark.parametrize("build", [isonet, smooth, hierarchical])
def test_gate_gradient_is_the_slope_of_the_margin_in_the_gate(build):
    model = build().double()
    question = question_of(model, n=2)
    x, y = question.x.double(), question.y
    found = attribute(model, x, y, method="gate_gradient", by="head")
    for row in np.random.default_rng(0).choice(len(found.table), 12, replace=False):
        edge = question.groups.mask(np.arange(len(question.groups)) == row)
        step = torch.zeros(edge.shape, dtype=torch.float64)
        step[torch.from_numpy(edge)] = 1e-4
        low, high = (margin_of(model, x, y, gate_edges(model, 1 - k * step)) for k in (2, 1))
        now = margin_of(model, x, y)
        slope = (3 * now - 4 * high + low) / 2e-4  # one-sided, second order: gates end at 1
        edges = int(edge.sum())
        assert edges >= 1
        np.testing.assert_allclose(found.trial_scores[:, row], slope.detach().numpy(), atol=2e-5)


def integrated_by_hand(question, passes):
    """Mean gradient of the attention weights on the line from zeros to x, then the first order of single cuts."""
    nodes, weights = np.polynomial.legendre.leggauss(passes)
    model, x, y = question.model, question.x, question.y
    paths = attention_paths(model)
    scores = torch.zeros(len(x), len(question.groups), dtype=torch.float64)
    for place, path in paths.items():
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            kept = []

            def keep(pattern, hook, kept=kept):
                kept.append(pattern.requires_grad_() if pattern.is_leaf else pattern)
                return kept[0]

            margin = margin_of(model, x * (float(node) + 1) / 2, y, [(f"{path}.hook_pattern", keep)]).sum()
            total = total + torch.autograd.grad(margin, kept[0])[0] * float(weight) / 2
        clean = []
        margin_of(model, x, y, [(f"{path}.hook_pattern", lambda pattern, hook, clean=clean: clean.append(pattern))])
        a, g = clean[0].detach(), total
        index = question.index[place].expand(a.shape[1:])
        for group in index.unique()[:-1]:
            head, dest, src = (index == group).nonzero()[0].tolist()
            row_a, row_g = a[:, head, dest], g[:, head, dest]
            own = row_a[:, src]
            rest = (row_a * row_g).sum(-1) - own * row_g[:, src]
            scores[:, group] = own * (row_g[:, src] - rest / (1 - own))
    return scores


@pytest.mark.parametrize("build", [isonet, smooth])
def test_input_gradients_are_the_loop_over_weaker_inputs(build):
    question = question_of(build(), n=3)
    found = InputGradients(passes=5).scores(question)
    torch.testing.assert_close(found, integrated_by_hand(question, 5), atol=1e-5, rtol=1e-4)
    assert question.passes.forward == 6 * 3 and question.passes.backward == 5 * 3
    assert not torch.allclose(found, InputGradients(passes=1).scores(question), atol=1e-3)


def frozen_copy(model, x, y, layer):
    """The gradient of the last layers' attention weights with constant scales, ratios and patterns, by hand."""
    _, cache = model.run_with_cache(x)
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"].detach().requires_grad_()
    resid = cache[f"blocks.{layer}.hook_resid_pre"].detach()

    def norm(ln, resid, name):
        centred = resid - resid.mean(-1, keepdim=True)
        return centred / cache[f"{name}.hook_scale"].detach() * ln.w + ln.b

    for at in range(layer, len(model.blocks)):
        block = model.blocks[at]
        values = torch.einsum("bpd,hde->bhpe", norm(block.ln1, resid, f"blocks.{at}.ln1"), block.attn.W_V)
        weights = pattern if at == layer else cache[f"blocks.{at}.attn.hook_pattern"].detach()
        z = weights @ (values + block.attn.b_V[:, None])
        resid = resid + torch.einsum("bhpe,hed->bpd", z, block.attn.W_O) + block.attn.b_O
        pre = norm(block.ln2, resid, f"blocks.{at}.ln2") @ block.mlp.W_in + block.mlp.b_in
        ratio = (cache[f"blocks.{at}.mlp.hook_post"] / cache[f"blocks.{at}.mlp.hook_pre"]).detach()
        resid = resid + (pre * ratio) @ block.mlp.W_out + block.mlp.b_out
    logits = model.unembed(norm(model.ln_final, resid, "ln_final")[:, 0])
    torch.testing.assert_close(logits, model(x), atol=1e-4, rtol=1e-4)
    others = logits.masked_fill(torch.nn.functional.one_hot(y, 3).bool(), -torch.inf).amax(-1)
    margin = logits[torch.arange(len(y)), y] - others
    return torch.autograd.grad(margin.sum(), pattern)[0]


@pytest.mark.parametrize("layer", [0, 1])
def test_relp_is_the_gradient_of_a_linear_copy(layer):
    model = smooth()
    question = question_of(model, n=3)
    derivatives = differentiate(question, question.x, question.y, edit=constant_attention, hooks=linear_hooks(question))
    expected = frozen_copy(model, question.x, question.y, layer)
    torch.testing.assert_close(derivatives.gradient[layer], expected, atol=1e-5, rtol=1e-4)
    plain = differentiate(question, question.x, question.y)
    assert not torch.allclose(plain.gradient[layer], expected, atol=1e-3)
    torch.testing.assert_close(plain.metric, derivatives.metric)  # the hooks change no value


class Mean(torch.nn.Module):
    """Class logits: the first three features of the mean token."""

    def forward(self, tokens):
        return tokens.mean(1)[:, :3]


@pytest.fixture
def adapted():
    """A torch encoder with hook points on its attention only, and the layout of its tokens."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 2), Mean()).eval()
    return adapt(encoder, inputs=torch.randn(2, 6, 8)), TokenLayout.channels({"emg": 3, "acc": 2})


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name not in ("contexts", "shapley")])
def test_adapted_models_work_or_say_what_they_lack(adapted, method):
    model, layout = adapted
    x, y = torch.randn(4, 6, 8), torch.arange(4) % 3
    arguments = {"method": method, "by": {"all": cross_modal(), "rest": flow("cls", "emg")}, "layout": layout}
    if method in ("relp", "value_norm"):
        missing = {"relp": r"no blocks\.0\.ln1\.hook_scale", "value_norm": r"no blocks\.0\.attn\.hook_v"}[method]
        with pytest.raises(DeadHookError, match=missing) as error:
            attribute(model, x, y, **arguments)
        assert "\n" not in str(error.value)
    else:
        assert attribute(model, x, y, **arguments).table["score"].abs().min() > 1e-4


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_words():
    model = bridged(WRAPPED["Llama"], "eager")
    layout = TokenLayout.groups({"a": [0, 1], "b": [2, 3, 4]}, n_tokens=5)
    x, y = torch.randint(7, (4, 5)), torch.randint(7, (4,))

    def at_last(outputs, y):
        return outputs[:, -1].log_softmax(-1).gather(1, y[:, None])[:, 0]

    arguments = {"by": "modality", "metric": at_last, "layout": layout}
    for method in ("first_order", "gate_gradient", "chefer", "shared_gates", "cut"):
        found = attribute(model, x, y, method=method, **arguments).table.set_index(["dest", "src", "layer"])["score"]
        assert len(found) == 8 and abs(found["b", "a", 0]) > 1e-3, method
        assert abs(found["a", "b", 0]) < 1e-6, method  # a causal model: `a` comes first
    with pytest.raises(ArgumentError, match="token numbers"):
        attribute(model, x, y, method="input_gradients", **arguments)
    with pytest.raises(DeadHookError, match="an MLP with gates"):
        attribute(model, x, y, method="relp", **arguments)


@pytest.mark.filterwarnings("ignore")
def test_relp_refuses_hook_points_without_effect():
    layout = TokenLayout.groups({"a": [0, 1], "b": [2, 3, 4]}, n_tokens=5)
    with pytest.raises(DeadHookError, match="blocks.0.mlp.hook_pre has no effect"):
        attribute(
            bridged(WRAPPED["GPT-2"], "eager"), torch.randint(7, (2, 5)), torch.tensor([1, 2]), method="relp",
            by="modality", layout=layout, metric=lambda outputs, y: outputs[:, -1].gather(1, y[:, None])[:, 0],
        )  # fmt: skip


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_a_dead_edge_never_has_a_row_and_modality_is_a_sum(method):
    question = question_of(isonet())
    by_modality = attribute(question.model, question.x, question.y, method=method, by="modality")
    by_head = attribute(question.model, question.x, question.y, method=method, by="head")
    assert set(by_head.table.query("layer == 1")["dest"]) == {"cls"}  # a CLS readout: other rows of the last layer
    if method in ("gate_gradient", "chefer", "shared_gates"):
        assert by_modality.table["score"].sum() == pytest.approx(by_head.table["score"].sum(), abs=1e-6)
        names = by_head.table.assign(
            dest=by_head.table["dest"].str.split(".").str[0], src=by_head.table["src"].str.split(".").str[0]
        )
        sums = names.groupby(["layer", "dest", "src"])["score"].sum()
        for row in by_modality.table.itertuples():
            assert row.score == pytest.approx(sums[row.layer, row.dest, row.src], abs=1e-6)


def test_bad_inputs_are_refused_in_one_line():
    model = isonet()
    x, y = trials(model)
    broken = x.clone()
    broken[0, 0, 0] = torch.nan
    cases = [
        dict(y=y[:4]), dict(x=broken), dict(method="first_oder"), dict(metric="margins"), dict(floor=every()),
        dict(by="electrode"), dict(by={"both": cross_modal(), "some": cross_modal()}), dict(y=y + 5),
        dict(method=lambda question: torch.zeros(3)),
    ]  # fmt: skip
    for case in cases:
        arguments = {"x": x, "y": y, "method": "first_order", "by": "modality"} | case
        with pytest.raises(EmgLensError) as error:
            attribute(model, arguments.pop("x"), arguments.pop("y"), **arguments)
        assert "\n" not in str(error.value), case
    for passes in (0, -1, 2.5):
        with pytest.raises(EmgLensError):
            InputGradients(passes=passes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_permanently_masked_edges_are_not_listed(method):
    torch.manual_seed(0)
    masked = build_model("isonet", **DATA, **SIZES, n_layers=2, masked_edges="cross_modal()").eval()
    x, y = trials(masked)
    found = attribute(masked, x, y, method=method, by="modality")
    pairs = set(zip(found.table["dest"], found.table["src"], strict=True))
    assert ("emg", "acc") not in pairs and ("emg", "emg") in pairs
    edges = edges_from_mask(found.question.candidates)
    assert not (edges & cross_modal()).mask(masked.layout, 2, 2).any()
    assert len(cut(masked, edges))
