"""Relative positions: the formula, their limit, edges beyond it as dead edges, and vectors that are not trained."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from emg_lens import every, lag
from emg_lens.analysis import random_edges
from emg_lens.data import Batch
from emg_lens.errors import EmgLensError
from emg_lens.hooks import cutting, gate_edges
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import HookedBiosignalEncoder, TinyMyoSpeech, build_model
from emg_lens.sweeps import Condition, audit, sweep
from emg_lens.training import TrainingRecipe, fit, fit_cohort

SMALL = {"d_model": 12, "n_heads": 2, "n_layers": 2, "d_mlp": 16, "relative_reach": 4}
SPEECH = {"modalities": {"emg": 3}, "n_samples": 61, "n_classes": 5}  # 8 steps


def speech(**changes):
    torch.manual_seed(0)
    model = build_model("tinymyo-speech", **SPEECH, **{**SMALL, **changes}).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def written_out(attn, x, reach, direction="bidirectional"):
    """Attention from its formula, one pair of steps at a time."""
    n_batch, n, _ = x.shape
    out = torch.zeros_like(x)
    for b in range(n_batch):
        for head in range(attn.W_Q.shape[0]):
            q = x[b] @ attn.W_Q[head] + attn.b_Q[head]
            k = x[b] @ attn.W_K[head] + attn.b_K[head]
            v = x[b] @ attn.W_V[head] + attn.b_V[head]
            for dest in range(n):
                weights = torch.zeros(n, dtype=x.dtype)
                for src in range(n):
                    if abs(dest - src) >= reach or (direction == "causal" and src > dest):
                        continue
                    e = attn.relative.W_rel[head, reach - 1 + (src - dest)]
                    weights[src] = torch.exp(q[dest] @ k[src] / k.shape[-1] ** 0.5 + q[dest] @ e)
                out[b, dest] += (weights / weights.sum()) @ v @ attn.W_O[head]
    return out + attn.b_O


@torch.no_grad()
@pytest.mark.parametrize("direction", ["bidirectional", "causal"])
def test_the_encoder_equals_its_formula(direction):
    model = speech(attention_dir=direction)
    x = model.example_input(2).double()
    stream = model.embed(x)
    for block in model.blocks:  # post-LN: norm after each sum
        sizes, mlp = stream.shape[-1:], block.mlp
        stream = F.layer_norm(stream + written_out(block.attn, stream, 4, direction), sizes, block.ln1.w, block.ln1.b)
        hidden = F.gelu(stream @ mlp.W_in + mlp.b_in) @ mlp.W_out + mlp.b_out
        stream = F.layer_norm(stream + hidden, sizes, block.ln2.w, block.ln2.b)
    expected = stream @ model.unembed.W_U + model.unembed.b_U
    hooked = model.run_with_hooks(x, fwd_hooks=[(lambda n: n.endswith("hook_attn_scores"), lambda t, hook: t)])
    for found in (model(x), hooked):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_there_are_199_vectors_and_they_start_normal():
    model = build_model("tinymyo-speech", modalities={"emg": 8}, n_samples=1040, n_classes=38)
    vectors = torch.stack([block.attn.relative.W_rel for block in model.blocks])
    assert vectors.shape == (8, 3, 199, 64)
    assert vectors.std().item() == pytest.approx(64**-0.5, rel=0.01) and abs(vectors.mean().item()) < 0.002


# --- edges over the limit ---------------------------------------------------------------------------------


def test_the_audit_knows_the_edges_that_the_published_encoder_masks():
    model = build_model("tinymyo-speech", modalities={"emg": 8}, n_samples=1040, n_classes=38, n_layers=2)
    table = audit(model, [Condition("all", every()), Condition("far", lag(100, 129)), Condition("most", lag(99, 129))])
    rows = table.set_index("condition")
    assert rows.live_edges_cut.to_dict() == {"all": 101_400 - 5_580, "far": 0, "most": 2 * 3 * 31}
    assert rows.structural_null.to_dict() == {"all": False, "far": True, "most": False}
    assert model.permanent_mask().sum() == 5_580
    with pytest.raises(EmgLensError, match=r"'far'\] cut only edges that this TinyMyoSpeech never had .*positions"):
        sweep(model, model.example_input(1), [Condition("far", lag(100, 129))])


def test_edges_over_the_limit_have_a_gradient_of_zero_and_no_attention():
    model = speech()
    x = model.example_input(2).double()
    far = (torch.arange(8)[:, None] - torch.arange(8)).abs() >= 4
    gates = torch.full((2, 2, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    model.run_with_hooks(x, fwd_hooks=gate_edges(model, gates)).pow(2).sum().backward()
    assert gates.grad is not None
    assert (gates.grad[..., far] == 0).all() and (gates.grad[..., ~far] != 0).all()
    _, cache = model.run_with_cache(x)
    for layer in range(2):
        assert (cache["pattern", layer][..., far] == 0).all() and (cache["pattern", layer][..., ~far] > 0).all()
        assert (cache["attn_scores", layer][..., far] == -torch.inf).all()
    with cutting(model, lag(4, 7) | lag(-7, -4)) as report:
        torch.testing.assert_close(model(x), speech()(x), rtol=0, atol=1e-10)
    assert report.mass_removed == 0 and all(entry.already_dead == 2 * far.sum() for entry in report.layers)


def test_random_controls_leave_them_out():
    model = speech()
    lags = torch.arange(8)[:, None] - torch.arange(8)
    far, n_cut = lags.abs() >= 4, int(((lags >= 1) & (lags < 4)).sum())
    for control in random_edges(model, lag(1, 7), n=5):
        mask = control.mask(model.layout, 2, 2)
        assert not mask[..., far].any() and (mask.sum((-2, -1)) == n_cut).all()


def test_cls_is_one_patch_before_the_first():
    cfg = EncoderConfig(
        {"emg": 2}, 60, 3, patch_samples=10, positions="relative", relative_reach=3, d_model=8, n_heads=2, n_layers=1
    )
    model = HookedBiosignalEncoder(cfg)
    times = torch.tensor([-1, *range(6), *range(6)])
    assert torch.equal(model.permanent_mask()[0, 0], (times[:, None] - times).abs() >= 3)
    assert model.blocks[0].attn.relative.W_rel.shape == (2, 5, 4)


def test_tokens_without_times_have_no_limit():
    sizes = {"d_model": 8, "n_heads": 2, "n_layers": 1, "positions": "relative"}
    assert HookedBiosignalEncoder(EncoderConfig({"emg": 5}, 10, 3, **sizes)).permanent_mask() is None
    with pytest.raises(EmgLensError, match="relative_reach=5 for 6 tokens without times; expected at least 6"):
        EncoderConfig({"emg": 5}, 10, 3, **sizes, relative_reach=5)


# --- training and files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_vectors_are_trained_only_if_asked_for(trained, together):
    front_end = "compressed" if together else "residual"
    changes = {"train_positions": trained, "readout": "mean", "front_end": front_end, "stride": 8}
    models = [speech(**changes).float() for _ in range(2)]
    batch = Batch(models[0].example_input(12), torch.arange(12) % 5)
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    recipe = TrainingRecipe(epochs=2, weight_decay=0.1)
    if together:
        fit_cohort(models, [batch, batch], recipe)
    else:
        fit(models[0], batch, recipe)
    for name, value in models[0].named_parameters():
        moved = not torch.equal(value, before[name])
        assert moved == (trained or "W_rel" not in name) or name.endswith("b_K"), name


def test_models_with_batch_normalisation_are_fitted_one_by_one():
    models = [speech(readout="mean").float() for _ in range(2)]
    batch = Batch(models[0].example_input(4), torch.arange(4))
    with pytest.raises(EmgLensError, match="cannot map a training step of TinyMyoSpeech; fit the models one by one"):
        fit_cohort(models, [batch, batch], TrainingRecipe(epochs=1))


def test_learned_positions_can_stay_untrained():
    cfg = EncoderConfig({"emg": 5}, 10, 3, d_model=8, n_heads=2, n_layers=1, train_positions=False)
    assert not HookedBiosignalEncoder(cfg).pos_embed.W_pos.requires_grad
    assert HookedBiosignalEncoder(dataclasses.replace(cfg, train_positions=True)).pos_embed.W_pos.requires_grad


def test_a_model_of_the_older_form_is_refused_in_one_line(tmp_path):
    model = speech().float()
    model.save_pretrained(tmp_path)
    again = TinyMyoSpeech.from_pretrained(tmp_path)
    x = model.example_input(2)
    assert torch.equal(again(x), model(x)) and not again.blocks[0].attn.relative.W_rel.requires_grad
    state = load_file(tmp_path / "model.safetensors")
    older = {name: F.pad(value, (0, 0, 1, 1)) if "W_rel" in name else value for name, value in state.items()}
    save_file(older, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["train_positions"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EmgLensError, match="W_rel has 9 vectors per head, expected 7: an older version saved") as error:
        TinyMyoSpeech.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
