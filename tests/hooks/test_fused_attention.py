"""`cutting` keeps torch's fused attention fused, and gives the same result as the explicit cut."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emg_lens.hooks import DeadHookError, adapt, cross_modal, cut, cutting, flow, positions, unimodal
from emg_lens.hooks import cuts as cuts_module
from emg_lens.hooks.fused_attention import FusedCall, as_bias
from emg_lens.layout import TokenLayout
from emg_lens.models import build_model

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2}, cls=True)
Q, K, V = (torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
CUT = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(3)) < 0.5
CUT[1, 2] = True
PADDING = torch.zeros(2, 1, 1, 6).masked_fill(torch.arange(6) == 5, torch.finfo(torch.float32).min)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": PADDING}, {"attn_mask": torch.ones(6, 6).tril().bool()}],
    ids=["plain", "causal", "scale", "padding", "mask"],
)
def test_a_fused_call_with_a_cut_is_the_softmax_of_the_remaining_scores(options):
    call = FusedCall(Q, K, **options)
    scores = Q @ K.mT * options.get("scale", 8**-0.5)
    allowed = torch.ones(6, 6).tril().bool() if options.get("is_causal") else options.get("attn_mask", CUT | ~CUT)
    left = ~CUT & (allowed if allowed.dtype == torch.bool else allowed > -1e30)
    expected = scores.masked_fill(~left, -torch.inf).softmax(-1).nan_to_num() @ V
    fused = call.without(CUT, as_bias(CUT, Q.dtype))
    torch.testing.assert_close(fused.output(V), expected)
    rows = torch.tensor([0, 2, 5])
    torch.testing.assert_close(fused.output(V, rows), expected[..., rows, :])
    assert (fused.output(V)[:, 1, 2] == 0).all()  # a row without edges


def explicit_scores(monkeypatch):
    """Count how often scores are computed as a whole."""
    counted, scores = [], FusedCall.scores
    monkeypatch.setattr(
        FusedCall, "scores", lambda self, *rows: (counted.append(1) if not rows else None, scores(self, *rows))[1]
    )
    return counted


@pytest.mark.parametrize("edges", [cross_modal(), unimodal("emg").at(heads=1), positions(dest=[2])], ids=str)
def test_attention_stays_fused_inside_cutting_and_equals_torchs_mask(encoder, edges, monkeypatch):
    x = torch.randn(2, 6, 16)
    adapted = adapt(encoder, x)
    with cutting(adapted, edges, LAYOUT) as report:
        counted = explicit_scores(monkeypatch)
        out = encoder(x)
        assert not counted
        read = []
        hooked = adapted.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_pattern", lambda p, hook: read.append(p))])
        assert len(counted) == 1  # the hook reads the pattern of one layer
    mask = edges.mask(LAYOUT, 1, 2)[0]
    assert (read[0][:, mask] == 0).all()
    torch.testing.assert_close(hooked, out)
    torch.testing.assert_close(adapted.run_with_hooks(x, fwd_hooks=cut(adapted, edges, LAYOUT)), out)
    if not mask.all(-1).any():
        torch.testing.assert_close(out, encoder(x, mask=mask.repeat(2, 1, 1)))
    assert all(entry.trials == entry.trials_measured == 4 and entry.mass_removed > 0 for entry in report.layers)


def test_our_encoders_stay_fused_and_have_gradients_that_stop_at_cut_edges(monkeypatch):
    torch.manual_seed(0)
    model = build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=3, d_model=16, n_heads=2)
    model.eval()
    x = model.example_input(2).requires_grad_()
    with cutting(model, flow("acc", "cls") | flow("acc", "emg")):
        counted = explicit_scores(monkeypatch)
        fused, output = [], FusedCall.output
        monkeypatch.setattr(FusedCall, "output", lambda *a, **k: (fused.append(len(a)), output(*a, **k))[1])
        model(x).sum().backward()
    assert not counted and fused.count(2) == model.cfg.n_layers
    assert x.grad[:, 3:].abs().max() == 0 < x.grad[:, :3].abs().max()


def test_a_fused_attention_that_ignores_its_mask_is_an_error(encoder, monkeypatch):
    x = torch.randn(2, 6, 16)
    adapted = adapt(encoder, x)
    output = FusedCall.output

    def ignores(self, value, rows=None):
        return (
            output(self, value, rows)
            if rows is not None
            else F.scaled_dot_product_attention(self.query, self.key, value)
        )

    with (
        pytest.raises(DeadHookError, match="fused attention does not give the output of the cut"),
        cutting(adapted, cross_modal(), LAYOUT),
    ):
        monkeypatch.setattr(FusedCall, "output", ignores)
        encoder(x)


def test_an_evenly_spaced_sample_is_measured_where_all_trials_need_too_much_memory(encoder, monkeypatch):
    x = torch.randn(64, 6, 16)
    adapted = adapt(encoder, x[:1])
    with cutting(adapted, cross_modal(), LAYOUT) as whole:
        encoder(x)
    monkeypatch.setattr(cuts_module, "MOST_BYTES", 3 * 16 * 2 * 6 * 16 * 4)  # queries and keys of 16 trials
    with cutting(adapted, cross_modal(), LAYOUT) as part:
        encoder(x[:40]), encoder(x[40:])
    with cutting(adapted, cross_modal(), LAYOUT) as every_fourth:
        encoder(x[::4])
    for sampled, exact, all_trials in zip(part.layers, every_fourth.layers, whole.layers, strict=True):
        assert (sampled.trials, sampled.trials_measured, all_trials.trials_measured) == (64, 16, 64)
        assert sampled.mass_removed == pytest.approx(exact.mass_removed, rel=1e-5)
