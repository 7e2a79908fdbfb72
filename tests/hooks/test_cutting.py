from contextlib import nullcontext

import pytest
import torch
from toy import Toy, hooks_left, intervention_point

from emg_lens.hooks import (
    DeadHookError,
    EdgeError,
    cross_modal,
    cut,
    cut_mlp,
    cutting,
    every,
    flow,
    none,
    positions,
    replace,
    unimodal,
)
from emg_lens.layout import TokenLayout
from emg_lens.models import build_model

LAYOUT = TokenLayout.channels({"emg": 3, "acc": 2})
X = Toy(LAYOUT).example_input(4)


@pytest.fixture(params=[True, "pattern", False], ids=["live scores", "live pattern", "dead hooks"])
def toy(request):
    return Toy(LAYOUT, live=request.param)


@pytest.fixture
def live():
    return Toy(LAYOUT)


def expected(edges, x=X):
    toy = Toy(LAYOUT).to(x.dtype)
    return toy.run_with_hooks(x, fwd_hooks=cut(toy, edges))


def test_cutting_equals_cut_at_every_intervention_point(toy):
    with cutting(toy, cross_modal()) as report:
        out = toy(X)
    torch.testing.assert_close(out, expected(cross_modal()))
    assert report.intervention_point == ("scores" if toy.blocks[0].attn.live is True else "attention_mask")


def test_the_report_says_what_was_cut(live):
    edges = flow("emg", "acc").at(layers=[0, 2]) | positions(dest=["acc.1"]).at(layers=2, heads=0)
    with cutting(live, edges) as report:
        live(X)
    frame = report.to_frame().set_index("layer")
    assert frame.index.tolist() == [0, 2]
    assert frame["edges_cut"].tolist() == [2 * 6, 2 * 6 + 3]
    assert frame["rows_fully_cut"].tolist() == [0, 1]
    assert (frame["already_dead"] == 0).all() and (frame["attention_left"] == 0).all()
    assert (frame["trials"] == 4).all() and set(frame["intervention_point"]) == {"scores"}
    assert "edges_cut" in repr(report) and "flow('emg', 'acc')" in repr(report)


def test_the_mass_removed_is_the_attention_of_the_cut_edges(toy):
    patterns = []
    reader = Toy(LAYOUT)
    reader.run_with_hooks(X, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda p, hook: patterns.append(p))])
    edges = cross_modal().at(layers=0, heads=1)
    with cutting(toy, edges) as report:
        toy(X)
    held = (patterns[0] * edges.mask(LAYOUT, 3, 2)[0]).sum() / (4 * 2 * 6)
    assert report.layers[0].mass_removed == pytest.approx(held.item(), abs=1e-6)
    assert report.mass_removed == report.layers[0].mass_removed


def test_the_mass_is_averaged_over_trials_of_several_forwards(toy):
    with cutting(toy, cross_modal()) as whole:
        toy(X)
    with cutting(toy, cross_modal()) as parts:
        toy(X[:1]), toy(X[1:])
    assert parts.mass_removed == pytest.approx(whole.mass_removed, abs=1e-6)
    assert parts.layers[0].trials == 4


def test_cutting_everything_removes_all_attention(toy):
    with cutting(toy, every()) as report:
        out = toy(X)
    assert out.isfinite().all()
    assert [entry.mass_removed for entry in report.layers] == pytest.approx([1, 1, 1])
    assert [entry.rows_fully_cut for entry in report.layers] == [12, 12, 12]


def test_nothing_is_left_behind(toy):
    before = toy(X)
    with cutting(toy, cross_modal()):
        toy(X)
    assert hooks_left(toy) == [] and torch.equal(toy(X), before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_passes_through_and_leaves_nothing_behind(toy, error):
    before = toy(X)
    with pytest.raises(error, match="mine"), cutting(toy, cross_modal()):
        toy(X)
        raise error("mine")
    assert hooks_left(toy) == [] and torch.equal(toy(X), before)


def test_an_interrupt_in_the_middle_of_attention_leaves_nothing_behind(toy):
    def interrupt(*_):
        raise KeyboardInterrupt

    handle = toy.blocks[1].attn.out.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), cutting(toy, cross_modal()):
        toy(X)
    handle.remove()
    assert hooks_left(toy) == []
    scores = torch.randn(1, 2, 6, 6)
    assert torch.equal(scores.softmax(-1), torch.softmax(scores, -1)) and (scores.softmax(-1) > 0).all()


