"""Hooks that would never run are refused by every method that adds hooks; name filters select correctly."""

import pytest
import torch
from encoders import make, pair

GATED = {
    "blocks.0.attn.hook_result": "use_attn_result",
    "blocks.1.attn.hook_q_input": "use_split_qkv_input",
    "blocks.1.attn.hook_k_input": "use_split_qkv_input",
    "blocks.2.hook_v_input": "use_split_qkv_input",  # the name of TransformerLens 3
    "blocks.2.hook_attn_in": "use_attn_in",
    "blocks.0.hook_mlp_in": "use_hook_mlp_in",
}


def nothing(tensor, hook):
    return None


WAYS = {
    "run_with_hooks": lambda m, n: m.run_with_hooks(m.example_input(), fwd_hooks=[(n, nothing)]),
    "backward hooks": lambda m, n: m.run_with_hooks(m.example_input(), bwd_hooks=[(n, nothing)], reset_hooks_end=False),
    "hooks": lambda m, n: m.hooks(fwd_hooks=[(n, nothing)]).__enter__(),
    "hooks with a test": lambda m, n: m.hooks(fwd_hooks=[(lambda name: name == n, nothing)]).__enter__(),
    "add_hook": lambda m, n: m.add_hook(n, nothing),
    "add_hook with a test": lambda m, n: m.add_hook(lambda name: name == n, nothing),
    "add_perma_hook": lambda m, n: m.add_perma_hook(n, nothing),
    "add_perma_hook with a test": lambda m, n: m.add_perma_hook(lambda name: name == n, nothing),
    "the point's add_hook": lambda m, n: m.hook_dict[n].add_hook(nothing),
    "the point's add_perma_hook": lambda m, n: m.hook_dict[n].add_perma_hook(nothing),
    "names_filter": lambda m, n: m.run_with_cache(m.example_input(), names_filter=n),
    "names_filter list": lambda m, n: m.run_with_cache(m.example_input(), names_filter=["hook_embed", n]),
    "names_filter test": lambda m, n: m.run_with_cache(m.example_input(), names_filter=lambda name: name == n),
    "add_caching_hooks": lambda m, n: m.add_caching_hooks(names_filter=[n]),
}


def hooks_left(model):
    return [
        n for n, p in model.hook_dict.items() if p.fwd_hooks or p.bwd_hooks or p._forward_hooks or p._backward_hooks
    ]


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("way", WAYS)
def test_a_hook_on_a_point_that_is_off_is_refused(name, way):
    model = make()
    with pytest.raises(ValueError, match=rf"while cfg.{GATED[name]} is off: model.set_{GATED[name]}\(True\)"):
        WAYS[way](model, name)
    assert hooks_left(model) == []


@pytest.mark.parametrize("name", GATED)
def test_the_same_hook_runs_when_the_point_is_on(name):
    model = make()
    getattr(model, f"set_{GATED[name]}")(True)
    x = model.example_input(2)
    edited = model.run_with_hooks(x, fwd_hooks=[(name, lambda t, hook: t.flip(-1))])
    assert (edited - model(x)).abs().max() > 1e-3
    fired = []
    model.run_with_hooks(
        x, fwd_hooks=[(lambda n: n.endswith(name.split(".")[-1]), lambda t, hook: fired.append(hook.name))]
    )
    assert len(fired) == len(set(fired)) == 3  # once a layer: two names are one point


def test_a_filter_without_matches_raises_and_other_filters_skip_points_that_are_off():
    model = make()
    for attempt in (
        lambda: model.run_with_hooks(model.example_input(), fwd_hooks=[(lambda n: "attention" in n, nothing)]),
        lambda: model.add_hook(lambda n: False, nothing),
        lambda: model.run_with_cache(model.example_input(), names_filter=lambda n: False),
    ):
        with pytest.raises(ValueError, match="matches no hook point$"):
            attempt()
    fired = []
    model.run_with_hooks(model.example_input(), fwd_hooks=[(lambda n: True, lambda t, hook: fired.append(hook.name))])
    assert "blocks.0.attn.hook_q" in fired and not set(fired) & set(GATED)
    assert len(fired) == len(set(fired))
    _, cache = model.run_with_cache(model.example_input())
    assert set(cache.keys()) == set(fired)


