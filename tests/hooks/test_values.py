import pytest
import torch
from toy import Toy, hooks_left

from emg_lens.errors import EmgLensError
from emg_lens.hooks import DeadHookError, EdgeError, cut_mlp, replace
from emg_lens.layout import TokenLayout
from emg_lens.lens.config import EncoderConfig
from emg_lens.models.encoder import HookedBiosignalEncoder

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})
ACC, REST = [4, 5], [0, 1, 2, 3]


@pytest.fixture
def toy():
    return Toy(LAYOUT)


@pytest.fixture
def x(toy):
    return toy.example_input(8)


def embedded(toy, x, hooks):
    seen = []
    toy.run_with_hooks(x, fwd_hooks=[*hooks, ("hook_embed", lambda t, hook: seen.append(t))])
    return seen[0]


def test_zero_changes_only_the_named_tokens(toy, x):
    plain, edited = embedded(toy, x, []), embedded(toy, x, replace(toy, "acc"))
    assert (edited[:, ACC] == 0).all() and torch.equal(edited[:, REST], plain[:, REST])


def test_mean_is_the_mean_of_the_reference_at_each_position(toy, x):
    reference = torch.randn(20, 6, 4)
    edited = embedded(toy, x, replace(toy, "acc", by="mean", reference=reference))
    means = toy.embed(reference).mean(0)
    torch.testing.assert_close(edited[:, ACC], means[ACC].expand(8, 2, -1))


def test_resample_takes_whole_trials_of_the_reference(toy, x):
    reference = torch.randn(5, 6, 4)
    pool = toy.embed(reference)[:, ACC]
    edited = embedded(toy, x, replace(toy, "acc", by="resample", reference=reference, seed=3))[:, ACC]
    matches = (edited[:, None] - pool[None]).abs().flatten(2).amax(-1) < 1e-6
    assert (matches.sum(1) == 1).all() and matches.any(0).sum() > 1


def test_permute_gives_every_trial_the_tokens_of_another(toy, x):
    plain = embedded(toy, x, [])[:, ACC]
    edited = embedded(toy, x, replace(toy, "acc", by="permute", seed=1))[:, ACC]
    matches = (edited[:, None] - plain[None]).abs().flatten(2).amax(-1) == 0
    assert (matches.sum(0) == 1).all() and (matches.sum(1) == 1).all() and not matches.diagonal().any()


def test_random_trials_depend_on_the_seed(toy, x):
    def run(seed):
        return toy.run_with_hooks(x, fwd_hooks=replace(toy, "acc", by="permute", seed=seed))

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_permuting_one_trial_is_an_error(toy, x):
    with pytest.raises(EdgeError, match="needs two or more trials in the batch, got 1"):
        toy.run_with_hooks(x[:1], fwd_hooks=replace(toy, "acc", by="permute"))


@pytest.mark.parametrize("tokens", ["acc", ["acc.0", "acc.1"], [4, -1], ["acc", 4], ("acc.0", 5)])
def test_tokens_are_given_by_group_name_or_position(toy, x, tokens):
    assert torch.equal(embedded(toy, x, replace(toy, tokens)), embedded(toy, x, replace(toy, "acc")))


def test_any_hook_point_with_positions_can_be_used(toy, x):
    out = toy.run_with_hooks(x, fwd_hooks=replace(toy, REST, at="blocks.2.hook_mlp_out"))
    assert torch.equal(out[:, ACC], toy(x)[:, ACC]) and not torch.equal(out[:, REST], toy(x)[:, REST])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tokens": "gyro"},
            r"unknown group or token 'gyro'; this layout has the groups \['cls', 'emg', 'acc'\]",
        ),
        ({"tokens": 6}, "unknown position 6; the layout has positions 0 to 5"),
        ({"tokens": []}, r"tokens=\[\] selects nothing"),
        ({"tokens": "acc", "by": "noise"}, "by='noise'; expected 'zero', 'mean', 'resample' or 'permute'"),
        ({"tokens": "acc", "by": "mean"}, "by='mean'.* needs reference="),
        (
            {"tokens": "acc", "by": "zero", "reference": torch.zeros(1, 6, 4)},
            "by='zero'.* does not use reference=",
        ),
        ({"tokens": "acc", "at": "hook_embedd"}, r"unknown hook point 'hook_embedd'; similar names: \['hook_embed'"),
        ({"tokens": "acc", "at": "blocks.0.attn.hook_pattern"}, "holds values of edges; .* to edit edges, use cut"),
    ],
)
def test_arguments_without_a_match_are_refused(toy, arguments, message):
    with pytest.raises(EmgLensError, match=message):
        replace(toy, **arguments)


