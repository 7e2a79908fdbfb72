"""TransformerLens's attribution patching on our encoders: nodes, edges, faithfulness."""

import pytest
import torch
from encoders import logit_difference, make, needs_4, pair
from transformer_lens.tools.analysis import attribution_patching as ap

NORMS = ["pre", "post"]


def metric(logits):
    return logit_difference(logits)


@pytest.mark.parametrize("norm", NORMS)
def test_nodes_score_the_clean_change_along_the_gradient_at_the_corrupt_run(norm):
    model = make(norm=norm)
    clean, corrupt = pair(model, batch=2)
    with model.handles(clean) as clean_tokens, model.handles(corrupt) as corrupt_tokens:
        found = ap.attribution_patch(model, clean_tokens, corrupt_tokens, metric).node_scores
    assert len(found) == 7 * (1 + 3 * (2 + 1))

    def expected(name, where):
        """The same by autograd of a function of the activation, for one trial at a time."""
        total = 0.0
        for trial in range(2):
            one = slice(trial, trial + 1)
            _, clean_cache = model.run_with_cache(clean[one])
            _, corrupt_cache = model.run_with_cache(corrupt[one])
            value = corrupt_cache[name].clone().requires_grad_()
            out = metric(model.run_with_hooks(corrupt[one], fwd_hooks=[(name, lambda t, hook, v=value: v)]))
            (gradient,) = torch.autograd.grad(out, value)
            total += float(((clean_cache[name] - corrupt_cache[name]) * gradient)[(0, *where)].sum()) / 2
        return total

    for node, name, where in (
        (ap.Node("embed", position=3), "hook_embed", (3,)),
        (ap.Node("attn_head_out", layer=1, head=1, position=0), "blocks.1.attn.hook_z", (0, 1)),
        (ap.Node("mlp_out", layer=0, position=5), "blocks.0.hook_mlp_out", (5,)),
    ):
        assert found[node] == pytest.approx(expected(name, where), abs=1e-5)


def test_a_node_score_is_exact_without_nonlinear_parts_in_between():
    """The last layer's MLP at CLS with fixed norms: the model is linear there, so first order is exact."""
    model = make(norm="post", n_layers=1)
    clean, corrupt = pair(model, batch=1)
    _, held = model.run_with_cache(corrupt)
    with model.hooks(fwd_hooks=[("blocks.0.ln2.hook_scale", lambda t, hook: held[hook.name])]):
        _, clean_cache = model.run_with_cache(clean)
        with model.handles(clean) as clean_tokens, model.handles(corrupt) as corrupt_tokens:
            found = ap.attribution_patch(model, clean_tokens, corrupt_tokens, metric).node_scores

        def edit(tensor, hook):
            tensor = tensor.clone()
            tensor[:, 0] = clean_cache["mlp_out", 0][:, 0]
            return tensor

        exact = metric(model.run_with_hooks(corrupt, fwd_hooks=[("blocks.0.hook_mlp_out", edit)])) - metric(
            model(corrupt)
        )
    assert found[ap.Node("mlp_out", layer=0, position=0)] == pytest.approx(exact.item(), abs=1e-5)


@needs_4
def test_edges_of_each_writer_add_up_to_its_node():
    model = make()
    clean, corrupt = pair(model, batch=2)
    model.set_use_attn_in(True)
    with model.handles(clean) as clean_tokens, model.handles(corrupt) as corrupt_tokens:
        nodes = ap.attribution_patch(model, clean_tokens, corrupt_tokens, metric).node_scores
        edges = ap.attribution_patch(
            model, clean_tokens, corrupt_tokens, metric, ap.EdgeAttributionConfig(granularity="edge")
        )
    assert model.cfg.use_attn_in and not model.cfg.use_split_qkv_input and not model.cfg.use_attn_result
    assert edges.edge_scores
    for node, score in nodes.items():
        assert edges.node_scores[node] == pytest.approx(score, abs=1e-4)


@needs_4
def test_a_whole_circuit_recovers_the_clean_metric_and_an_empty_one_the_corrupt():
    model = make(n_layers=2)
    clean, corrupt = pair(model, batch=1)
    with model.handles(clean) as clean_tokens, model.handles(corrupt) as corrupt_tokens:
        edges = ap.attribution_patch(
            model, clean_tokens, corrupt_tokens, metric, ap.EdgeAttributionConfig(granularity="edge")
        )
        whole = ap.faithfulness(model, clean_tokens, corrupt_tokens, metric, list(edges.edge_scores))
        empty = ap.faithfulness(model, clean_tokens, corrupt_tokens, metric, [])
        with model.handles(model.example_input(3, seed=9)) as others:
            mean = ap.FaithfulnessConfig(ablation="mean")
            averaged = ap.faithfulness(model, clean_tokens, corrupt_tokens, metric, [], mean, mean_tokens=others)
    assert whole.full_metric == pytest.approx(metric(model(clean)).item(), abs=1e-5)
    assert whole.recovered == pytest.approx(1.0, abs=1e-4)
    assert empty.recovered == pytest.approx(0.0, abs=1e-4)
    assert torch.tensor(averaged.recovered).isfinite()


@needs_4
def test_edges_of_a_post_norm_model_are_refused_with_the_reason():
    model = make(norm="post")
    clean, corrupt = pair(model, batch=1)
    with model.handles(clean) as a, model.handles(corrupt) as b:
        for attempt in (
            lambda: ap.attribution_patch(model, a, b, metric, ap.EdgeAttributionConfig(granularity="edge")),
            lambda: ap.faithfulness(model, a, b, metric, []),
        ):
            with pytest.raises(ValueError, match="post-LN blocks .* not additive; use activation patching, node"):
                attempt()
    assert not model.cfg.use_attn_result


def test_raw_signals_are_refused_by_attribution_patching():
    model = make()
    clean, corrupt = pair(model)
    with pytest.raises((ValueError, IndexError)):
        ap.attribution_patch(model, clean, corrupt, metric)