def test_an_error_of_the_body_before_any_forward_is_not_replaced(toy):
    with pytest.raises(ValueError, match="mine"), cutting(toy, cross_modal()):
        raise ValueError("mine")


def test_a_body_that_never_runs_the_model_is_an_error(toy):
    with (
        pytest.raises(DeadHookError, match=r"the model was not run inside cutting\(cross_modal\(\)\)"),
        cutting(toy, cross_modal()),
    ):
        pass
    with pytest.raises(DeadHookError, match="not run"), cutting(toy, none()):
        pass


def test_running_another_model_is_an_error(toy):
    with pytest.raises(DeadHookError, match="not run"), cutting(toy, cross_modal()):
        Toy(LAYOUT)(X)


def test_none_cuts_nothing_and_reports_nothing(toy):
    before = toy(X)
    with cutting(toy, none()) as report:
        assert torch.equal(toy(X), before)
    assert report.layers == () and report.mass_removed == 0
    assert list(report.to_frame().columns)[:2] == ["layer", "intervention_point"]


def test_a_cut_layer_that_did_not_run_is_an_error(toy):
    with pytest.raises(DeadHookError, match="layer 2 .*nothing was cut"), cutting(toy, cross_modal()):
        toy.blocks[0].attn(torch.randn(1, 6, 8)), toy.blocks[1].attn(torch.randn(1, 6, 8))


def test_a_hook_that_writes_attention_back_is_an_error(live):
    def write_back(pattern, hook):
        return torch.full_like(pattern, 1 / 6)

    with (
        pytest.raises(DeadHookError, match=r"a cut edge still has attention 0.167"),
        cutting(live, cross_modal()),
    ):
        live.run_with_hooks(X, fwd_hooks=[("blocks.1.attn.hook_pattern", write_back)])
    assert hooks_left(live) == []


@pytest.mark.parametrize("kind", ["pattern", False])
def test_a_hook_that_writes_attention_back_is_an_error_where_it_has_an_effect(kind):
    """The cut is inside the module; with a working `hook_pattern` the module uses what a later hook writes."""
    toy = Toy(LAYOUT, live=kind)
    write_back = [("blocks.1.attn.hook_pattern", lambda pattern, hook: torch.full_like(pattern, 1 / 6))]
    if kind == "pattern":
        with pytest.raises(DeadHookError, match="a cut edge still has attention"), cutting(toy, cross_modal()):
            toy.run_with_hooks(X, fwd_hooks=write_back)
    else:
        with cutting(toy, cross_modal()):
            torch.testing.assert_close(toy.run_with_hooks(X, fwd_hooks=write_back), expected(cross_modal()))
    assert hooks_left(toy) == []


def test_a_hook_that_overwrites_scores_is_an_error(live):
    def overwrite(scores, hook):
        return torch.zeros_like(scores)

    with (
        pytest.raises(DeadHookError, match="other hooks that write to the scores or the"),
        cutting(live, cross_modal()),
    ):
        live.run_with_hooks(X, fwd_hooks=[("blocks.0.attn.hook_attn_scores", overwrite)])


def test_an_intervention_point_that_stops_working_after_the_test_is_an_error(live):
    with cutting(live, cross_modal()):
        live(X)
    with pytest.raises(DeadHookError, match="layer 1"), cutting(live, cross_modal()):
        live.blocks[1].attn.live = False
        live(X)
    with cutting(live, cross_modal()) as report:  # tested again, because a setting has changed
        live(X)
    assert report.intervention_point == "attention_mask"


def test_a_forward_that_bypasses_the_hook_is_an_error(live):
    attention = live.blocks[0].attn
    with (
        pytest.raises(DeadHookError, match="attention ran 2 times, but it was cut 1 times"),
        cutting(live, cross_modal()),
    ):
        live(X)
        point, attention.hook_attn_scores = attention.hook_attn_scores, torch.nn.Identity()
        live(X)
    attention.hook_attn_scores = point
    assert hooks_left(live) == []


def test_nested_contexts_cut_the_union(toy):
    inner_edges = unimodal("emg") | flow("acc", "emg").at(layers=0)
    with cutting(toy, cross_modal()) as outer, cutting(toy, inner_edges) as inner:
        out = toy(X)
    torch.testing.assert_close(out, expected(cross_modal() | inner_edges))
    assert hooks_left(toy) == []
    assert inner.layers[0].already_dead == 2 * 6  # acc -> emg, cut by the outer context
    assert outer.layers[0].already_dead == 0


