"""Every method of TransformerLens's ActivationCache on our encoders: the parts sum to the whole."""

import pytest
import torch
from encoders import CLASSES, make
from transformer_lens import ActivationCache

from emg_lens.lens.cache import BiosignalCache
from emg_lens.lens.post_norm_cache import PostNormCache

NORMS = ["pre", "post"]
PLACES = [(0, False), (0, True), (1, False), (2, True), (3, False), (None, False), (-1, False)]


def close(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < tolerance


def run(norm, batch=3, **changes):
    model = make(norm=norm, **changes)
    with torch.no_grad():
        logits, cache = model.run_with_cache(model.example_input(batch))
    return model, logits, cache


def stream(model, cache, layer, mlp_input):
    """The expected sum of the parts, from hooks instead of the cache's methods."""
    n, post = model.cfg.n_layers, model.cfg.norm == "post"
    layer = n if layer in (None, -1) else layer
    if mlp_input:
        return cache[f"blocks.{layer}.hook_normalized_resid_mid" if post else f"blocks.{layer}.hook_resid_mid"]
    if layer < n:
        return cache["resid_pre", layer]
    return cache[f"blocks.{n - 1}.hook_normalized_resid_post" if post else f"blocks.{n - 1}.hook_resid_post"]


def test_the_cache_is_transformerlens_s_and_is_indexed_like_it():
    _, _, cache = run("pre")
    assert isinstance(cache, ActivationCache) and type(cache) is BiosignalCache
    assert type(run("post")[2]) is PostNormCache
    assert cache["pattern", 2].shape == (3, 2, 7, 7)
    assert cache["pattern", -1] is cache["pattern", 2] is cache["blocks.2.attn.hook_pattern"]
    close(cache["normalized", 1, "ln1"] * cache["scale", 1, "ln1"], centred(cache["resid_pre", 1]))
    assert cache["embed"].shape == cache["pos_embed"].shape == (3, 7, 12)


def centred(x):
    return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize(("layer", "mlp_input"), PLACES)
def test_sub_layers_add_up_to_what_is_read(norm, positions, layer, mlp_input):
    model, _, cache = run(norm, positions=positions)
    parts, labels = cache.decompose_resid(layer, mlp_input=mlp_input, return_labels=True)
    close(parts.sum(0), stream(model, cache, layer, mlp_input))
    assert len(labels) == len(parts)
    assert labels[0] == "embed" and ("pos_embed" in labels) == (positions == "learned")
    attention = cache.decompose_resid(layer, mlp_input=mlp_input, mode="attn", incl_embeds=False) if layer else None
    if attention is not None:
        kept = [i for i, label in enumerate(labels) if label.endswith("attn_out")]
        close(attention, parts[kept])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize(("layer", "mlp_input"), PLACES)
def test_heads_neurons_embeddings_and_biases_add_up_to_what_is_read(norm, expand, layer, mlp_input):
    model, _, cache = run(norm)
    parts, labels = cache.get_full_resid_decomposition(layer, mlp_input, expand, return_labels=True)
    close(parts.sum(0), stream(model, cache, layer, mlp_input))
    assert len(labels) == len(parts) == len(set(labels))
    if layer == 2:
        assert {"L0H0", "L2H1", "embed", "pos_embed", "bias", "L1N9" if expand else "1_mlp_out"} <= set(labels)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", [1, 2, 3, None])
def test_heads_and_their_remainder_add_up_and_match_attention(norm, layer):
    model, _, cache = run(norm)
    heads, labels = cache.stack_head_results(layer, return_labels=True, incl_remainder=True)
    close(heads.sum(0), stream(model, cache, layer, False))
    assert labels == [f"L{at}H{h}" for at in range(layer or 3) for h in range(2)] + ["remainder"]
    last = heads[-3:-1].sum(0)  # the top layer's heads, plus their bias, are what attention wrote
    attention, names = cache.decompose_resid(layer, return_labels=True)
    bias = model.blocks[(layer or 3) - 1].attn.b_O
    written = attention[names.index(f"{(layer or 3) - 1}_attn_out")]
    if norm == "pre":
        close(last + bias, written)
    else:  # the bias went through the same norms
        assert (written - last).std(dim=-1).max() > 0
        direct = cache["attn_out", (layer or 3) - 1] - bias
        through = carried(model, cache, direct, (layer or 3) - 1)
        close(last, through)


def carried(model, cache, written, layer):
    """Through ln1 and ln2 of one layer, by the definition of LayerNorm at a fixed scale."""
    for norm in ("ln1", "ln2"):
        ln = getattr(model.blocks[layer], norm)
        written = centred(written) / cache[f"blocks.{layer}.{norm}.hook_scale"] * ln.w
    return written


@pytest.mark.parametrize("norm", NORMS)
def test_neurons_and_their_remainder_add_up(norm):
    model, _, cache = run(norm)
    neurons, labels = cache.stack_neuron_results(2, return_labels=True, incl_remainder=True)
    close(neurons.sum(0), cache["resid_pre", 2])
    assert labels[:2] == ["L0N0", "L0N1"] and len(labels) == 21
    some, names = cache.stack_neuron_results(2, neuron_slice=[4, 7], return_labels=True)
    assert names == ["L0N4", "L0N7", "L1N4", "L1N7"]
    close(some, neurons[[4, 7, 14, 17]])
    direction = torch.randn(12)
    close(cache.stack_neuron_results(2, project_output_onto=direction), neurons[:-1] @ direction, 1e-4)
    one = cache.stack_neuron_results(2, neuron_slice=[4])
    close(one, neurons[[4, 14]])


def test_a_component_of_a_post_norm_model_is_what_leaves_with_it_when_all_else_is_held():
    """An independent check: keep all scales and all other outputs, remove one output, and compare the stream."""
    model, _, cache = run("post")
    parts, labels = cache.decompose_resid(return_labels=True)
    for name, hook_name in (("0_attn_out", "blocks.0.hook_attn_out"), ("1_mlp_out", "blocks.1.hook_mlp_out")):
        held = [n for n in cache if n.endswith(("hook_scale", "hook_attn_out", "hook_mlp_out")) and n != hook_name]
        hooks = [(n, lambda t, hook: cache[hook.name]) for n in held]
        hooks.append((hook_name, lambda t, hook: torch.zeros_like(t)))
        with torch.no_grad():
            without = model.run_with_hooks(model.example_input(3), fwd_hooks=hooks, stop_at_layer=3)
        close(parts[labels.index(name)], stream(model, cache, None, False) - without)


@pytest.mark.parametrize("norm", NORMS)
def test_accumulated_resid_is_what_each_sub_layer_reads(norm):
    model, _, cache = run(norm)
    streams, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "2_pre", "2_mid", "final_post"]
    for i, label in enumerate(labels):
        layer = 3 if label == "final_post" else int(label[0])
        close(streams[i], stream(model, cache, layer, label.endswith("mid")))
    logits = model.unembed(cache.accumulated_resid(apply_ln=True)[-1, :, 0])
    close(logits, model(model.example_input(3)))
    upto, names = cache.accumulated_resid(1, mlp_input=True, return_labels=True)
    assert names == ["0_pre", "1_pre", "1_mid"]
    close(upto[-1], stream(model, cache, 1, True))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("readout", ["cls", "mean"])
