"""Attention, rollout, value norm and relevance: compared with products of matrices written here."""

from typing import Any

import pytest
import torch
from analysis.attribution.small_models import hierarchical, isonet, question_of, smooth
from zoo.architectures import WRAPPED
from zoo.tiny_models import bridged

from emg_lens import TokenLayout
from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.method import METHODS
from emg_lens.analysis.attribution.methods.value_norm import ValueNorm
from emg_lens.analysis.attribution.run import attribute
from emg_lens.hooks import cross_modal, every, self_edges
from emg_lens.hooks.hook_points import attention_paths

BUILDERS = [isonet, smooth, hierarchical]


def one_trial_full(question, values):
    """Values `[head, dest, src]` of one trial by place, written into `[layer][head, dest, src]`."""
    layout, shape = question.layout, question.candidates.shape
    full = torch.zeros(shape)
    for place, own in values.items():
        layer, span = (place, range(len(layout))) if isinstance(place, int) else (place.layer, None)
        span = layout.stage(place.stage).positions if span is None else span
        for i, dest in enumerate(span):
            for j, src in enumerate(span):
                full[layer, :, dest, src] = own[:, i, j]
    return full


def clean(question):
    """Attention weights by place, recorded by plain hooks."""
    paths = attention_paths(question.model)
    _, cache = question.model.run_with_cache(question.x)
    return {place: cache[f"{path}.hook_pattern"].detach() for place, path in paths.items()}


def scored(question, name):
    """The scores of single edges of one method: `[trial, layer, head, dest, src]`, 0 outside the candidates."""
    scores = METHODS[name].scores(question)
    padded = torch.cat([scores, scores.new_zeros(len(scores), 1)], 1)
    return padded[:, torch.from_numpy(question.groups.index)]


@pytest.mark.parametrize("build", [isonet, smooth])
def test_attention_is_the_pattern(build):
    question = question_of(build(), n=3)
    patterns = clean(question)
    for trial in range(3):
        full = one_trial_full(question, {place: own[trial] for place, own in patterns.items()})
        expected = torch.where(torch.from_numpy(question.candidates), full, 0.0).double()
        torch.testing.assert_close(scored(question, "attention")[trial], expected, atol=1e-6, rtol=1e-5)


def summed(question, values):
    """Sum values of edges `[trial, layer, head, dest, src]` over groups, one group after the other."""
    index = torch.from_numpy(question.groups.index)
    return torch.stack([values[:, index == g].sum(-1) for g in range(len(question.groups))], 1)


def rollout_by_hand(question):
    patterns, readout = clean(question), question.target.readout.tolist()
    n_layers, n_heads, n, _ = question.candidates.shape
    trials = []
    for trial in range(len(question.x)):
        full = one_trial_full(question, {place: own[trial] for place, own in patterns.items()})
        mixing = []
        for layer in range(n_layers):
            own = 0.5 * full[layer].mean(0) + 0.5 * torch.eye(n)
            for row in range(n):
                if full[layer, :, row].sum() == 0:
                    own[row] = torch.eye(n)[row]
            assert torch.allclose(own.sum(-1), torch.ones(n))
            mixing.append(own)
        scores = torch.zeros_like(full)
        for layer in range(n_layers):
            later = torch.eye(n)
            for other in range(n_layers - 1, layer, -1):
                later = later @ mixing[other]
            scores[layer] = later[readout].mean(0)[:, None] * full[layer] / (2 * n_heads)
        trials.append(scores)
    return torch.stack(trials)


@pytest.mark.parametrize("build", BUILDERS)
def test_rollout_is_the_product_of_matrices(build):
    question = question_of(build(), n=2)
    expected = summed(question, rollout_by_hand(question)).double()
    torch.testing.assert_close(METHODS["rollout"].scores(question), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["rollout", "chefer", "relp"])
