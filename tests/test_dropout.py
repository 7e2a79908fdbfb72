"""Dropout and attention as they run in training on a CPU, against torch's own autograd and plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from emg_lens.data import Batch
from emg_lens.models.attention import Attention
from emg_lens.models.dropout import LEVELS, drop, keep_mask
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.models.mixing import attend
from emg_lens.training import Classification, TrainingRecipe


@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_a_mask_drops_the_given_fraction_and_keeps_the_expectation(p):
    torch.manual_seed(0)
    mask = keep_mask((400, 1003), p, torch.float64)
    dropped = (mask == 0).double()
    assert abs(dropped.mean() - p) < 5 * math.sqrt(p * (1 - p) / mask.numel()) + 1 / LEVELS
    assert len(mask.unique()) == 2 and abs(mask.mean() - 1) < 5 * math.sqrt(p / (1 - p) / mask.numel())


def test_values_from_the_same_random_bits_are_dropped_independently():
    torch.manual_seed(0)
    kept = (keep_mask((100_000, 4), 0.3) > 0).double()
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(len(kept))
    assert (kept.mean(0) - 0.7).abs().max() < 5 * math.sqrt(0.21 / len(kept))
    along = torch.corrcoef(torch.stack([kept.flatten()[:-1], kept.flatten()[1:]]))[0, 1]
    assert along.abs() < 5 / math.sqrt(kept.numel())


def test_the_seed_decides_the_mask():
    masks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        masks.append(keep_mask((7, 5), 0.5))
    assert masks[0].equal(masks[1]) and not masks[0].equal(masks[2])


def test_the_largest_p_still_keeps_something_and_no_p_changes_nothing():
    torch.manual_seed(0)
    assert keep_mask((1000,), 1 - 1e-9).isfinite().all()
    x = torch.randn(5)
    assert drop(x, 0.0) is x


def test_many_tensors_in_one_are_left_to_torch():
    torch.manual_seed(0)
    x = torch.ones(50, 40)
    dropped = torch.func.vmap(lambda row: drop(row, 0.5), randomness="different")(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and not dropped[0].equal(dropped[1])


def plain_attention(q, k, v, permanent_mask, kept):
    """By the formula, `[batch, pos, head, d_head]`; `kept` is `[head, batch, src, dest]`."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    pattern = scores.masked_fill(permanent_mask, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", pattern * kept.permute(1, 0, 3, 2), v)


@pytest.mark.parametrize(("n_dest", "p"), [(6, 0.0), (6, 0.4), (1, 0.4)])
def test_attention_and_its_gradients_are_those_of_the_formula(n_dest, p):
    torch.manual_seed(0)
    batch, n_src, n_heads, d_head = 3, 6, 2, 4
    q = torch.randn(batch, n_dest, n_heads, d_head, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(batch, n_src, n_heads, d_head, dtype=torch.float64, requires_grad=True) for _ in range(2))
    permanent_mask = torch.rand(n_heads, n_dest, n_src) < 0.3
    permanent_mask[..., 0] = False
    weight = torch.randn(batch, n_dest, n_heads, d_head, dtype=torch.float64)
    torch.manual_seed(1)
    kept = keep_mask((n_heads, batch, n_src, n_dest), p, torch.float64) if p else torch.ones(1, 1, 1, 1)
    expected = plain_attention(q, k, v, permanent_mask, kept)
    torch.manual_seed(1)
    found = attend(q, k, v, permanent_mask, p)
    assert (found - expected).abs().max() < 1e-12
    gradients = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (found, expected)]
    assert max((a - b).abs().max() for a, b in zip(*gradients, strict=True)) < 1e-12


def build(**settings) -> IsoNet:
    torch.manual_seed(0)
    config = IsoNetConfig({"emg": 3, "acc": 2}, 10, 4, d_model=16, n_heads=2, n_layers=3, d_mlp=8, **settings)
    return IsoNet(config).double()


def gradients(model: HookedBiosignalEncoder, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("permanent_mask", ["", "flow('acc', 'emg')", "flow('emg', 'cls')"])
def test_a_step_that_reads_cls_alone_has_the_gradients_of_a_whole_one(norm, permanent_mask):
    model = build(dropout=0.0, norm=norm, masked_edges=permanent_mask).train()
    x, y = model.example_input(5).double(), torch.arange(5) % 4
    alone = gradients(model, F.cross_entropy(model(x), y))
    whole = gradients(model, F.cross_entropy(model(x, return_type="both")[0], y))
    assert alone.keys() == whole.keys()
    assert max((alone[n] - whole[n]).abs().max() for n in alone) < 1e-12


@pytest.mark.parametrize(
    "settings",
    [{}, {"positions": "rotary"}, {"qkv_bias": False, "norm": "pre"}, {"masked_edges": "flow('emg', 'cls')"}],
)
@pytest.mark.parametrize("anneal", [0.3, 1.0])
def test_positions_innermost_changes_no_number(settings, anneal, monkeypatch):
    model = build(dropout=0.2, **settings).train()
    for parameter in model.parameters():  # biases are born zero
        torch.nn.init.normal_(parameter, std=0.5)
    x, y = model.example_input(5).double(), torch.arange(5) % 4

    def step():
        torch.manual_seed(1)
        losses, cls = Classification().batch_losses(model, Batch(x, y), anneal, TrainingRecipe(), torch.Generator())
        return cls.detach(), gradients(model, losses.mean())

    assert model.blocks[0].attn._mixes_by_position(x)
    found, found_gradients = step()

    def mix(self, q, k, v):  # the same dropout, which `mix` would leave to torch
        return attend(
            q, k, v, None if self.permanent_mask is None else self.permanent_mask[:, : q.shape[1]], self.cfg.dropout
        )

    monkeypatch.setattr(Attention, "mix", mix)
    monkeypatch.setattr(Attention, "_mixes_by_position", lambda self, x: False)
    expected, expected_gradients = step()
    assert (found - expected).abs().max() < 1e-12
    assert found_gradients.keys() == expected_gradients.keys()
    assert max((found_gradients[n] - expected_gradients[n]).abs().max() for n in found_gradients) < 1e-12


def test_a_hook_in_training_sees_every_position():
    model = build(dropout=0.1).train()
    seen = {}

    def see(value, hook):
        seen[hook.name.removeprefix("blocks.2.")] = value.shape

    names = ("hook_resid_post", "attn.hook_pattern", "attn.hook_z")
    model.run_with_hooks(model.example_input(2).double(), fwd_hooks=[(f"blocks.2.{name}", see) for name in names])
    assert seen == {"hook_resid_post": (2, 6, 16), "attn.hook_pattern": (2, 2, 6, 6), "attn.hook_z": (2, 6, 2, 8)}


def test_a_hook_behind_the_last_block_sees_every_position():
    model, seen = build(dropout=0.1, norm="pre").train(), []
    hook = ("ln_final.hook_normalized", lambda value, hook: seen.append(value.shape))
    model.run_with_hooks(model.example_input(2).double(), fwd_hooks=[hook])
    assert seen == [(2, 6, 16)]


def test_dropout_acts_in_training_alone_and_the_seed_decides_it():
    model = build(dropout=0.3)
    x = model.example_input(4).double()
    quiet = model.eval()(x)
    assert quiet.equal(model(x))
    model.train()
    torch.manual_seed(1)
    first, second = model(x), model(x)
    torch.manual_seed(1)
    assert first.equal(model(x)) and not first.equal(second) and not first.equal(quiet)