def test_an_unknown_name_raises_and_suggests_one():
    model = make()
    for attempt in (
        lambda: model.run_with_hooks(model.example_input(), fwd_hooks=[("blocks.0.attn.hook_patern", nothing)]),
        lambda: model.add_hook("blocks.0.attn.hook_patern", nothing),
        lambda: model.run_with_cache(model.example_input(), names_filter=["blocks.0.attn.hook_patern"]),
    ):
        with pytest.raises(KeyError, match="did you mean one of .*blocks.0.attn.hook_pattern"):
            attempt()
    assert hooks_left(model) == []


def test_a_switch_cannot_be_turned_off_while_its_point_has_a_hook():
    model = make()
    model.set_use_attn_result(True)
    model.add_perma_hook("blocks.0.attn.hook_result", nothing)
    with pytest.raises(ValueError, match="would disable"):
        model.set_use_attn_result(False)
    model.reset_hooks(including_permanent=True)
    model.set_use_attn_result(False)


def test_head_copies_for_all_and_for_each_exclude_each_other_as_in_transformerlens():
    model = make()
    model.set_use_attn_in(True)
    with pytest.raises(ValueError, match="exclude each other"):
        model.set_use_split_qkv_input(True)
    model.set_use_attn_in(False)
    model.set_use_split_qkv_input(True)
    with pytest.raises(ValueError, match="exclude each other"):
        model.set_use_attn_in(True)


def test_switches_belong_to_one_model_not_to_its_configuration():
    first = make()
    second = type(first)(first.cfg)
    first.set_use_attn_result(True)
    assert not second.cfg.use_attn_result
    assert not type(first)(first.cfg).cfg.use_attn_result


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_inputs_of_heads_are_copies_of_the_residual_stream_before_the_norm(norm):
    """An edit there changes the input of one head only, as path patching needs."""
    model = make(norm=norm)
    model.set_use_split_qkv_input(True)
    x, _ = pair(model)
    _, cache = model.run_with_cache(x)
    torch.testing.assert_close(cache["q_input", 1][:, :, 1], cache["resid_pre", 1])
    move = torch.randn(12)

    def edit(tensor, hook):
        tensor[:, :, 1] += move  # in place: must not touch the other head, nor the stream
        return tensor

    with torch.no_grad(), model.hooks(fwd_hooks=[("blocks.1.attn.hook_q_input", edit)]):
        _, edited = model.run_with_cache(x)
    attn, read = model.blocks[1].attn, cache["resid_pre", 1] + move
    read = model.blocks[1].ln1(read) if norm == "pre" else read
    torch.testing.assert_close(edited["q", 1][:, :, 1], read @ attn.W_Q[1] + attn.b_Q[1], atol=1e-5, rtol=1e-5)
    for untouched in (("q", 1, slice(0, 1)), ("k", 1, slice(None)), ("resid_pre", 1, slice(None))):
        torch.testing.assert_close(edited[untouched[:2]][:, :, untouched[2]], cache[untouched[:2]][:, :, untouched[2]])


@pytest.mark.parametrize("name", ["hook_pos_embed", "hook_embed", "blocks.0.attn.hook_q", "blocks.0.attn.hook_v"])
@pytest.mark.parametrize("grad", [True, False])
def test_editing_in_place_edits_the_activation_and_never_a_weight(name, grad):
    model = make(norm="post")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x = model.example_input(1)

    def edit(tensor, hook):
        tensor[:, 2] = 5.0
        return tensor

    with torch.set_grad_enabled(grad):
        in_place = model.run_with_hooks(x, fwd_hooks=[(name, edit)])
        out_of_place = model.run_with_hooks(x, fwd_hooks=[(name, lambda t, hook: edit(t.clone(), hook))])
    torch.testing.assert_close(in_place, out_of_place)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_hooks_leave_nothing_behind_also_after_an_error():
    model = make()

    def fail(tensor, hook):
        raise RuntimeError("stop")

    for run in (
        lambda: model.run_with_hooks(model.example_input(), fwd_hooks=[("hook_embed", fail)]),
        lambda: model.run_with_cache(torch.zeros(1, 2, 3)),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            run()
        assert hooks_left(model) == []
    assert model.add_caching_hooks(names_filter="hook_embed") == {}
    model.reset_hooks()
    assert hooks_left(model) == []


def test_an_unknown_keyword_is_refused():
    model = make()
    for run in (model.__call__, model.run_with_hooks, model.run_with_cache):
        with pytest.raises(TypeError, match="totally_bogus"):
            run(model.example_input(), totally_bogus=1)
