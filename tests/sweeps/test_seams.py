"""What a sweep must not believe: batches whose trials depend on each other, parts that were exchanged, cut texts."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError, Intervention, cutting, unimodal
from emg_lens.hooks.hook_points import attached_hook
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.lens.model_outputs import OutputError
from emg_lens.models.attention import Attention
from emg_lens.models.components import Block
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.sweeps import BaselineError, Condition, sweep

CUT = [Condition("cut", unimodal().at(layers=1))]


class LessMeanBlock(Block):
    """What it gives for a trial depends on the others of the batch."""

    def forward(self, resid, n_dest=None):
        out = super().forward(resid, n_dest)
        return out - 0.5 * out.mean(0, keepdim=True)


class DeafAttention(Attention):
    """Its hooks fire when attention is over."""

    def mix(self, q, k, v):
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = q @ k.mT / q.shape[-1] ** 0.5
        z = scores.softmax(-1) @ v
        self.hook_pattern(self.hook_attn_scores(scores).softmax(-1).nan_to_num())
        return z.transpose(1, 2)


def build(kind: type = HookedBiosignalEncoder, block: type = Block) -> HookedBiosignalEncoder:
    torch.manual_seed(0)
    model = kind(EncoderConfig({"emg": 3, "acc": 2}, 10, 4, d_model=16, n_heads=2, n_layers=2, d_mlp=8, norm="post"))
    for layer in range(2):
        model.blocks[layer] = block(model.cfg, layer)
    model.setup()
    return model.eval()


@pytest.mark.parametrize(("n_trials", "batch_size"), [(6, 1), (6, 2), (6, 5), (20, 1), (20, 3)])
def test_trials_that_depend_on_each_other_are_not_cut_into_batches_silently(n_trials, batch_size):
    model = build(block=LessMeanBlock)
    x = model.example_input(n_trials)
    for executor in ("tree", "loop"):
        with pytest.raises(BaselineError, match=f"use batch_size={n_trials}"):
            sweep(model, x, CUT, executor=executor, batch_size=batch_size)
        result = sweep(model, x, CUT, executor=executor, batch_size=n_trials)
        assert torch.allclose(result.logits["baseline"], model(x), atol=1e-6)


@pytest.mark.parametrize("how", ["part", "method"])
def test_a_part_that_is_exchanged_is_probed_again(how):
    model = build()
    x = model.example_input(4)
    with cutting(model, unimodal().at(layers=1)) as report:
        expected = model(x)
    assert report.intervention_point == "scores"
    if how == "part":
        attention = DeafAttention(model.cfg)
        attention.load_state_dict(model.blocks[1].attn.state_dict())
        model.blocks[1].attn = attention.eval()
        model.setup()
    else:
        model.blocks[1].attn.mix = DeafAttention.mix.__get__(model.blocks[1].attn)
    with cutting(model, unimodal().at(layers=1)) as report:  # hooks are deaf now, the softmax is not
        assert torch.allclose(model(x), expected, atol=1e-5)
    assert report.intervention_point == "attention_mask"
    result = sweep(model, x, CUT)
    assert result.executor == "loop" and torch.allclose(result.logits["cut"], expected, atol=1e-5)


@dataclass(frozen=True, repr=False, eq=False)
class Steer(Intervention):
    """Adds a vector, whose text shows a few of its values."""

    vector: Tensor

    @contextmanager
    def applied(self, model, layout, reference=None):
        with attached_hook(model.hook_dict["hook_embed"], lambda x, hook: x + self.vector.mean()):
            yield


def test_a_checkpoint_distinguishes_interventions_with_equal_texts(tmp_path):
    model = build()
    one, other = torch.zeros(2000), torch.zeros(2000)
    other[1000] = 5000.0
    assert str(Steer(one)) == str(Steer(other))
    x, path = model.example_input(4), tmp_path / "sweep.safetensors"
    sweep(model, x, [Condition("steered", Steer(one))], checkpoint=path)
    with pytest.raises(CheckpointError, match="another sweep"):
        sweep(model, x, [Condition("steered", Steer(other))], checkpoint=path)


class InDict(HookedBiosignalEncoder):
    """Gives no tensor."""

    def forward(self, input):
        return {"scores": super().forward(input)}


def test_what_cannot_be_run_is_one_line():
    model = build()
    x = model.example_input(4)
    with pytest.raises(OutputError, match=r"returns a dict with \['scores'\] \[4, 4\]; expected one tensor .*output="):
        sweep(build(InDict), x, [])
    for size in (0, -1, 2.5):
        with pytest.raises(EmgLensError, match="batch_size="):
            sweep(model, x, CUT, batch_size=size)
    with pytest.raises(EdgeError, match="the layout has 3 positions"):
        sweep(model, x, CUT, layout=TokenLayout.channels({"emg": 1, "acc": 1}))