def test_nested_contexts_may_close_in_any_order(toy):
    toy, x = toy.double(), X.double()  # the intervention points have different rounding
    outer, inner = cutting(toy, cross_modal()), cutting(toy, unimodal("acc"))
    outer.__enter__(), inner.__enter__()
    both = toy(x)
    outer.__exit__(None, None, None)
    alone = toy(x)
    inner.__exit__(None, None, None)
    torch.testing.assert_close(both, expected(cross_modal() | unimodal("acc"), x))
    torch.testing.assert_close(alone, expected(unimodal("acc"), x))
    assert hooks_left(toy) == []


def test_cutting_works_inside_run_with_cache_and_the_cache_has_the_cut_pattern(live):
    with cutting(live, cross_modal()):
        _, cache = live.run_with_cache(X)
    mask = cross_modal().mask(LAYOUT, 3, 2)[0]
    assert (cache["blocks.0.attn.hook_attn_scores"][:, mask] == -torch.inf).all()
    assert (cache["blocks.0.attn.hook_pattern"][:, mask] == 0).all()


def test_hooks_of_others_keep_working(live):
    seen = []
    intervention_point(live)  # permanent hooks belong to the model: they see the probe
    live.add_hook("blocks.0.attn.hook_pattern", lambda p, hook: seen.append(p), is_permanent=True)
    with cutting(live, cross_modal()):
        live.run_with_hooks(X, fwd_hooks=[("blocks.0.hook_resid_pre", lambda r, hook: seen.append(r))])
        live.reset_hooks()
        live(X)
    live(X)
    assert len(seen) == 4
    assert (seen[1][:, cross_modal().mask(LAYOUT, 3, 2)[0]] == 0).all()


def test_gradients_pass_and_stop_at_cut_edges(toy):
    x = X.clone().requires_grad_()
    with cutting(toy, flow("acc", "emg") | flow("acc", "cls")):
        toy(x)[:, :4].sum().backward()
    assert x.grad is not None and x.grad[:, 1:4].abs().max() > 1
    through = x.grad[:, 4:].abs().max()  # renormalising after the softmax cancels gradients only up to rounding
    assert through < 1e-4 if toy.blocks[0].attn.live == "pattern" else through == 0


