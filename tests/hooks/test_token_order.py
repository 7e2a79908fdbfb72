"""Changes of the token order: which tokens exchange places, and invariance of a model without positions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emg_lens.hooks import DeadHookError, EdgeError, Shuffle, shuffle
from emg_lens.hooks.interventions import read_interventions
from emg_lens.hooks.token_order import shuffled
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models import HookedBiosignalEncoder
from emg_lens.sweeps import Condition, sweep

LAYOUT = TokenLayout.patches({"emg": 3, "acc": 2}, n_patches=4)


def make(**changes) -> HookedBiosignalEncoder:
    torch.manual_seed(0)
    settings = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 16, "patch_samples": 5, "embedding": "shared"}
    config = EncoderConfig({"emg": 3, "acc": 2}, 20, 4, **{**settings, **changes})
    return HookedBiosignalEncoder(config).eval()


@given(st.sampled_from(["all", "channel", "patch"]), st.sampled_from(["emg", "acc"]), st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_only_the_selected_tokens_exchange_places(within, group, seed):
    order = shuffled(LAYOUT, group, within, seed)
    assert sorted(order.tolist()) == list(range(len(LAYOUT)))
    assert torch.equal(order, shuffled(LAYOUT, group, within, seed)), "the seed decides"
    moved = torch.nonzero(order != torch.arange(len(LAYOUT))).flatten().tolist()
    assert moved and set(moved) <= set(LAYOUT.positions(group).tolist())
    for here in moved:
        there = int(order[here])
        assert within != "channel" or LAYOUT.channel[here] == LAYOUT.channel[there]
        assert within != "patch" or LAYOUT.patch[here] == LAYOUT.patch[there]


@pytest.mark.parametrize("within", ["all", "channel", "patch"])
@pytest.mark.parametrize(
    ("positions", "notices"), [("none", False), ("learned", True), ("sinusoidal", True), ("rotary", True)]
)
def test_a_model_without_positions_is_invariant_to_the_order(positions, notices, within):
    model = make(positions=positions, readout="mean", cls_token=False)
    with torch.no_grad():  # attention that looks somewhere
        for block in model.blocks:
            block.attn.W_Q.mul_(4), block.attn.W_K.mul_(4)
    x = model.example_input(6)
    change = (model.run_with_hooks(x, fwd_hooks=shuffle(model, ["emg", "acc"], within)) - model(x)).abs().max()
    assert (change > 1e-3) if notices else (change < 1e-5)


def test_shuffling_moves_the_values_of_tokens():
    model = make()
    x, order = model.example_input(2), shuffled(model.layout, "emg", "channel", 3)
    seen = []
    hooks = [*shuffle(model, "emg", "channel", seed=3), ("hook_embed", lambda t, hook: seen.append(t))]
    model.run_with_hooks(x, fwd_hooks=hooks)
    assert torch.equal(seen[0], model.embed(x)[:, order])


def test_the_intervention_equals_the_plain_hook_for_each_trial():
    model = make()
    x, one = model.example_input(5), Shuffle("emg", "patch", seed=2)
    result = sweep(model, x, [Condition("shuffled", one)])
    hooked = model.run_with_hooks(x, fwd_hooks=shuffle(model, "emg", "patch", seed=2))
    torch.testing.assert_close(result.logits["shuffled"], hooked)
    assert (result.logits["shuffled"] - result.logits["baseline"]).abs().max() > 1e-4
    assert read_interventions({"shuffle": "emg", "within": "patch", "seed": 2}) == (one,)
    assert str(one) == "Shuffle('emg', within='patch', seed=2)" and eval(str(one)) == one


@pytest.mark.parametrize(
    ("tokens", "within", "at", "message"),
    [
        ("cls", "channel", "hook_embed", "'cls' has no channel; use within='all'"),
        ("cls", "all", "hook_embed", "fewer than two of these 1 tokens can exchange places"),
        ("emg.0.p0", "channel", "hook_embed", "fewer than two of these 1 tokens can exchange places"),
        ("gyro", "all", "hook_embed", "gyro"),
        ("emg", "time", "hook_embed", "within"),
        ("emg", "all", "hook_embedd", "similar names: .*hook_embed"),
        ("emg", "all", "blocks.0.attn.hook_pattern", "holds values of edges"),
    ],
)
def test_tokens_that_cannot_exchange_places_are_refused(tokens, within, at, message):
    with pytest.raises((EdgeError, ValueError), match=message) as error:
        shuffle(make(), tokens, within, at)
    assert "\n" not in str(error.value)


def test_a_hook_point_of_another_shape_or_without_effect_is_refused():
    model = make(readout="cls")
    with pytest.raises(EdgeError, match="expected .* as in the layout"):
        model.run_with_hooks(model.example_input(2), fwd_hooks=shuffle(model, "emg", layout=LAYOUT_OF_ANOTHER))
    with pytest.raises((DeadHookError, ValueError), match="hook_result'? does not fire"):
        shuffle(model, "emg", at="blocks.0.attn.hook_result")


LAYOUT_OF_ANOTHER = TokenLayout.patches({"emg": 3, "acc": 2}, n_patches=3)