@pytest.mark.parametrize("kind", ["sub-layers", "heads", "all"])
def test_attributions_to_a_gesture_add_up_to_its_logit(norm, readout, kind):
    model, logits, cache = run(norm, readout=readout)
    stack = {
        "sub-layers": lambda: cache.decompose_resid(),
        "heads": lambda: cache.stack_head_results(incl_remainder=True),
        "all": lambda: cache.get_full_resid_decomposition(),
    }[kind]()
    attributed = cache.logit_attrs(stack, "pinch").sum(0)  # [batch, pos]
    total = attributed[:, 0] if readout == "cls" else attributed[:, 1:].mean(1)
    constant = model.b_U[2] + (model.ln_final.b @ model.W_U[:, 2] if norm == "pre" else 0)
    close(total + constant, logits[:, 2])


@pytest.mark.parametrize("norm", NORMS)
def test_attributions_take_labels_as_transformerlens_takes_tokens(norm):
    model, logits, cache = run(norm)
    stack = cache.decompose_resid(pos_slice=0)
    by_name = cache.logit_attrs(stack, "wave", pos_slice=0)
    close(by_name, cache.logit_attrs(stack, CLASSES.index("wave"), pos_slice=0))
    difference = cache.logit_attrs(stack, "wave", "rest", pos_slice=0).sum(0)
    constant = model.b_U + (model.ln_final.b @ model.W_U if norm == "pre" else 0)
    close(difference + constant[4] - constant[0], logits[:, 4] - logits[:, 0])
    y = torch.tensor([3, 0, 3])
    per_trial = cache.logit_attrs(stack, y, pos_slice=0).sum(0)
    close(per_trial + constant[y], logits[torch.arange(3), y])
    with pytest.raises(KeyError, match="unknown class 'clap'; known"):
        cache.logit_attrs(stack, "clap")


