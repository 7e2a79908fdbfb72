"""A cut is the model's own attention with -inf before its own normalisation, or it is refused."""

from contextlib import nullcontext
from importlib.metadata import version

import pytest
import torch
from toy import Toy, ToyAttention, intervention_point
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from zoo.architectures import TinyArchitecture
from zoo.tiny_models import bridged

from emg_lens.hooks import DeadHookError, cross_modal, cut, cutting, every, flow, positions
from emg_lens.hooks.verification.probe import find_intervention_point
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})
EDGES = cross_modal() | flow("emg", "cls").at(heads=1) | positions(dest=[2]).at(layers=1)
MASK = EDGES.mask(LAYOUT, 3, 2)
X = Toy(LAYOUT).example_input(4)


def softmax_by_hand(scores):
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


def softmax_plus_one(scores):
    weights = scores.exp()
    return weights / (1 + weights.sum(-1, keepdim=True))


def with_sink(scores):
    sink = scores.new_full((*scores.shape[:-1], 1), 0.7)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]


def thresholded(scores):
    pattern = scores.softmax(-1)
    return pattern * (pattern > 0.12)


def squared_relu(scores):
    return scores.relu().square()


NORMALISATIONS = {
    "softmax": lambda scores: scores.softmax(-1),
    "softmax by hand": softmax_by_hand,
    "softmax plus one": softmax_plus_one,
    "sink": with_sink,
    "thresholded": thresholded,
    "sigmoid": torch.sigmoid,
    "squared relu": squared_relu,
}


class OwnAttention(ToyAttention):
    """Attention with a normalisation of its own; `permanent_mask` is a cut without hooks."""

    normalise, permanent_mask, live = staticmethod(softmax_by_hand), None, True

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = self.raw(q @ k.transpose(-1, -2))
        if self.permanent_mask is not None:
            scores = scores.masked_fill(self.permanent_mask, -torch.inf)
        if self.live:
            scores = self.hook_attn_scores(scores)
        pattern = self.normalise(self.capped(scores))
        if self.permanent_mask is not None:
            pattern = pattern.nan_to_num()
        pattern = self.hook_pattern(self.dropped(pattern))
        return self.out((self.hook_z((pattern @ v).transpose(1, 2))).flatten(2)) + self.second_branch(x)

    def raw(self, scores):
        return scores

    def capped(self, scores):
        return scores

    def dropped(self, pattern):
        return pattern

    def second_branch(self, x):
        return 0.0


def toy(kind=OwnAttention, normalise=torch.sigmoid, **settings):
    model = Toy(LAYOUT, zero_nan=False, std=0.25).eval()
    for block in model.blocks:
        block.attn.__class__ = kind
        block.attn.normalise = normalise
        vars(block.attn).update(settings)
    return model


def reference(model, x=X):
    for layer, block in enumerate(model.blocks):
        block.attn.permanent_mask = MASK[layer]
    return model(x)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_the_cut_comes_before_the_normalisation(name):
    normalise = NORMALISATIONS[name]
    expected, plain = reference(toy(normalise=normalise)), toy(normalise=normalise)(X)
    assert (expected - plain).abs().max() > 0.01
    model = toy(normalise=normalise)
    with cutting(model, EDGES) as report:
        out = model(X)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert all(entry.attention_left == 0 for entry in report.layers)
    hooked = model.run_with_hooks(X, fwd_hooks=cut(model, EDGES))
    torch.testing.assert_close(hooked, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in NORMALISATIONS if name not in ("softmax", "sink", "thresholded")])
def test_a_normalisation_without_a_torch_function_is_refused(name):
    """Zeroing and renormalising the pattern gives another result for most of these."""
    model = toy(normalise=NORMALISATIONS[name], live=False)
    for call in (cut, lambda *args: cutting(*args).__enter__()):
        with pytest.raises(
            DeadHookError, match="attention_mask: in layer 0 .blocks.0.attn. it calls neither|pattern: in layer 0"
        ):
            call(model, EDGES)