def test_a_hook_point_without_effect_is_refused():
    toy = Toy(LAYOUT, live=False)
    with pytest.raises(DeadHookError, match="hook_z does not fire on Toy"):
        replace(toy, "acc", at="blocks.0.attn.hook_z")
    forward = toy.blocks[0].forward
    toy.blocks[0].forward = lambda x: (forward(x), x)[1]
    with pytest.raises(DeadHookError, match="hook_mlp_out does not change the output of Toy"):
        replace(toy, "acc", at="blocks.0.hook_mlp_out")
    assert [name for name in hooks_left(toy) if name != "blocks.0.forward"] == []


def test_activations_of_another_shape_are_refused(toy, x):
    other = TokenLayout.channels({"emg": 3, "acc": 3})
    hooks = replace(toy, "acc", layout=other)
    with pytest.raises(EdgeError, match=r"hook_embed has shape \[8, 6, 8\]; expected \[batch, 7 positions"):
        toy.run_with_hooks(x, fwd_hooks=hooks)


def test_cut_mlp_zeroes_what_the_mlp_adds(toy, x):
    seen = {}

    def keep(t, hook):
        seen[hook.name] = t

    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
    toy.run_with_hooks(x, fwd_hooks=[*cut_mlp(toy, "acc", [0, -1]), *((name, keep) for name in names)])
    assert (seen[names[0]][:, ACC] == 0).all() and (seen[names[2]][:, ACC] == 0).all()
    assert (seen[names[1]][:, ACC] != 0).any() and (seen[names[0]][:, REST] != 0).any()


def test_cut_mlp_covers_all_layers_by_default(toy):
    assert [name for name, _ in cut_mlp(toy, "emg")] == [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]


@pytest.mark.parametrize("layers", [3, [0, -4], [], "1", True, [True], 1.5, range(10**9)])
def test_cut_mlp_refuses_layers_that_do_not_exist(toy, layers):
    with pytest.raises(EmgLensError, match="layers"):
        cut_mlp(toy, "acc", layers)


def test_our_encoders_accept_both():
    torch.manual_seed(0)
    cfg = EncoderConfig({"emg": 3, "acc": 2}, n_samples=8, n_classes=3, d_model=16, n_layers=2, norm="post")
    encoder = HookedBiosignalEncoder(cfg).eval()
    x = encoder.example_input(4)
    for hooks in (replace(encoder, "acc"), replace(encoder, "acc", "permute"), cut_mlp(encoder, "emg", 0)):
        assert not torch.equal(encoder.run_with_hooks(x, fwd_hooks=hooks), encoder(x))


def test_a_switched_hook_point_is_tested_again_after_its_switch_changed():
    cfg = EncoderConfig({"emg": 3, "acc": 2}, n_samples=8, n_classes=3, d_model=16, n_layers=2)
    encoder, at = HookedBiosignalEncoder(cfg), "blocks.0.attn.hook_result"
    encoder.set_use_attn_result(True)
    assert replace(encoder, "acc", at=at)
    encoder.set_use_attn_result(False)
    with pytest.raises((DeadHookError, ValueError), match="hook_result'? does not fire"):
        replace(encoder, "acc", at=at)


def test_gradients_pass_around_replaced_tokens(toy, x):
    x.requires_grad_()
    toy.run_with_hooks(x, fwd_hooks=replace(toy, "acc")).sum().backward()
    assert (x.grad[:, ACC] == 0).all() and (x.grad[:, REST] != 0).any()