@pytest.mark.parametrize(("layer", "mlp_input"), [(0, False), (1, True), (2, False), (3, False), (None, False)])
def test_normalised_parts_add_up_to_the_input_of_the_sub_layer(layer, mlp_input):
    model, _, cache = run("pre")
    block = None if layer in (None, 3) else model.blocks[layer]
    norm = model.ln_final if block is None else block.ln2 if mlp_input else block.ln1
    parts = cache.decompose_resid(layer, mlp_input=mlp_input)
    applied = cache.apply_ln_to_stack(parts, layer, mlp_input)
    close(applied.sum(0) + norm.b, norm(stream(model, cache, layer, mlp_input)))
    close(applied, cache.decompose_resid(layer, mlp_input=mlp_input, apply_ln=True))
    full = cache.get_full_resid_decomposition(layer, mlp_input, apply_ln=True)
    close(full.sum(0), applied.sum(0))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("apply_ln", [True, False])
@pytest.mark.parametrize("expand", [True, False])
def test_projecting_early_is_projecting_late(norm, apply_ln, expand):
    _, _, cache = run(norm)
    onto = torch.randn(12, 4)
    late = cache.get_full_resid_decomposition(expand_neurons=expand, apply_ln=apply_ln) @ onto
    close(
        cache.get_full_resid_decomposition(expand_neurons=expand, apply_ln=apply_ln, project_output_onto=onto),
        late,
        1e-4,
    )
    neurons = cache.stack_neuron_results(3, apply_ln=apply_ln, project_output_onto=onto[:, 0])
    close(neurons, cache.stack_neuron_results(3, apply_ln=apply_ln) @ onto[:, 0], 1e-4)


def test_with_unit_gain_every_number_of_a_pre_norm_model_is_transformerlens_s():
    model = make()
    with torch.no_grad():
        for ln in [model.ln_final, *(ln for block in model.blocks for ln in (block.ln1, block.ln2))]:
            ln.w.fill_(1.0)
    _, cache = model.run_with_cache(model.example_input(3))
    theirs = ActivationCache(dict(cache.items()), model)
    for name, arguments in {
        "accumulated_resid": dict(incl_mid=True, apply_ln=True),
        "decompose_resid": dict(layer=2, mlp_input=True, apply_ln=True),
        "stack_head_results": dict(layer=3, incl_remainder=True, apply_ln=True),
        "stack_neuron_results": dict(
            layer=2, incl_remainder=True, apply_ln=True, project_output_onto=torch.randn(12, 2)
        ),
        "get_full_resid_decomposition": dict(layer=3, apply_ln=True),
    }.items():
        close(getattr(cache, name)(**arguments), getattr(theirs, name)(**arguments), 1e-4)
    stack = cache.decompose_resid()
    close(cache.logit_attrs(stack, "fist"), theirs.logit_attrs(stack, "fist"))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("selection", [0, [0, 3], (1, 5), None])
def test_slices_of_positions_commute_with_every_decomposition(norm, selection):
    _, _, cache = run(norm)
    for name, arguments in {
        "decompose_resid": {},
        "accumulated_resid": dict(incl_mid=True, apply_ln=True),
        "stack_head_results": dict(incl_remainder=True, apply_ln=True),
        "get_full_resid_decomposition": dict(apply_ln=True),
    }.items():
        whole = getattr(cache, name)(**arguments)
        picked = whole[
            :, :, slice(*selection) if isinstance(selection, tuple) else slice(None) if selection is None else selection
        ]
        close(getattr(cache, name)(**arguments, pos_slice=selection), picked)


@pytest.mark.parametrize("norm", NORMS)
def test_one_trial_without_its_batch_axis_gives_the_same_numbers(norm):
    model, _, cache = run(norm, batch=1)
    _, bare = model.run_with_cache(model.example_input(1), remove_batch_dim=True)
    assert bare["pattern", 0].shape == (2, 7, 7)
    close(bare.decompose_resid(), cache.decompose_resid()[:, 0])
    close(bare.get_full_resid_decomposition(), cache.get_full_resid_decomposition()[:, 0])
    attrs = bare.logit_attrs(bare.stack_head_results(), "fist", has_batch_dim=False)
    close(attrs, cache.logit_attrs(cache.stack_head_results(), "fist")[:, 0])
    close(cache.remove_batch_dim().accumulated_resid(), bare.accumulated_resid())
    with pytest.raises((ValueError, AssertionError), match="batch size 2|needs one trial"):
        model.run_with_cache(model.example_input(2), remove_batch_dim=True)


