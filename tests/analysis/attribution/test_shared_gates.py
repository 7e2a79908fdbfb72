"""Integrated gradients of shared gates: the sum of the scores, the ends of the path, and a loop written here."""

import numpy as np
import pytest
import torch
from analysis.attribution.small_models import hierarchical, isonet, question_of, smooth, trials

from emg_lens import EmgLensError, cut
from emg_lens.analysis.attribution.differentiation import differentiate
from emg_lens.analysis.attribution.methods.shared_gates import SharedGates
from emg_lens.analysis.attribution.run import attribute
from emg_lens.analysis.ground_truth.compiled import compiled_encoder
from emg_lens.hooks import edges_from_mask, flow, self_edges


@pytest.mark.parametrize("by", ["head", "modality"])
@pytest.mark.parametrize("floor", [self_edges(), self_edges() | flow("emg", "cls")])
def test_the_scores_sum_to_the_metric_without_the_candidates(by, floor):
    """Two floors: one edge in each row, or more that share what the candidates give up."""
    model = smooth()
    x, y = trials(model, 12)
    found = attribute(model, x, y, method=SharedGates(passes=16), by=by, floor=floor, metric="log_prob")
    lost = found.question.bounds[0] - found.question.bounds[1]
    assert abs(found.audit["completeness_error"]) < 0.01
    np.testing.assert_allclose(found.trial_scores.sum(1), lost, atol=0.01 * np.abs(lost).max())


@pytest.mark.parametrize("build", [isonet, smooth, hierarchical])
def test_gates_at_zero_are_a_cut_of_all_candidates(build):
    question = question_of(build())
    floor = {place: mask for place, mask in question.split(question.floor).items()}
    candidates = question.split(question.candidates)

    def closed(place, scores, pattern):
        on_floor = scores.masked_fill(~floor[place], -torch.inf).softmax(-1)
        return pattern * ~candidates[place] + on_floor * (pattern * candidates[place]).sum(-1, keepdim=True)

    hooks = cut(question.model, edges_from_mask(question.candidates))
    with torch.no_grad():
        expected = question.metric_of(question.model.run_with_hooks(question.x, fwd_hooks=hooks), question.y)
    metric = differentiate(question, question.x, question.y, edit=closed).metric
    torch.testing.assert_close(metric, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(metric.numpy(), question.bounds[1], atol=1e-5)


def test_a_score_is_the_integral_of_what_an_edge_loses():
    """A path of one trial through a model, its gradients by finite differences of the gates of single edges."""
    question = question_of(smooth().double(), n=1)
    model, x, y = question.model, question.x.double(), question.y
    candidates = {place: mask.double() for place, mask in question.split(question.candidates).items()}

    def metric_with(gates):
        """Candidates at these gates; the self-edge takes the rest of the row."""

        def hook_of(place):
            def use(pattern, hook):  # noqa: ARG001
                lost = pattern * candidates[place] * (1 - gates[place])
                return pattern - lost + torch.diag_embed(lost.sum(-1))

            return f"blocks.{place}.attn.hook_pattern", use

        with torch.no_grad():
            return question.metric_of(model.run_with_hooks(x, fwd_hooks=[hook_of(0), hook_of(1)]), y).item()

    found = attribute(model, x, y, method=SharedGates(passes=32), by="head")
    nodes, weights = np.polynomial.legendre.leggauss(16)
    for group in (0, 5, len(found.table) - 1):
        own = question.split((question.groups.index == group).astype(float))
        total = 0.0
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            up, down = ({p: node + sign * 1e-5 * own[p] for p in candidates} for sign in (1, -1))
            total += weight * (metric_with(up) - metric_with(down)) / 2e-5
        assert found.trial_scores[0, group] == pytest.approx(total, rel=0.01, abs=1e-4)


def test_it_finds_both_routes_where_the_first_order_finds_none():
    task = compiled_encoder("backup", seed=0, tier="clean", n_trials=8)
    found = attribute(task.model, task.x, task.y, method="shared_gates", by="head")
    truth = task.truth.mask(task.layout, 3, 4)
    assert bool((found.top(int(truth.sum())).mask(task.layout, 3, 4) == truth).all())


def test_passes_are_checked():
    for passes in (0, -2, 2.5):
        with pytest.raises(EmgLensError, match="passes"):
            SharedGates(passes=passes)  # pyright: ignore[reportArgumentType]