@pytest.mark.parametrize("build, layer", [(isonet, 0), (smooth, 0), (hierarchical, 2)])
def test_layers_without_candidates_count_with_their_attention(name, build, layer):
    """The score of a group is the same whether or not the edges of other layers are scored too."""
    model = build()
    edges = cross_modal().at(layers=layer)
    others = {"others": every() - edges - self_edges()}
    both = METHODS[name].scores(question_of(model, by={"edges": edges} | others))
    alone = METHODS[name].scores(question_of(model, by={"edges": edges}))
    outside_the_floor = METHODS[name].scores(question_of(model, by={"edges": edges}, floor=every() - edges))
    assert both[:, 0].abs().max() > 1e-4
    torch.testing.assert_close(alone[:, 0], both[:, 0])
    torch.testing.assert_close(outside_the_floor, alone)


def test_rollout_of_the_last_layer_is_half_of_the_attention():
    """With a CLS readout, the edges that CLS reads in the last layer share the half that is not the residual stream."""
    question = question_of(isonet(), n=2)
    row = clean(question)[1][:, :, 0]  # [trial, head, src]
    found = scored(question, "rollout")[:, 1, :, 0, 1:].float()
    torch.testing.assert_close(found, row[..., 1:] / 4)  # one half, over two heads


def test_rollout_over_several_readout_positions_is_their_mean():
    question = question_of(isonet(readout="mean"), n=2)
    assert len(question.target.readout) > 1
    expected = summed(question, rollout_by_hand(question)).double()
    torch.testing.assert_close(METHODS["rollout"].scores(question), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("build", BUILDERS)
def test_chefer_is_the_relevance_that_passes_over_an_edge(build):
    """Removing an edge from the relevance matrices lowers the readout's sum of relevance by the edge's score."""
    question = question_of(build(), n=1)
    derivatives = differentiate(question, question.x, question.y)
    positive = {p: (a * derivatives.gradient[p]).clamp(min=0)[0] for p, a in derivatives.pattern.items()}
    full = one_trial_full(question, positive)

    def relevance(full):
        total = torch.eye(full.shape[-1], dtype=torch.float64)
        for layer in full:
            total = total + layer.double().mean(0) @ total
        return total[question.target.readout].mean(0).sum()

    found, index = METHODS["chefer"].scores(question)[0], torch.from_numpy(question.groups.index)
    assert found.max() > 1e-3
    for group in found.argsort(descending=True)[:6].tolist() + [0, 1]:
        without = full.clone()
        without[index == group] = 0
        assert found[group] == pytest.approx(float(relevance(full) - relevance(without)), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("build", BUILDERS)
def test_value_norm_is_the_norm_of_what_a_head_writes(build):
    model = build()
    question = question_of(model, n=2)
    _, cache = model.run_with_cache(question.x)
    patterns = clean(question)
    trials = []
    for trial in range(2):
        norms = {}
        for place, path in attention_paths(model).items():
            own, attention = patterns[place][trial], model.get_submodule(path)
            values, norms[place] = cache[f"{path}.hook_v"][trial], torch.zeros_like(patterns[place][trial])
            for head in range(own.shape[0]):
                written = values[:, head] @ attention.W_O[head]  # [src, d_model]
                norms[place][head] = torch.linalg.vector_norm(own[head, :, :, None] * written[None], dim=-1).detach()
        trials.append(one_trial_full(question, norms))
    expected = summed(question, torch.stack(trials)).double()
    torch.testing.assert_close(ValueNorm().scores(question), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_value_norm_where_query_heads_share_a_value_head():
    model: Any = bridged(WRAPPED["Llama"], "eager")
    x = torch.randint(7, (1, 4))
    _, cache = model.run_with_cache(x)
    found = attribute(
        model, x, torch.tensor([1]), method="value_norm", by="head", layout=TokenLayout.groups({"a": [0, 1, 2, 3]}, 4),
        metric=lambda outputs, y: outputs[:, -1].gather(1, y[:, None])[:, 0],
    )  # fmt: skip
    assert cache["blocks.0.attn.hook_v"].shape[2] == 1 and model.cfg.n_heads == 2
    for row in found.table.itertuples():
        dest, src = (int(name.removeprefix("token.")) for name in (row.dest, row.src))
        path = f"blocks.{row.layer}.attn"
        written = cache[f"{path}.hook_v"][0, src, 0] @ model.blocks[row.layer].attn.W_O[row.head]
        weight = cache[f"{path}.hook_pattern"][0, row.head, dest, src]
        assert row.score == pytest.approx(float(weight * written.norm()), rel=1e-4)
