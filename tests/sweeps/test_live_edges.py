import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from emg_lens.hooks import cross_modal, flow, none, unimodal
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps.live_edges import reach

LAYERS, HEADS = 3, 2
LAYOUT = TokenLayout.channels({"emg": 2, "acc": 2})
CLS = torch.tensor([0])


def random_mask(seed: int, density: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(LAYERS, HEADS, len(LAYOUT), len(LAYOUT), generator=generator) < density


def model_with(readout: str, norm: str, positions: str, seed: int, permanent_mask: str = "") -> HookedBiosignalEncoder:
    torch.manual_seed(seed)
    config = EncoderConfig(
        {"emg": 2, "acc": 2},
        6,
        3,
        8,
        HEADS,
        LAYERS,
        8,
        readout=readout,
        norm=norm,
        positions=positions,
        masked_edges=permanent_mask,
    )
    return HookedBiosignalEncoder(config).eval().double()


def logits(model: HookedBiosignalEncoder, x: torch.Tensor, cut: torch.Tensor, weight=None) -> torch.Tensor:
    """Forward with the scores of `cut` at -inf; `weight` scales every edge, to take gradients by edge."""

    def scores(layer):
        return lambda s, hook: s.masked_fill(cut[layer], -torch.inf)

    def pattern(layer):
        return lambda p, hook: p * weight[layer]

    hooks = [(f"blocks.{i}.attn.hook_attn_scores", scores(i)) for i in range(LAYERS)]
    if weight is not None:
        hooks += [(f"blocks.{i}.attn.hook_pattern", pattern(i)) for i in range(LAYERS)]
    return model.run_with_hooks(x, fwd_hooks=hooks)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.1, 0.5, 0.9]),
    readout=st.sampled_from(["cls", "mean"]),
    norm=st.sampled_from(["pre", "post"]),
    positions=st.sampled_from(["learned", "rotary"]),
    permanent_mask=st.sampled_from(["", "flow('acc', 'cls')"]),
)
def test_dead_edges_have_no_gradient_and_cutting_them_changes_nothing(
    seed, density, readout, norm, positions, permanent_mask
):
    model = model_with(readout, norm, positions, seed, permanent_mask)
    x = model.example_input(2, seed).double()
    cut = random_mask(seed, density)
    found = reach(cut, model.readout_positions, model.permanent_mask())
    base = logits(model, x, cut)
    # cutting only the live part of the cut is the same function
    assert (
        torch.equal(logits(model, x, found.live_cut), base)
        or (logits(model, x, found.live_cut) - base).abs().max() < 1e-12
    )
    # an edge that is open but whose dest is dead has gradient exactly zero
    weight = torch.ones(LAYERS, HEADS, len(LAYOUT), len(LAYOUT), dtype=torch.double, requires_grad=True)
    logits(model, x, cut, weight).square().sum().backward()
    dead_rows = ~found.live_rows
    assert (weight.grad.abs().sum(dim=(1, 3))[dead_rows] == 0).all()


def test_a_live_edge_is_not_called_dead():
    """The other half of exactness: generic weights, and every open edge into a live row has a gradient."""
    model = model_with("cls", "post", "learned", 3)
    cut = random_mask(5, 0.3)
    found = reach(cut, model.readout_positions)
    weight = torch.ones(LAYERS, HEADS, len(LAYOUT), len(LAYOUT), dtype=torch.double, requires_grad=True)
    logits(model, model.example_input(2).double(), cut, weight).square().sum().backward()
    open_and_live = ~cut & found.live_rows[:, None, :, None]
    assert (weight.grad[open_and_live] != 0).all()


@pytest.mark.parametrize("edges", [unimodal(), cross_modal()])
def test_the_last_layer_is_a_structural_null_under_a_cls_readout(edges):
    def live(layers):
        return reach(edges.at(layers=layers).mask(LAYOUT, LAYERS, HEADS), CLS).live_cut

    assert not live([2]).any()
    assert torch.equal(live([0, 1, 2]), live([0, 1]))
    assert torch.equal(live([1, 2]), live([1]))
    assert live([1]).any()


def test_the_last_layer_is_live_under_a_mean_readout():
    mask = unimodal().at(layers=2).mask(LAYOUT, LAYERS, HEADS)
    assert not reach(mask, torch.arange(1, 5)).is_null


def test_a_cut_upstream_kills_edges_above_nothing_reads():
    everything_to_cls = flow("emg", "cls") | flow("acc", "cls")
    cut = (everything_to_cls | unimodal()).mask(LAYOUT, LAYERS, HEADS)
    found = reach(cut, CLS)
    assert torch.equal(found.live_cut, everything_to_cls.mask(LAYOUT, LAYERS, HEADS))


def test_masked_edges_are_neither_cut_nor_a_route():
    permanent_mask = flow("acc", "cls").mask(LAYOUT, LAYERS, HEADS)
    same = reach(permanent_mask, CLS, permanent_mask)
    assert same.is_null
    # with ACC -> EMG cut too, nothing of ACC is live any more
    found = reach(flow("acc", "emg").mask(LAYOUT, LAYERS, HEADS), CLS, permanent_mask)
    assert not found.live_rows[0, LAYOUT.positions("acc")].any()


def test_cutting_nothing_is_null():
    assert reach(none().mask(LAYOUT, LAYERS, HEADS), CLS).is_null


def test_a_model_without_attention_has_no_edges_that_live():
    assert reach(torch.zeros(0, 0, 3, 3, dtype=torch.bool), CLS).live_cut.numel() == 0
    assert reach(torch.zeros(1, 0, 3, 3, dtype=torch.bool), CLS).live_cut.numel() == 0