def test_the_attention_of_a_sink_does_not_count_as_removed():
    model = toy(normalise=with_sink)
    with cutting(model, every()) as report:
        model(X)
    seen = []
    plain = toy(normalise=with_sink)
    plain.run_with_hooks(
        X, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda p, hook: seen.append(p.sum(-1).mean().item()))]
    )
    assert report.layers[0].mass_removed == pytest.approx(seen[0], abs=1e-6)
    assert report.layers[0].rows_fully_cut == 12


def test_removed_mass_is_nan_where_attention_is_no_softmax():
    model = toy(normalise=torch.sigmoid)
    with cutting(model, EDGES) as report:
        model(X)
    assert report.layers[0].mass_removed != report.layers[0].mass_removed


class Capped(OwnAttention):
    """Scores are capped after the hook: -inf becomes -2, so the edge is not cut."""

    def capped(self, scores):
        return 2 * torch.tanh(scores / 2)


def test_a_score_hook_before_a_soft_cap_is_not_used():
    model = toy(Capped, NORMALISATIONS["softmax"])
    assert "token" in find_intervention_point(model, LAYOUT).facts[0].refusals["scores", False]
    assert intervention_point(model) == "attention_mask"
    with cutting(model, EDGES):
        out = model(X)
    hooked = model.run_with_hooks(X, fwd_hooks=cut(model, EDGES))  # at the pattern, which a softmax made
    torch.testing.assert_close(hooked, out)


class SecondBranch(OwnAttention):
    """Another route between tokens in the same module."""

    def second_branch(self, x):
        return 0.1 * x.mean(1, keepdim=True)


class NeighboursAttention(OwnAttention):
    """Every token also reads the previous token; edges to tokens further away do not show it."""

    def second_branch(self, x):
        return 0.1 * torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


class SecondAttention(OwnAttention):
    """Two softmaxes in one module, hook points on one of them."""

    def second_branch(self, x):
        return (x @ x.transpose(-1, -2))[:, None].expand(-1, 2, -1, -1).softmax(-1).mean(1) @ x


@pytest.mark.parametrize("kind", [SecondBranch, NeighboursAttention])
def test_a_second_branch_of_the_module_is_refused(kind):
    model = toy(kind, NORMALISATIONS["softmax"])
    with pytest.raises(DeadHookError, match=r"attention_mask: in layer 0 .* still influences token \d after the edge"):
        intervention_point(model)


def test_two_attentions_in_a_module_are_both_cut_or_refused():
    model = toy(SecondAttention, NORMALISATIONS["softmax"])
    assert intervention_point(model) == "attention_mask"
    edges = flow("acc", "emg") | flow("acc", "cls")
    x, other = X.clone(), X.clone()
    other[:, 4:] += 1
    moved = []
    for given in (x, other):
        with cutting(model, edges) as report:
            moved.append(model(given)[:, :4])
    assert torch.equal(*moved) and report.routes == ()


def test_another_route_between_tokens_is_named_in_the_report():
    class Mixing(type(Toy(LAYOUT).blocks[1])):
        def forward(self, x):
            return super().forward(x) + self.mix(x)

    model = Toy(LAYOUT)
    model.blocks[1].__class__ = Mixing
    model.blocks[1].mix = torch.nn.Conv1d(6, 6, 1)
    with cutting(model, every()) as report:
        model(X)
    assert report.routes == (
        "layer 1: information also passes between tokens outside blocks.1.attn, through blocks.1.mix; this is not cut",
    )
    assert "through blocks.1.mix" in repr(report)
    with cutting(model, every().at(layers=0)) as report:
        model(X)
    assert report.routes == ()


# --- layers that differ --------------------------------------------------------------------------------


def test_a_layer_with_other_operations_has_its_own_check():
    model = toy(normalise=NORMALISATIONS["softmax"])
    model.blocks[1].attn.__class__ = Capped
    facts = find_intervention_point(model, LAYOUT).facts
    assert [facts[layer].refusals["scores", True] is None for layer in range(3)] == [True, False, True]


class LearnedMixing(OwnAttention):
    """A second branch with the same operations in every layer, which mixes tokens only where its matrix does."""

    def second_branch(self, x):
        return self.mixing @ x


