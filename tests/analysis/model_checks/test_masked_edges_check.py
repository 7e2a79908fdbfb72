"""The checks of edges that a model masks itself."""

import pytest
import torch
from torch import Tensor, nn
from zoo.tiny_models import plain_native

from emg_lens import adapt, build_model, lag
from emg_lens.analysis import check_model
from emg_lens.layout import TokenLayout

SMALL = {"d_model": 12, "n_heads": 3, "n_layers": 2, "d_mlp": 8}


def findings(model: nn.Module, x: Tensor, **options):
    found = check_model(model.eval(), x, checks=["masked edges", "empty rows"], **options).findings
    return found["masked edges"], found["empty rows"]


class Masked(nn.Module):
    """torch's encoder layer with a mask of its own; [batch, pos, width]."""

    def __init__(self, mask: Tensor | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x, mask=self.mask)


X = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(0))


def band(least: int) -> Tensor:
    return (torch.arange(9)[:, None] - torch.arange(9)).abs() >= least


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("value", [-1e8, -1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_the_fraction_is_counted_for_every_value_of_a_mask(value, adapted):
    mask = torch.zeros(9, 9).masked_fill(band(6), value)
    model: nn.Module = Masked(mask)
    masked, empty = findings(adapt(model, X) if adapted else model, X)
    assert masked.verdict == "fail" and masked.number == pytest.approx(12 / 81)
    assert "those with |dest - src| ≥ 6" in masked.sentence and "48 of these edges" in masked.sentence
    assert empty.verdict == "pass" and empty.number == 0
    assert not hasattr(model.encoder.layers[0].self_attn, "hook_pattern") or adapted  # the model is not adapted itself


def test_edges_that_are_masked_on_purpose_can_be_given():
    model = Masked(band(6))
    layout = TokenLayout.patches({"emg": 1}, 9, cls=False)
    edges = (lag(6, 8) | lag(-8, -6)).mask(layout, n_layers=2, n_heads=2)
    for given in (band(6), edges[0], edges):
        assert findings(model, X, masked=given)[0].verdict == "pass"
    assert findings(model, X, masked=band(7))[0].verdict == "fail"
    edges = edges.clone()
    edges[1] = False  # the second layer masks them too
    assert "24 of these edges are not declared (in blocks.1.attn " in findings(model, X, masked=edges)[0].sentence
    other = findings(model, X, masked=torch.ones(5, 5, dtype=torch.bool))[0]
    assert other.verdict == "fail" and "masked has shape [5, 5]; expected [2, 9, 9]" in other.sentence


def test_a_causal_mask_explains_itself_and_a_window_in_it_does_not():
    causal = torch.ones(9, 9, dtype=torch.bool).triu(1)
    masked, _ = findings(Masked(causal), X)
    assert masked.verdict == "pass" and masked.number == pytest.approx(36 / 81)
    masked, _ = findings(Masked(causal | band(4)), X)
    assert masked.verdict == "fail" and "those with |dest - src| ≥ 4" in masked.sentence
    odd = causal.clone()
    odd[3, 1] = True
    assert "head 0, dest 3, src 1, for example" in findings(Masked(odd), X)[0].sentence


def test_a_mask_of_one_trial_is_not_an_edge_that_the_model_lacks():
    class Padded(Masked):
        def forward(self, x: Tensor) -> Tensor:
            padding = torch.zeros(len(x), 9, dtype=torch.bool)
            padding[0, 5:] = True
            return self.encoder(x, src_key_padding_mask=padding)

    masked, empty = findings(Padded(None), X)
    assert masked.verdict == empty.verdict == "pass" and masked.number == 0


def test_empty_rows_are_counted():
    mask = torch.zeros(9, 9)
    mask[2] = mask[7] = -1e9
    _, empty = findings(Masked(mask), X)
    assert empty.verdict == "fail" and empty.number == 2 * 2 * 2 * 3  # rows, layers, heads, trials
    assert "blocks.0.attn: 12" in empty.sentence


def test_edges_that_our_models_declare_are_counted_and_pass():
    model = build_model("tinymyo-speech", modalities={"emg": 2}, n_samples=1040, n_classes=3, **SMALL)
    assert model.cfg.n_ctx == 130
    masked, _ = findings(model, model.example_input(2))
    assert masked.verdict == "pass" and masked.number == pytest.approx(5580 / 101400)
    isonet = build_model(
        "isonet", modalities={"emg": 2, "acc": 2}, n_samples=20, n_classes=2, masked_edges="flow('acc', 'emg')", **SMALL
    )
    masked, _ = findings(isonet, isonet.example_input(2))
    assert masked.verdict == "pass" and masked.number == pytest.approx(4 / 25)


def test_our_model_with_a_mask_that_it_does_not_declare_fails():
    model = build_model("isonet", modalities={"emg": 3}, n_samples=20, n_classes=2, **SMALL)

    class Undeclared(type(model.blocks[1].attn)):
        def normalise(self, scores: Tensor) -> Tensor:
            return super().normalise(scores)

        def project(self, *args, **kwargs):
            q, k, v = super().project(*args, **kwargs)
            return q, k.index_fill(1, torch.tensor([2]), -torch.inf) if k.shape[1] > 2 else k, v

    model.blocks[1].attn.__class__ = Undeclared
    with torch.no_grad():
        model.blocks[1].attn.W_Q.abs_()
        model.blocks[1].attn.b_Q.fill_(100.0)
    masked, _ = findings(model, model.example_input(3))
    assert masked.verdict == "fail" and "blocks.1.attn" in masked.sentence


def test_models_without_attention_and_models_of_transformer_lens():
    masked, empty = findings(nn.Linear(8, 2), X)
    assert masked.verdict == empty.verdict == "not applicable" and "attention" in masked.sentence
    tokens = torch.randint(5, 20, (2, 6), generator=torch.Generator().manual_seed(0))
    masked, _ = findings(plain_native("causal"), tokens)
    assert masked.verdict == "pass" and masked.number == pytest.approx(15 / 36)


def test_the_lowest_value_of_half_precision_is_a_mask():
    mask = torch.zeros(9, 9).masked_fill(band(6), torch.finfo(torch.float16).min).half()
    masked, _ = findings(Masked(mask).half(), X.half())
    assert masked.number == pytest.approx(12 / 81)