def test_fully_cut_rows_have_finite_gradients(toy):
    x = X.clone().requires_grad_()
    with cutting(toy, positions(dest=[2])):
        toy(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_training_mode_and_switches_are_as_before(toy):
    toy.train()
    toy.blocks[1].eval()
    with cutting(toy, cross_modal()):
        toy(X)
    assert toy.training and toy.blocks[0].training and not toy.blocks[1].training


def test_a_layout_of_another_length_is_an_error(toy):
    with (
        pytest.raises(EdgeError, match=r"\[4, 2, 6, 6\].*the layout has 3 positions"),
        cutting(toy, every(), TokenLayout.groups({"a": [0]}, n_tokens=3)),
    ):
        toy(X)
    assert hooks_left(toy) == []


def test_edges_that_do_not_fit_are_refused_before_the_body_runs(toy):
    with pytest.raises(EdgeError, match="unknown modality"), cutting(toy, unimodal("gyro")):
        raise AssertionError("not reached")
    assert hooks_left(toy) == []


# --- torch.func ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_cut_holds_inside_vmap_and_is_measured_there(toy):
    with cutting(toy, cross_modal()) as plain:
        wanted = toy(X)
    with cutting(toy, cross_modal()) as report:
        torch.testing.assert_close(torch.func.vmap(lambda trial: toy(trial[None])[0])(X), wanted)
    for mine, theirs in zip(report.layers, plain.layers, strict=True):
        assert mine.trials == theirs.trials == len(X)
        assert (mine.edges_cut, mine.already_dead, mine.rows_fully_cut) == (theirs.edges_cut, 0, theirs.rows_fully_cut)
        assert mine.mass_removed == pytest.approx(theirs.mass_removed, rel=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_cut_of_stacked_models_is_that_of_each(live):
    weights = {name: torch.stack([w, 2 * w]) for name, w in live.named_parameters()}
    run = lambda some: torch.func.functional_call(live, some, (X,))  # noqa: E731
    with cutting(live, every()) as report:
        found = torch.func.vmap(run)(weights)
    with cutting(live, every()):
        for i in range(2):
            torch.testing.assert_close(found[i], run({name: w[i] for name, w in weights.items()}))
    assert {layer.trials for layer in report.layers} == {2 * len(X)}
    live, x = live.double(), X.double()  # in single precision the two differ by rounding
    with cutting(live, cross_modal()):
        torch.testing.assert_close(torch.func.jacrev(live)(x), torch.func.jacfwd(live)(x))


def test_a_leak_in_one_mapped_trial_is_found(live):
    def write_back(pattern, hook):  # into the second trial alone, whichever of the mapped that is
        return pattern + (trial_number > 0) * torch.ones_like(pattern)

    def run(number, trial):
        nonlocal trial_number
        trial_number = number
        return live(trial[None])

    trial_number = 0
    with (
        pytest.raises(DeadHookError, match="a cut edge still has attention"),
        cutting(live, cross_modal()),
        live.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", write_back)]),
    ):
        torch.func.vmap(run)(torch.arange(len(X)), X)


@pytest.mark.parametrize("value", [1e-30, -1e-30, torch.nan, torch.inf])
@pytest.mark.parametrize("place", [(0, 0, 1, 4), (3, 1, 4, 0)])
@pytest.mark.parametrize("heads", [None, [0], [1]])
def test_the_smallest_leak_is_found(live, value, place, heads):
    """Two edges of one row with opposite values have the sum zero."""

    def write_back(pattern, hook):
        trial, head, dest, src = place
        pattern = pattern.clone()
        pattern[trial, head, dest, src] = value
        pattern[trial, head, dest, src - 1 if src else 1] = -value
        return pattern

    edges = cross_modal() if heads is None else cross_modal().at(heads=heads)
    is_cut = heads is None or place[1] in heads
    with (
        pytest.raises(DeadHookError, match="a cut edge still has attention|the pattern is NaN")
        if is_cut
        else nullcontext(),
        cutting(live, edges),
        live.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", write_back)]),
    ):
        live(X)


@pytest.mark.parametrize(
    "make",
    [
        lambda model, x: model.run_with_hooks(x, fwd_hooks=cut(model, cross_modal())),
        lambda model, x: model.run_with_hooks(x, fwd_hooks=cut_mlp(model, "emg")),
        lambda model, x: model.run_with_hooks(x, fwd_hooks=replace(model, "emg", inputs=X)),
    ],
)
def test_a_model_is_not_probed_inside_vmap(live, make):
    with pytest.raises(DeadHookError, match="Toy cannot be probed inside torch.vmap; make the hooks") as error:
        torch.func.vmap(lambda trial: make(live, trial[None]))(X)
    assert "\n" not in str(error.value) and "Hooks cannot cut here" not in str(error.value)


@pytest.mark.parametrize("edges", [every(), cross_modal()])
def test_a_permanent_hook_of_a_cut_does_not_disturb_another_cut(live, edges):
    for name, hook in cut(Toy(LAYOUT), every()):
        live.add_hook(name, hook, is_permanent=True)
    with cutting(live, edges) as report:
        out = live(X)
    torch.testing.assert_close(out, expected(every()))
    assert all(layer.already_dead == layer.edges_cut for layer in report.layers)


# --- torch.compile ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled_before", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_compiled_model_is_cut_and_complete_afterwards(live, compiled_before, in_place):
    """Compiled code has no hooks that were added later, and keeps those that it was compiled with."""
    torch._dynamo.reset()
    plain, model = live(X), live
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(live, backend="eager")
    if compiled_before:
        model(X)
    for edges in (cross_modal(), unimodal("emg")):
        with cutting(live, edges):
            torch.testing.assert_close(model(X), expected(edges))
        torch.testing.assert_close(model(X), plain)


def test_a_model_without_attention_is_refused_as_such():
    model = build_model("multimodal-mlp", modalities={"emg": 2, "acc": 1}, n_samples=8, n_classes=3)
    with pytest.raises(EdgeError, match="MultimodalMLP has no attention that can be cut"):
        cut(model, cross_modal())


def test_layers_with_the_same_cut_share_its_tensors():
    toy = Toy(LAYOUT, n_layers=3)
    edges = cross_modal().at(layers=[0, 1]) | flow("emg", "acc").at(layers=2)
    with cutting(toy, edges) as report:
        toy(X)
    first, second, third = (meter.deletion for meter in report._meters)
    assert first._biases is second._biases is not third._biases and first.where != second.where
    assert report.layers[0].edges_cut == report.layers[1].edges_cut > report.layers[2].edges_cut
