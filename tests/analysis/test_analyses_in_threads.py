"""Analyses of one model in several threads: the hooks of one thread do not act in the forwards of another."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from emg_lens import Condition, EdgeCut, Replace, build_model, cross_modal, flow, sweep
from emg_lens.analysis import activation_shift, attribute, direct_effects, patch_paths, quantised, quantised_edges
from emg_lens.hooks.hook_points import plain_evaluation

PATH = (flow("acc", "emg").at(layers=0), flow("emg", "cls").at(layers=1))
Y = torch.arange(6) % 3


def isonet():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 16}
    return build_model("isonet", modalities={"emg": 3, "acc": 2}, n_samples=20, n_classes=3, **sizes).eval()


def attribution(method):
    return lambda model, x: attribute(model, x, Y, by="modality", method=method).table["score"]


ANALYSES = {method: attribution(method) for method in ("first_order", "relp", "rollout")} | {
    "direct effects": lambda model, x: direct_effects(model, x, Y)["recomputed"].dropna(),
    "quantised edges": lambda model, x: quantised_edges(model, x)["distance"],
    "shift": lambda model, x: activation_shift(model, x, [Condition("cut", EdgeCut(cross_modal()))])["cosine"],
}


def elsewhere(job):
    """Run a function in another thread, and wait for its result."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(job).result()


def hooks_of(model):
    return [name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks]


@pytest.mark.parametrize("name", ANALYSES)
def test_another_thread_runs_the_model_while_an_analysis_has_hooks_on_it(name):
    model = quantised(isonet(), softmax="integer") if name == "quantised edges" else isonet()
    x, other = torch.randn(2, 6, 5, 20, generator=torch.Generator().manual_seed(0))
    jobs = (lambda: model(other).detach(), lambda: patch_paths(model, other, other.flip(0), PATH))
    found, is_on = [], [False]

    def interrupt(*_):
        """At the end of each forward of the analysis, when its hooks are installed."""
        if is_on[0]:
            is_on[0] = False
            found.append([elsewhere(job) for job in jobs])
            is_on[0] = True

    model.blocks[-1].register_forward_hook(interrupt)
    expected, alone = [job() for job in jobs], torch.tensor(ANALYSES[name](model, x).to_numpy())
    before = hooks_of(model)
    is_on[0] = True
    torch.testing.assert_close(torch.tensor(ANALYSES[name](model, x).to_numpy()), alone, atol=1e-5, rtol=1e-4)
    assert found and hooks_of(model) == before
    for outs in found:
        torch.testing.assert_close(outs, expected)


def test_the_plan_of_a_sweep_ignores_hooks_of_other_threads_and_respects_its_own():
    model = isonet()
    x = model.example_input(4)
    conditions = [Condition("dead", EdgeCut(flow("emg", "acc").at(layers=2)))]

    def is_known():
        return bool(sweep(model, x, conditions).audit["structural_null"].iloc[-1])

    with Replace("acc", at="hook_embed").applied(model, model.layout):
        model(x)
        assert elsewhere(is_known) and not is_known()


def test_a_hook_that_is_removed_during_a_probe_does_not_come_back():
    """For example that of `run_with_cache` in another thread."""
    model = isonet()
    model.add_hook("hook_embed", lambda tensor, hook: 2 * tensor)
    with plain_evaluation(model):
        elsewhere(model.reset_hooks)
    assert not hooks_of(model)