@pytest.mark.parametrize("norm", NORMS)
def test_the_cache_of_some_trials_keeps_adding_up(norm):
    _, _, cache = run(norm)
    some = cache.apply_slice_to_batch_dim([0, 2])
    assert type(some) is type(cache)
    close(some.decompose_resid(), cache.decompose_resid()[:, [0, 2]])
    stack = cache.decompose_resid()
    close(cache.logit_attrs(stack, "fist", batch_slice=[0, 2]), cache.logit_attrs(stack, "fist")[:, [0, 2]])
    one = cache.apply_slice_to_batch_dim(1)
    close(one.decompose_resid(), cache.decompose_resid()[:, 1])


def test_per_head_results_are_computed_when_they_were_not_cached():
    model, _, cache = run("pre")
    from_z = cache.stack_head_results()
    model.set_use_attn_result(True)
    with torch.no_grad():
        _, cached = model.run_with_cache(model.example_input(3))
    close(cached.stack_head_results(), from_z)
    close(cached["result", 1].sum(2) + model.b_O[1], cached["attn_out", 1])
    cache.compute_head_results()
    close(cache["result", 1], cached["result", 1])


def test_decompositions_of_split_inputs_are_refused():
    model = make()
    model.set_use_split_qkv_input(True)
    _, cache = model.run_with_cache(model.example_input(2))
    assert cache["blocks.0.hook_q_input"] is cache["blocks.0.attn.hook_q_input"]
    assert cache["q_input", 0].shape == (2, 7, 2, 12)
    with pytest.raises(ValueError, match="one scale per head"):
        cache.apply_ln_to_stack(cache.decompose_resid(1), 1)
    assert cache.logit_attrs(cache.decompose_resid(), "fist").isfinite().all()  # the final norm has one


@pytest.mark.parametrize("norm", NORMS)
def test_a_cache_that_lacks_what_is_needed_names_it(norm):
    model = make(norm=norm)
    _, cache = model.run_with_cache(model.example_input(2), names_filter=lambda n: not n.endswith("hook_scale"))
    with pytest.raises(KeyError, match="'blocks.0.ln1.hook_scale' is not in the cache"):
        cache.apply_ln_to_stack(cache["embed"][None], 0) if norm == "pre" else cache.decompose_resid()


def test_biases_of_a_post_norm_model_are_not_a_constant():
    model = make(norm="post")
    assert model.accumulated_bias(0).abs().sum() == 0
    with pytest.raises(ValueError, match="get_full_resid_decomposition"):
        model.accumulated_bias(1)
    with pytest.raises(ValueError, match="3 layers"):
        run("post")[2].decompose_resid(3, mlp_input=True)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_are_cached_with_the_loss(norm):
    model = make(norm=norm)
    x, y = model.example_input(3), torch.tensor([0, 4, 2])
    loss, cache = model.run_with_cache(x, return_type="loss", labels=y, incl_bwd=True)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(model(x), y))
    resid = model(x, stop_at_layer=1).detach().requires_grad_()
    torch.nn.functional.cross_entropy(model(resid, start_at_layer=1), y).backward()
    close(cache["blocks.1.hook_resid_pre_grad"], resid.grad)
    assert cache["blocks.2.attn.hook_pattern_grad"].shape == (3, 2, 7, 7)


def test_positions_are_sliced_also_with_a_head_axis():
    model = make(positions="rotary")
    x = model.example_input(2)
    for switch in ("split_qkv_input", "attn_result", "hook_mlp_in"):
        getattr(model, f"set_use_{switch}")(True)
    _, whole = model.run_with_cache(x)
    for selection in ([0, 4], 0, (2, 5)):
        _, some = model.run_with_cache(x, pos_slice=selection)
        rows = slice(*selection) if isinstance(selection, tuple) else [selection] if selection == 0 else selection
        assert set(some.keys()) == set(whole.keys())
        for name, value in some.items():
            of_edges = name.endswith(("scores", "pattern"))
            close(value, whole[name][:, :, rows] if of_edges else whole[name][:, rows])


def test_names_filters_pick_by_name_names_and_test():
    model = make()
    x = model.example_input(2)
    keys = lambda wanted: set(model.run_with_cache(x, names_filter=wanted)[1].keys())
    assert keys("hook_embed") == {"hook_embed"}
    assert keys(["hook_embed", "blocks.1.hook_resid_mid"]) == {"hook_embed", "blocks.1.hook_resid_mid"}
    assert keys(lambda name: name.endswith("pattern")) == {f"blocks.{at}.attn.hook_pattern" for at in range(3)}
    assert type(model.run_with_cache(x, return_cache_object=False)[1]) is dict
    stopped = model.run_with_cache(x, stop_at_layer=1)[1]
    assert "blocks.0.hook_resid_post" in stopped and "blocks.1.hook_resid_pre" not in stopped