def test_a_route_that_only_the_weights_of_one_layer_open_is_found():
    model = toy(LearnedMixing, NORMALISATIONS["softmax"])
    for block in model.blocks:
        block.attn.mixing = torch.nn.Parameter(torch.eye(6))
    with cutting(model, cross_modal(), LAYOUT):
        model(X)
    other = toy(LearnedMixing, NORMALISATIONS["softmax"])
    for layer, block in enumerate(other.blocks):
        block.attn.mixing = torch.nn.Parameter(torch.eye(6) + (layer == 2) * 0.1)
    with pytest.raises(DeadHookError, match=r"in layer 2 .* still influence"), cutting(other, cross_modal(), LAYOUT):
        raise AssertionError("not reached")


# --- the pattern, where nothing else is within reach of hooks ----------------------------------------------


def test_a_pattern_that_has_underflowed_is_not_renormalised():
    edges, large = (flow("acc", "emg") | flow("emg", "emg")).at(layers=0), 40 * X
    model = Toy(LAYOUT, live="pattern")
    hooks = cut(model, edges)
    with pytest.raises(DeadHookError, match="the remaining values of a row have underflowed in torch.float32"):
        model.run_with_hooks(large, fwd_hooks=hooks)
    with cutting(model, edges) as report:
        out = model(large)
    exact = Toy(LAYOUT)
    expected = exact.run_with_hooks(large, fwd_hooks=cut(exact, edges))  # the scores are within reach
    assert report.intervention_point == "attention_mask" and expected.isfinite().all()
    torch.testing.assert_close(out, expected)


def test_a_causal_pattern_of_another_length_is_another_pattern():
    causal = torch.ones(9, 9, dtype=torch.bool).triu(1)

    class Causal(OwnAttention):
        live = False

        def raw(self, scores):
            return scores.masked_fill(causal[: scores.shape[-2], : scores.shape[-1]], -torch.inf)

    model = toy(Causal, NORMALISATIONS["softmax"], live=False)
    for n in (6, 9, 6):
        layout = TokenLayout.groups({"early": range(4)}, n_tokens=n)
        x = torch.randn(2, n, 4)
        model.n_tokens = n
        hooked = model.run_with_hooks(x, fwd_hooks=cut(model, flow("early", "early"), layout))
        with cutting(model, flow("early", "early"), layout):
            torch.testing.assert_close(hooked, model(x))


class Dropped(OwnAttention):
    """Dropout comes before the pattern hook, as in some bridges; the scores hook has no effect."""

    live = False

    def dropped(self, pattern):
        return torch.nn.functional.dropout(pattern, 0.3, self.training)


def test_dropout_before_the_pattern_hook_is_not_undone():
    model = toy(Dropped, NORMALISATIONS["softmax"], live=False)
    hooks = cut(model, EDGES)
    model.run_with_hooks(X, fwd_hooks=hooks)
    model.train()
    with pytest.raises(DeadHookError, match=r"a row sums to .*, expected 1. Dropout or an attention sink"):
        model.run_with_hooks(X, fwd_hooks=hooks)
    twin = toy(Dropped, NORMALISATIONS["softmax"], live=False).train()
    torch.manual_seed(0)
    with cutting(model, EDGES):
        out = model(X)
    torch.manual_seed(0)
    torch.testing.assert_close(out, reference(twin))


