"""A checkpoint of a sweep is resumed only with the model that gave its outputs."""

import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from emg_lens.hooks import CutMLP, Replace, adapt, cross_modal, every, unimodal
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.layout import TokenLayout
from emg_lens.models.isonet import IsoNet, IsoNetConfig
from emg_lens.models.registry import build_model
from emg_lens.sweeps.conditions import Condition, layer_masks
from emg_lens.sweeps.engine import STORED_EPS, sweep
from emg_lens.sweeps.side_by_side import torch_threads

CONDITIONS = [
    *layer_masks({"unimodal": unimodal(), "cross_modal": cross_modal()}, 3),
    Condition("replaced", Replace("acc")),
    Condition("permuted", Replace("acc", by="permute", at="hook_embed")),
    Condition("MLP", CutMLP("emg", layers=1)),
]
EXECUTORS = ["auto", "loop"]


class Stop(Exception):
    pass


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "sweep.safetensors"


def build() -> IsoNet:
    torch.manual_seed(0)
    return IsoNet(IsoNetConfig({"emg": 3, "acc": 2}, 10, 6, d_model=32, n_heads=4, n_layers=3, d_mlp=16)).eval()


X = 3 * build().example_input(12)


def run(model, path=None, stop_after: float = 2, **options):
    def stop(fraction: float) -> None:
        if fraction >= stop_after:
            raise Stop

    options = {"conditions": CONDITIONS, "batch_size": 4, "reference": X, **options}
    return sweep(model, options.pop("x", X), checkpoint=path, on_progress=stop, **options)


def interrupt(path, model=None, at: float = 0.5, **options) -> None:
    with pytest.raises(Stop):
        run(model or build(), path, at, **options)


def edited_forward(model) -> None:
    forward = model.forward
    model.forward = types.MethodType(lambda _, x, *args, **kwargs: forward(1.01 * x, *args, **kwargs), model)


def edited_readout(model) -> None:
    pool = model.pool
    model.pool = lambda resid: pool(resid) + 0.01


def edited_mlp(model) -> None:
    model.blocks[2].mlp.act_fn = F.silu


def edited_eps(model) -> None:
    for block in model.blocks:
        block.ln1.eps = block.ln2.eps = 1e-4


def hook_of_torch(model) -> None:
    model.blocks[1].mlp.register_forward_hook(lambda module, args, out: 1.01 * out)


EDITS = [edited_forward, edited_readout, edited_mlp, edited_eps, hook_of_torch]


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("at", [0.1, 0.9, 1.0])
@pytest.mark.parametrize("edit", EDITS)
def test_another_model_is_refused_and_the_file_is_kept(path, edit, at, executor):
    if at < 1:
        interrupt(path, at=at, executor=executor)
    else:
        run(build(), path, executor=executor)
    before, model = path.read_bytes(), build()
    edit(model)
    with pytest.raises(CheckpointError, match="(holds outputs of another model: .*undo|belongs to another sweep)") as e:
        run(model, path, executor=executor)
    assert "\n" not in str(e.value) and path.read_bytes() == before
    assert len(run(build(), path, executor=executor).logits) == 1 + len(CONDITIONS)


def test_a_hook_with_the_same_name_and_another_function_is_refused(path):
    def hooked(factor: float):
        return build().hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda t, hook: factor * t)])

    with hooked(2) as model:
        interrupt(path, model)
    with hooked(2.01) as model, pytest.raises(CheckpointError, match="'baseline', recomputed for some trials, differs"):
        run(model, path)
    with hooked(2) as model:
        run(model, path)


def test_an_edit_that_acts_only_in_a_condition_is_refused(path):
    """Attention of a row with every edge cut is zero; the baseline has no such rows."""

    def hooked(offset: float):
        return build().hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda t, hook: t + offset * (t == 0))])

    options: dict[str, Any] = {"conditions": [Condition("empty rows", every())]}
    with hooked(0) as model:
        run(model, path, **options)
    with hooked(0.5) as model, pytest.raises(CheckpointError, match="'empty rows', recomputed"):
        run(model, path, **options)


@pytest.mark.parametrize("name", ["isonet", "hierarchical", "multimodal-transformer"])
def test_rounding_is_not_refused(path, name):
    """Other thread counts and machines give other last digits: double precision bounds what they can give."""
    torch.manual_seed(0)
    model = build_model(name, modalities={"emg": 8, "acc": 3}, n_samples=40, n_classes=5).eval()
    x = 3 * model.example_input(32)
    conditions = [Condition("cut", unimodal())]
    with torch_threads(1):
        interrupt(path, model, conditions=conditions, x=x, reference=None, batch_size=16)
    with torch_threads(2):
        run(model, path, conditions=conditions, x=x, reference=None, batch_size=16)
    with torch.no_grad():
        logits = model(x)
        exact = model.double()(x.double())
    eps = torch.finfo(torch.float32).eps
    assert float((logits - exact).abs().max()) < STORED_EPS / 4 * eps * float(exact.abs().max())


def test_trials_that_depend_on_their_batch_are_not_refused(path):
    class Centred(IsoNet):
        def forward(self, x, *args, **kwargs):
            return super().forward(x - x.mean(0), *args, **kwargs)

    model = Centred(build().cfg).eval()
    options: dict[str, Any] = {"batch_size": 12, "conditions": CONDITIONS[:4]}
    interrupt(path, model, **options)
    run(model, path, **options)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.stack, self.scale = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), 1.0

    def forward(self, x):
        return self.scale * self.stack(x).mean(1)


def test_a_scalar_attribute_of_an_adapted_model(path):
    torch.manual_seed(0)
    network, x = Network().eval(), torch.randn(6, 5, 16)
    layout = TokenLayout.channels({"emg": 3, "acc": 2}, cls=False)
    adapted = adapt(network, x)
    options = {"x": x, "layout": layout, "conditions": layer_masks({"c": cross_modal()}, 2), "reference": None}
    interrupt(path, adapted, **options)
    network.scale = 1.5
    with pytest.raises(CheckpointError, match="'baseline', recomputed"):
        run(adapted, path, **options)
    network.scale = 1.0
    run(adapted, path, **options)
