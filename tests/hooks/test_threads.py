"""A context belongs to the thread that entered it; forwards in other threads are not affected."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch
from torch import nn
from toy import Toy, hooks_left

from emg_lens.hooks import DeadHookError, EdgeError, Replace, adapt, cross_modal, cut, cutting, unimodal
from emg_lens.hooks.evaluation import evaluating
from emg_lens.hooks.hook_points import attached_hook, needs_scores, only_while_probing, probing
from emg_lens.hooks.threads import bound_to_thread
from emg_lens.layout import TokenLayout

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})
X = Toy(LAYOUT).example_input(4)
EDGES = (cross_modal(), unimodal("emg"), unimodal("acc").at(layers=[0, 2]))


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return adapt(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval(), torch.randn(1, 6, 8))


MODELS = {
    "live scores": lambda: (Toy(LAYOUT), X),
    "dead hooks": lambda: (Toy(LAYOUT, live=False), X),
    "zero output": lambda: (without_output(Toy(LAYOUT, live=False)), X),
    "adapted": lambda: (encoder(), torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))),
}


def without_output(toy):
    for block in toy.blocks:
        nn.init.zeros_(block.attn.out.weight)
    return toy


def together(*jobs):
    """Run functions at the same time, each in a thread, and return their results."""
    start = threading.Barrier(len(jobs))

    def run(job):
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


def run_cut(model, x, edges):
    with torch.no_grad(), cutting(model, edges, LAYOUT) as report:
        return model(x), report


def repeated(model, x, times=5):
    with torch.no_grad():
        return [model(x) for _ in range(times)]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rounds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_cuts_in_several_threads_are_independent_and_plain_forwards_are_not_cut(kind, rounds):
    """The first round probes the model while the other threads run it."""
    model, x = MODELS[kind]()
    with torch.no_grad():
        plain = model(x)
    alone = [run_cut(MODELS[kind]()[0], x, edges)[0] for edges in EDGES]
    for number in range(rounds):
        if number % 3 == 0:
            model = MODELS[kind]()[0]
        cuts = [lambda edges=edges: run_cut(model, x, edges) for edges in EDGES]
        *cut_runs, plain_runs = together(*cuts, lambda: repeated(model, x))
        for (out, report), expected in zip(cut_runs, alone, strict=True):
            torch.testing.assert_close(out, expected)
            assert {entry.trials for entry in report.layers} == {len(x)}
        for out in plain_runs:
            torch.testing.assert_close(out, plain)
        assert hooks_left(model) == hooks_left(MODELS[kind]()[0])


@pytest.mark.parametrize("kind", MODELS)
def test_a_forward_in_another_thread_is_not_cut_and_does_not_count(kind):
    model, x = MODELS[kind]()
    with torch.no_grad():
        plain = model(x)
    with (
        pytest.raises(
            DeadHookError, match="12 forwards of attention ran in other threads.*call the model in the thread"
        ),
        cutting(model, cross_modal(), LAYOUT),
    ):
        outs = [out for run in together(*[lambda: repeated(model, x, 2)] * 2) for out in run]
    for out in outs:
        torch.testing.assert_close(out, plain)


def test_other_interventions_belong_to_their_thread_too():
    model = Toy(LAYOUT)
    plain = model(X)
    with Replace("acc", at="hook_embed").applied(model, LAYOUT):
        changed = model(X)
        (out,) = together(lambda: model(X))
    assert torch.equal(out, plain) and not torch.allclose(changed, plain)


def test_other_threads_do_not_read_the_noise_of_a_probe():
    """A module whose output matrix is zero is probed with noise in this matrix."""
    model, read = without_output(Toy(LAYOUT)), []
    matrix = model.blocks[1].attn.out.weight
    handle = model.blocks[1].attn.out.register_forward_pre_hook(lambda *_: read.extend(together(lambda: matrix.any())))
    cut(model, cross_modal())
    handle.remove()
    assert read and not any(read)


def test_a_recomputed_layer_of_an_unknown_context_is_refused(monkeypatch):
    """As in a thread of the autograd engine on a GPU, which Python does not know."""
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 7)
    monkeypatch.setattr(threading, "enumerate", list)
    with bound_to_thread() as here:
        assert here() and together(here) == [True]

        def second_context():
            with bound_to_thread():
                return together(here)

        with pytest.raises(EdgeError, match="two threads have open contexts"):
            together(second_context)


def test_a_hook_that_is_removed_while_another_thread_runs_the_model_does_nothing_there():
    """Torch then calls it without the keyword arguments."""
    read = []
    hook = only_while_probing(lambda module, args, kwargs: read.append(kwargs))
    assert hook(nn.Identity(), ()) is None and not read
    token = probing.set(True)
    hook(nn.Identity(), (), {"a": 1})
    probing.reset(token)
    assert read == [{"a": 1}]


def test_hooks_of_another_thread_do_not_choose_the_path_of_attention():
    attention = encoder().original_model.layers[0].self_attn
    inside, outside = threading.Event(), threading.Event()

    def other():
        with attached_hook(attention.hook_pattern, lambda pattern, hook: pattern):
            inside.set()
            outside.wait(60)
            return needs_scores(attention)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(other)
        inside.wait(60)
        here = needs_scores(attention)
        outside.set()
    assert job.result() and not here


def test_a_model_trains_again_after_the_last_thread_that_evaluates_it():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval(), nn.Linear(1, 1))
    first, second = ExitStack(), ExitStack()
    together(lambda: first.enter_context(evaluating(model)))
    with evaluating(model[0]):
        together(lambda: second.enter_context(evaluating(model)))
        together(first.close)
        assert not any(part.training for part in model.modules())
        together(second.close)
        assert [part.training for part in model.modules()] == [True, False, False, True]
    assert [part.training for part in model.modules()] == [True, True, False, True]


@pytest.fixture(autouse=True)
def _short_turns():
    """Let threads change often, so that they meet in the middle of a change."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)