@pytest.mark.parametrize("scale", [1, 3, 6, 10, 20])
def test_a_pattern_in_half_precision_is_renormalised_correctly_or_refused(scale):
    edges, x = (flow("acc", "emg") | flow("emg", "emg")).at(layers=0), (scale * X).half()
    model, twin = Toy(LAYOUT, n_layers=1, live="pattern").half(), Toy(LAYOUT, n_layers=1).half()
    expected = twin.run_with_hooks(x, fwd_hooks=cut(twin, edges))
    with cutting(model, edges):
        torch.testing.assert_close(model(x), expected)
    try:
        out = model.run_with_hooks(x, fwd_hooks=cut(model, edges))
    except DeadHookError as refusal:
        assert "underflowed in torch.float16" in str(refusal)
        return
    assert scale < 10 and (out - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_peaked_attention_of_the_native_bridge_is_cut_correctly_or_refused(direction, dtype):
    """Only the pattern hook works, and nearly all attention is on the cut edges."""
    words, edges = torch.randint(5, 20, (4, 6), generator=torch.Generator().manual_seed(0)), flow("emg", "emg")
    layout = TokenLayout.groups({"emg": [1, 2, 3, 4]}, n_tokens=6)
    outputs = {}
    for kind in (torch.float64, dtype):
        torch.manual_seed(0)
        sizes = {"n_layers": 1, "d_model": 16, "d_head": 8, "n_heads": 2, "d_mlp": 32, "n_ctx": 16, "d_vocab": 20}
        model = TransformerBridge.boot_native(
            TransformerBridgeConfig(**sizes, act_fn="gelu", attention_dir=direction)
        ).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=1.5)
        model = model.to(kind)
        with torch.no_grad(), cutting(model, edges, layout):
            outputs[kind] = model(words).double()
    size = outputs[torch.float64].abs().max()
    assert (outputs[dtype] - outputs[torch.float64]).abs().max() < 30 * torch.finfo(dtype).eps * size
    with pytest.raises(DeadHookError, match="underflowed|use: with cutting"):
        model.run_with_hooks(words, fwd_hooks=cut(model, edges, layout))


@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_live_hook_that_writes_attention_back_on_the_native_bridge_is_an_error(direction):
    sizes = {"n_layers": 2, "d_model": 16, "d_head": 8, "n_heads": 2, "d_mlp": 32, "n_ctx": 16, "d_vocab": 20}
    config = TransformerBridgeConfig(**sizes, act_fn="gelu", attention_dir=direction)
    model, words = TransformerBridge.boot_native(config).eval(), torch.randint(5, 20, (2, 6))
    write_back = [("blocks.1.attn.hook_pattern", lambda pattern, hook: torch.full_like(pattern, 1 / 6))]
    layout = TokenLayout.groups({"emg": [1, 2, 3, 4]}, n_tokens=6)
    live = not torch.equal(model.run_with_hooks(words, fwd_hooks=write_back), model(words))
    assert live or version("transformer-lens").startswith("3."), "in 3.9 this hook has no effect"
    refused = pytest.raises(DeadHookError, match="still has attention") if live else nullcontext()
    with refused, cutting(model, flow("emg", "emg"), layout):
        model.run_with_hooks(words, fwd_hooks=write_back)


# --- hybrids ----------------------------------------------------------------------------------------------

OTHER_ROUTE = "layer {0}: information also passes between tokens outside blocks.{0}.attn"
SMALL = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
}
FALCON_H1 = {
    **SMALL,
    "head_dim": 8,
    "mamba_d_ssm": 16,
    "mamba_n_heads": 2,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
}
JAMBA = {
    **SMALL,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "mamba_d_state": 4,
    "mamba_dt_rank": 4,
    "use_mamba_kernels": False,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "architecture, config, sizes, routes",
    [
        (
            "FalconH1ForCausalLM",
            "FalconH1Config",
            FALCON_H1,
            [f"{OTHER_ROUTE.format(layer)}, through blocks.{layer}.mamba; this is not cut" for layer in (0, 1)],
        ),
        (
            "JambaForCausalLM",
            "JambaConfig",
            JAMBA,
            ["layers without attention: 0; information between tokens there is not cut"],
        ),
    ],
)
def test_a_report_names_the_other_routes_of_a_hybrid_model(architecture, config, sizes, routes):
    if architecture not in SUPPORTED_ARCHITECTURES:
        pytest.skip(f"this TransformerLens does not bridge {architecture}")
    bridge = bridged(TinyArchitecture(architecture, config, sizes, ""), "eager")
    words = torch.randint(5, 20, (1, 6))
    other = words.clone()
    other[:, 1] = (words[:, 1] + 1) % 20
    layout, edges = TokenLayout.groups({"source": [1]}, n_tokens=6), positions(src=[1])
    edges = edges.at(layers=None if architecture.startswith("Falcon") else 1)
    with torch.no_grad(), cutting(bridge, edges, layout) as report:
        moved = (bridge(words) - bridge(other))[:, 2:].abs().max()
    assert moved > 1e-6 and list(report.routes) == routes
