"""Sweeps under `torch.autocast`: the model's own blocks run, in the precision of a plain forward."""

import pytest
import torch

from emg_lens.hooks import cut, cutting, unimodal
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.models.registry import build_model
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import sweep

SIZES = {"isonet": {}, "hierarchical": {}, "multimodal-transformer": {}, "tinymyo": {"n_layers": 2}}
CUT = Condition("cut", unimodal().at(layers=0))


def build(name: str):
    torch.manual_seed(0)
    modalities = {"emg": 4} if name == "tinymyo" else {"emg": 4, "acc": 3}
    return build_model(name, modalities=modalities, n_samples=40, n_classes=5, **SIZES[name]).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SIZES)
def test_the_default_executor_gives_what_hooked_runs_give(name, dtype):
    model = build(name)
    x = model.example_input(6)
    with torch.autocast("cpu", dtype), torch.no_grad():
        result = sweep(model, x, [CUT])
        expected = {"baseline": model(x), "cut": model.run_with_hooks(x, fwd_hooks=cut(model, CUT.edges))}
    assert result.executor == "tree"
    for key, logits in expected.items():
        assert logits.dtype == dtype and torch.equal(result.logits[key], logits), key
    assert not torch.equal(result.logits["baseline"], result.logits["cut"])
    assert sweep(model, x, [CUT]).executor == "folded"


def test_a_loop_whose_output_has_full_precision():
    """Rounding inside is that of autocast, although the outputs are float32."""

    class FullPrecision(type(build("isonet"))):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs).float()

    model = FullPrecision(build("isonet").cfg).eval()
    x = model.example_input(6)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        result = sweep(model, x, [CUT], batch_size=1)
        with cutting(model, CUT.edges):
            expected = model(x)
    assert result.executor == "loop" and result.logits["cut"].dtype == torch.float32
    torch.testing.assert_close(result.logits["cut"], expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("executor", ["auto", "loop"])
def test_a_checkpoint_keeps_to_its_precision(tmp_path, executor):
    model = build("isonet")
    x, path = model.example_input(6), tmp_path / "sweep.safetensors"
    with torch.autocast("cpu", torch.bfloat16):
        sweep(model, x, [CUT], checkpoint=path, executor=executor)
    with pytest.raises(CheckpointError, match=r"arithmetic: .*"):
        sweep(model, x, [CUT], checkpoint=path, executor=executor)
