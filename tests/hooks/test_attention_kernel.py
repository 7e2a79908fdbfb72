import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emg_lens.hooks.attention_kernel import editing_attention

Q, K, V = (torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
CUT = torch.rand(4, 5, 5, generator=torch.Generator().manual_seed(3)) < 0.4


class Fused(nn.Module):
    """A module whose forward is one call of torch's fused attention."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **self.options)


class Read:
    """An edit without a cut."""

    def before(self, scores):
        return scores

    def after(self, pattern):
        self.pattern = pattern
        return pattern


class Cut(Read):
    def __init__(self, mask=CUT):
        self.mask = mask

    def before(self, scores):
        return scores.masked_fill(self.mask, -torch.inf)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.rand(5, 5) < 0.8},
        {"attn_mask": torch.randn(2, 1, 5, 5)},
    ],
)
def test_the_explicit_path_equals_torchs_fused_attention(options):
    if options.get("attn_mask") is not None and options["attn_mask"].dtype == torch.bool:
        options["attn_mask"][:, 0] = True
    fused = Fused(**options)
    plain = fused(Q, K, V)
    with editing_attention(fused, Read()):
        torch.testing.assert_close(fused(Q, K, V), plain)


def test_grouped_queries_share_keys():
    fused = Fused(enable_gqa=True)
    plain = fused(Q, K[:, :2], V[:, :2])
    with editing_attention(fused, Read()):
        torch.testing.assert_close(fused(Q, K[:, :2], V[:, :2]), plain)


def test_a_cut_equals_torchs_own_mask():
    fused = Fused()
    with editing_attention(fused, Cut()):
        out = fused(Q, K, V)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(Q, K, V, attn_mask=~CUT))


@pytest.mark.parametrize(
    "softmax",
    [
        lambda s: F.softmax(s, dim=-1),
        lambda s: F.softmax(s, dim=-1, dtype=torch.float64),
        lambda s: torch.softmax(s, -1),
        lambda s: torch.softmax(input=s, dim=-1),
        lambda s: s.softmax(-1),
        lambda s: s.softmax(dim=-1),
    ],
)
def test_every_way_to_call_softmax_is_caught(softmax):
    module = nn.Module()
    module.forward = softmax
    scores = Q @ K.transpose(-1, -2)
    with editing_attention(module, Cut()):
        assert (module(scores)[:, CUT] == 0).all()
    assert (module(scores) > 0).all() and module.__dict__["forward"] is softmax


def test_softmax_over_something_else_is_left_alone():
    module = nn.Module()
    module.forward = lambda x: x.softmax(-1)
    with editing_attention(module, Cut()):
        assert module(torch.zeros(3, 4)).eq(0.25).all()


def test_edits_run_in_order_and_are_removed_one_by_one():
    fused, first, second = Fused(), Cut(), Read()
    with editing_attention(fused, first):
        with editing_attention(fused, second):
            fused(Q, K, V)
        assert (second.pattern[:, CUT] == 0).all()
        del second.pattern
        fused(Q, K, V)
        assert not hasattr(second, "pattern")
    assert "forward" not in fused.__dict__


def test_nothing_outside_the_module_is_caught():
    scores = Q @ K.transpose(-1, -2)
    with editing_attention(Fused(), Cut()):
        assert (scores.softmax(-1) > 0).all()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 6])
def test_edits_reach_the_attention_inside_torchs_multi_head_attention(need_weights, batch_first, kdim):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 4, batch_first=batch_first, kdim=kdim, vdim=kdim).eval()
    query = torch.randn(*((2, 5) if batch_first else (5, 2)), 8)
    key = query if kdim is None else torch.randn(*query.shape[:2], kdim)
    cut = CUT & (torch.arange(5) != 0)  # no row loses everything
    mask = torch.zeros(2, 4, 5, 5).masked_fill(cut, -torch.inf).flatten(0, 1)
    padding = torch.zeros(2, 5).masked_fill(torch.arange(5) == 4, -torch.inf)
    expected, _ = attention(query, key, key, need_weights=need_weights, attn_mask=mask, key_padding_mask=padding)
    with editing_attention(attention, Cut(cut)):
        out, weights = attention(query, key, key, need_weights=need_weights, key_padding_mask=padding)
    torch.testing.assert_close(out, expected)
    assert (weights is not None) == need_weights
