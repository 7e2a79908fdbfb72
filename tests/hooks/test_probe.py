import gc
import weakref

import pytest
import torch
from toy import Toy, hooks_left

from emg_lens.hooks import DeadHookError, EdgeError, cross_modal, cutting
from emg_lens.hooks.examples import example_inputs
from emg_lens.hooks.probe import find_lever, lever
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})


def test_live_scores_are_preferred():
    assert lever(Toy(LAYOUT)) == "scores"
    assert not find_lever(Toy(LAYOUT), LAYOUT).strict


def test_a_model_that_leaves_nan_rows_is_known_to():
    assert find_lever(Toy(LAYOUT, zero_nan=False), LAYOUT).strict


def test_hooks_that_come_too_late_are_recognised_although_they_fire():
    assert lever(Toy(LAYOUT, live=False)) == "attention_mask"


def test_one_dead_layer_is_enough():
    toy = Toy(LAYOUT)
    toy.blocks[2].attn.live = False
    assert lever(toy) == "attention_mask"


def test_dead_scores_with_a_live_pattern_give_the_pattern_to_hooks_alone():
    toy = Toy(LAYOUT, live="pattern")
    assert find_lever(toy, LAYOUT, hooks_only=True).name == "pattern"
    assert lever(toy) == "attention_mask"


def test_attention_out_of_reach_is_an_error():
    toy = Toy(LAYOUT, live=False, std=0.2)
    for block in toy.blocks:
        block.attn.hook_z.forward = torch.nn.Identity().forward
        block.attn.forward = hand_written_softmax(block.attn)
    with pytest.raises(DeadHookError, match="no lever cuts the attention of Toy") as refusal:
        lever(toy)
    reasons = str(refusal.value)
    assert "attention_mask: in layer 0 (blocks.0.attn) no softmax and no scaled_dot_product_attention" in reasons
    assert "scores: in layer 0 (blocks.0.attn) its hook point does not fire" in reasons


def hand_written_softmax(attention):
    def forward(x):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in attention.qkv(x).chunk(3, -1))
        weights = (q @ k.transpose(-1, -2)).exp()
        attention.hook_pattern(weights / weights.sum(-1, keepdim=True))
        return attention.out((weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2))

    return forward


def test_saturated_attention_does_not_fool_the_probe():
    assert lever(Toy(LAYOUT, std=0.8)) == "scores"
    assert lever(Toy(LAYOUT, std=0.8, live=False)) == "attention_mask"


@pytest.mark.parametrize("n_channels", [1, 2])
def test_one_or_two_tokens_are_enough(n_channels):
    layout = TokenLayout.channels({"emg": n_channels}, cls=False)
    assert lever(Toy(layout)) == "scores"


def test_the_probe_runs_once_and_again_when_a_switch_changes():
    encoder = HookedBiosignalEncoder(EncoderConfig({"emg": 2, "acc": 2}, n_samples=8, n_classes=2, d_model=8))
    runs = []
    encoder.register_forward_pre_hook(lambda *_: runs.append(1))
    lever(encoder), lever(encoder)
    once = len(runs)
    encoder.set_use_split_qkv_input(True)
    lever(encoder)
    assert once > 0 and len(runs) == 2 * once


def test_the_probe_leaves_no_trace():
    toy = Toy(LAYOUT).train()
    toy.blocks[1].eval()
    state = torch.get_rng_state()
    lever(toy)
    assert hooks_left(toy) == [] and torch.equal(torch.get_rng_state(), state)
    assert toy.blocks[0].training and not toy.blocks[1].training
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_hooks_of_others_neither_see_nor_disturb_the_probe():
    toy, seen = Toy(LAYOUT), []

    def spoil(scores, hook):
        seen.append(scores)
        return scores * torch.nan

    toy.add_hook("blocks.1.attn.hook_attn_scores", spoil)
    assert lever(toy) == "scores" and seen == []
    toy(toy.example_input())
    assert len(seen) == 1


def test_suspended_hooks_come_back_in_their_order_and_can_be_removed():
    toy, order = Toy(LAYOUT), []
    for name in "ab":
        toy.add_hook("hook_embed", lambda t, hook, name=name: order.append(name), is_permanent=name == "b")
    toy.add_hook("hook_embed", lambda t, hook: order.append("c"))
    toy.add_hook("hook_embed", lambda t, hook: order.append("d"), prepend=True)
    lever(toy)
    order.clear()
    toy(toy.example_input())
    assert order == ["d", "a", "b", "c"]
    toy.reset_hooks()
    order.clear()
    toy(toy.example_input())
    assert order == ["b"]


def test_a_probed_model_can_be_freed():
    toy = Toy(LAYOUT)
    with cutting(toy, cross_modal()) as report:
        toy(toy.example_input())
    alive = weakref.ref(toy)
    del toy
    gc.collect()
    assert alive() is None and report.layers


def test_the_users_own_input_is_used():
    toy = Toy(LAYOUT)
    toy.example_input = None
    toy.cfg.d_vocab = 3
    seen = []
    toy.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(2, 6, 4)
    assert lever(toy, inputs=x) == "scores"
    assert all(s is x for s in seen)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"x": x}])
def test_inputs_may_be_a_tensor_a_tuple_or_a_mapping(wrap):
    assert lever(Toy(LAYOUT), inputs=wrap(torch.randn(1, 6, 4))) == "scores"


def test_a_model_without_attention_hooks_is_refused():
    toy = Toy(LAYOUT)
    toy.hook_dict = {name: point for name, point in toy.hook_dict.items() if "attn" not in name}
    with pytest.raises(
        EdgeError, match=r"no hook point named blocks.<layer>.attn.hook_pattern.*\['blocks', 'hook_embed'\]"
    ):
        lever(toy)


def test_example_inputs_have_the_models_type():
    encoder = HookedBiosignalEncoder(EncoderConfig({"emg": 2}, n_samples=8, n_classes=2, d_model=8))
    x = example_inputs(encoder.to(torch.bfloat16), 3, batch=2)
    assert x.shape == (2, 2, 8) and x.dtype == torch.bfloat16


def test_a_model_whose_input_cannot_be_guessed_says_so():
    toy = Toy(LAYOUT)
    toy.example_input = None
    toy.original_model = torch.nn.Module()
    toy.original_model.main_input_name = "smell"
    with pytest.raises(ValueError, match="cannot make an example 'smell' for Toy: pass inputs="):
        lever(toy)
