"""Direct effects, compared with the whole margin, with autograd, and with a forward by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import sem
from torch.nn.functional import layer_norm

from emg_lens.analysis import component_effects as module
from emg_lens.analysis.component_effects import direct_effects
from emg_lens.errors import EmgLensError
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import build_model
from emg_lens.models.encoder import HookedBiosignalEncoder

N_LAYERS, N_HEADS, N_TRIALS = 2, 3, 7


def encoder(norm: Any, readout: Any = "cls", n_classes: int = 4) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(d_model=12, n_heads=N_HEADS, n_layers=N_LAYERS, d_mlp=8)
    cfg = EncoderConfig({"emg": 3, "acc": 2}, 6, n_classes, **sizes, norm=norm, readout=readout)
    model = HookedBiosignalEncoder(cfg).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.6)
    return model


@pytest.fixture(params=[("pre", "cls"), ("post", "cls"), ("pre", "mean"), ("post", "mean")], ids=" ".join)
def model(request):
    return encoder(*request.param)


@pytest.fixture
def x(model):
    return torch.randn(N_TRIALS, 5, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


Y = torch.arange(N_TRIALS) % 4


def margins(logits, clean):
    """The logit of the label minus the logit that was the largest other one in the clean run."""
    others = clean.clone()
    others[range(N_TRIALS), Y] = -np.inf
    return logits[range(N_TRIALS), Y] - logits[range(N_TRIALS), others.argmax(1)]


def by_hand(model, x, layer, component):
    """Margins if one output is missing on the residual stream, while later heads and MLPs write what they wrote."""
    clean, cache = model.run_with_cache(x)
    pre = model.cfg.norm == "pre"
    norm = lambda t, n: layer_norm(t, t.shape[-1:], n.w, n.b, n.eps)  # noqa: E731
    stream = cache["resid_pre", 0] * (component != "embed")
    for at, block in enumerate(model.blocks):
        out = cache["attn_out", at]
        if at == layer and component != "mlp":
            head = int(component[1:])
            out = out - cache["z", at][:, :, head] @ block.attn.W_O[head]
        stream = stream + out
        stream = stream if pre else norm(stream, block.ln1)
        if not (at == layer and component == "mlp"):
            stream = stream + cache["mlp_out", at]
        stream = stream if pre else norm(stream, block.ln2)
    stream = norm(stream, model.ln_final) if pre else stream
    vector = stream[:, 0] if model.cfg.readout == "cls" else stream[:, 1:].mean(1)
    return margins(vector @ model.unembed.W_U + model.unembed.b_U, clean)


@torch.no_grad()
def test_recomputed_effects_equal_a_forward_by_hand(model, x):
    table, logits = direct_effects(model, x, Y), model(x)
    clean = margins(logits, logits)
    assert len(table) == N_LAYERS * (N_HEADS + 1) + 2
    for _, row in table.iterrows():
        if row["component"] == "bias":
            assert np.isnan(row["recomputed"])
            continue
        effects = (clean - by_hand(model, x, row["layer"], row["component"])).numpy()
        assert row["recomputed"] == pytest.approx(effects.mean(), abs=1e-10)
        assert row["recomputed_standard_error"] == pytest.approx(sem(effects), abs=1e-10)
        assert abs(effects.mean()) > 1e-6


@torch.no_grad()
def test_frozen_effects_sum_to_the_margin(model, x):
    table, logits = direct_effects(model, x, Y), model(x)
    clean = margins(logits, logits)
    assert table["frozen"].sum() == pytest.approx(float(clean.mean()), abs=1e-10)
    assert (table["frozen"] - table["recomputed"]).abs().max() > 1e-3  # norms matter


def test_frozen_effects_are_gradients_of_the_margin_with_frozen_norms_times_outputs(model, x):
    """With constant scales and constant later outputs the path is linear: the part is gradient · output."""
    table, clean = direct_effects(model, x, Y), model(x).detach()
    outputs, constants = {}, {}
    keep = [(name, lambda t, hook: constants.update({hook.name: t.detach()})) for name in model.hook_dict]
    model.run_with_hooks(x, fwd_hooks=[one for one in keep if one[0].endswith(("hook_scale", "_out", "hook_z"))])
    frozen = [(name, lambda t, hook: constants[hook.name]) for name in constants if name.endswith("hook_scale")]

    def cut_off(t, hook):
        outputs[hook.name] = constants[hook.name].clone().requires_grad_()
        return outputs[hook.name]

    writers = [(f"blocks.{at}.hook_{kind}_out", cut_off) for at in range(N_LAYERS) for kind in ("attn", "mlp")]
    margin = margins(model.run_with_hooks(x, fwd_hooks=[*frozen, *writers]), clean)
    gradients = dict(zip(outputs, torch.autograd.grad(margin.sum(), [*outputs.values()]), strict=True))
    for _, row in table[table["layer"] >= 0].iterrows():
        at, component = row["layer"], row["component"]
        if component == "mlp":
            name = f"blocks.{at}.hook_mlp_out"
            written = outputs[name]
        else:
            name, head = f"blocks.{at}.hook_attn_out", int(component[1:])
            written = constants[f"blocks.{at}.attn.hook_z"][:, :, head] @ model.blocks[at].attn.W_O[head]
        effects = (gradients[name] * written).sum((1, 2)).detach().numpy()
        assert row["frozen"] == pytest.approx(effects.mean(), abs=1e-10)
        assert row["frozen_standard_error"] == pytest.approx(sem(effects), abs=1e-10)


@torch.no_grad()
def test_the_table_does_not_depend_on_the_batches(model, x, monkeypatch):
    whole = direct_effects(model, x, Y)
    monkeypatch.setattr(module, "MOST_VALUES", 1)
    one_by_one = direct_effects(model, x, Y)
    assert np.allclose(whole.iloc[:, 2:].astype(float), one_by_one.iloc[:, 2:].astype(float), equal_nan=True)
    assert direct_effects(model, x[:1], Y[:1])["frozen_standard_error"].isna().all()


@pytest.mark.parametrize("options", [{}, {"fusion": "concat"}], ids=str)
def test_readouts_of_channels_add_up(options):
    model = build_model("tinymyo", modalities={"emg": 2}, n_samples=60, n_classes=4, n_layers=2, **options).eval()
    x = model.example_input(N_TRIALS)
    with torch.no_grad():
        logits = model(x)
    table = direct_effects(model, x, Y)
    assert table["frozen"].sum() == pytest.approx(float(margins(logits, logits).mean()), abs=1e-4)


def test_models_that_do_not_fit_are_refused():
    staged = build_model("hierarchical", modalities={"emg": 3, "acc": 2}, n_samples=80, n_classes=4, d_model=16)
    with pytest.raises(EmgLensError, match="has several stages; direct_effects needs one stack"):
        direct_effects(staged, staged.example_input(N_TRIALS), Y)
    for readout in ("each", "none"):
        model = encoder("pre", readout, 0 if readout == "none" else 4)
        with pytest.raises(EmgLensError, match="expected logits"):
            direct_effects(model, model.example_input(N_TRIALS).double(), Y)
    model = encoder("pre")
    with pytest.raises(EmgLensError, match="expected one class index for each of 7 trials"):
        direct_effects(model, model.example_input(N_TRIALS).double(), Y[:3])
    model.blocks[1].hook_resid_post.add_hook(lambda t, hook: t * 2 + 1, is_permanent=True)
    with pytest.raises(EmgLensError, match="do not add up to the logits"):
        direct_effects(model, model.example_input(N_TRIALS).double(), Y)
    with pytest.raises(EmgLensError, match="model"):
        direct_effects(torch.nn.Linear(2, 2), torch.zeros(1, 2), Y[:1])  # pyright: ignore
