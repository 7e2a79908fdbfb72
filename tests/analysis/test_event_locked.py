"""Edges relative to events: which are cut, and that only the detections that read them change."""

import numpy as np
import pandas as pd
import pytest
import torch

from emg_lens import build_model
from emg_lens.analysis import EventEdges, event_edges_mask, event_locked_scores
from emg_lens.analysis.event_locked import EVENT_LOCKED
from emg_lens.analysis.fit_analysis import AnalysisError
from emg_lens.data import Batch, SequenceSet, SignalSequence, Windowing
from emg_lens.hooks import cut, edges_from_mask
from emg_lens.validation import ArgumentError

NAMES = ("tap", "up")


def encoder(**fields):
    torch.manual_seed(0)
    settings = {"d_model": 8, "n_heads": 2, "n_layers": 2, "d_mlp": 8, **fields}
    return build_model(
        "tinymyo-gestures", modalities={"emg": 2}, n_samples=1000, n_classes=2, class_names=list(NAMES), **settings
    ).eval()


def trials(events, context_s=0.0):
    x = np.random.default_rng(0).normal(size=(2, 2000)).astype(np.float32)
    one = SignalSequence("a", "A", "1", x, events=tuple(events))
    windowing = Windowing(length_s=2.0, hop_s=1.0, context_s=context_s)
    return SequenceSet.of([one], {"emg": 2}, 500, event_names=NAMES).windows(windowing)


def test_the_mask_is_the_union_over_events_of_destination_and_source_times():
    times = np.arange(100) / 50
    edges, events = EventEdges((-0.1, 0.12), (-0.5, -0.3)), [("tap", 0.8), ("up", 1.5)]
    mask = event_edges_mask(edges, times, events)
    for dest in range(100):
        for src in range(100):
            chosen = any(
                -0.1 - 1e-9 <= times[dest] - t < 0.12 - 1e-9 and -0.5 - 1e-9 <= times[src] - t < -0.3 - 1e-9
                for _, t in events
            )
            assert mask[dest, src] == (chosen and dest != src)
    assert not event_edges_mask(edges, times, []).any()
    with pytest.raises(ArgumentError, match="dest_s"):
        EventEdges((0.1, 0.1), (0, 1))


def test_outputs_equal_those_of_an_ordinary_cut_of_the_same_edges():
    model, of = encoder(), trials([("tap", 0.9)])
    edges = EventEdges((-0.1, 0.12), (-np.inf, -0.2))
    x, targets = torch.from_numpy(of.x[:1]), torch.from_numpy(of.targets[:1])
    mask = event_edges_mask(edges, of.targets[0, :, -1].astype(float), [("tap", 0.9)])
    mask &= np.tril(np.ones_like(mask))  # the model is causal
    plain = edges_from_mask(torch.from_numpy(mask).expand(model.cfg.n_layers, model.cfg.n_heads, -1, -1))
    with torch.inference_mode():
        expected = model.run_with_hooks(x, fwd_hooks=cut(model, plain))
    from emg_lens.analysis.event_locked import _outputs, _score_hooks

    found = _outputs(model, x, torch.from_numpy(mask)[None], _score_hooks(model))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float((expected - model(x)).abs().max()) > 1e-4
    table = event_locked_scores(model, x, targets, {"past": edges})
    assert table.loc[table["condition"] == "past", "edges_cut"].iloc[0] == mask.sum()


def test_steps_that_do_not_count_are_cut_all_the_same():
    """With context, steps before the counted ones have no time in the targets, but the past is cut there too."""
    model, of = encoder(), trials([("tap", 2.3)], context_s=1.0)
    table = event_locked_scores(
        model,
        torch.from_numpy(of.x[1:2]),
        torch.from_numpy(of.targets[1:2]),
        {"past": EventEdges((-0.1, 0.12), (-9, -0.2))},
    )
    start = int(of.start_s[1] * 500)
    times = (start + 20 + 10 * np.arange(of.targets.shape[1])) / 500
    since = times - 2.3
    expected = ((since >= -0.1) & (since < 0.12)).sum() * (since < -0.2).sum()
    assert table["edges_cut"].max() == expected > 0


def test_models_and_windows_that_cannot_be_cut_are_refused():
    of = trials([("tap", 0.9)])
    x, targets = torch.from_numpy(of.x), torch.from_numpy(of.targets)
    mlp = build_model("multimodal-mlp", modalities={"emg": 2}, n_samples=1000, n_classes=2)
    past = {"past": EventEdges((-0.1, 0.12), (-9, -0.2))}
    with pytest.raises(AnalysisError, match="hook_attn_scores"):
        event_locked_scores(mlp, x, targets, past)
    with pytest.raises(AnalysisError, match="one token and one output per step"):
        event_locked_scores(encoder(stride=20), x, targets, past)
    with pytest.raises(AnalysisError, match="cuts no edge"):
        event_locked_scores(encoder(), x, targets, {"never": EventEdges((5.0, 6.0), (-9, -8))})


def test_names_and_shapes_that_do_not_fit_are_refused():
    of, model = trials([("tap", 0.9)]), encoder()
    x, targets = torch.from_numpy(of.x), torch.from_numpy(of.targets)
    past = EventEdges((-0.1, 0.12), (-9, -0.2))
    with pytest.raises(AnalysisError, match="edges has the name 'baseline', which is the model without cuts"):
        event_locked_scores(model, x, targets, {"baseline": past})
    for wrong_x, wrong_targets in ((x[:1], targets), (x, targets[0]), (x[0], targets), (x[:0], targets[:0])):
        with pytest.raises(AnalysisError, match=r"x has shape .* and targets .*; expected \[window, channel, time\]"):
            event_locked_scores(model, wrong_x, wrong_targets, {"past": past})
    plain = event_locked_scores(model, x, targets, {"past": past})
    with_gradient = event_locked_scores(model, x, targets.clone().requires_grad_(), {"past": past})
    pd.testing.assert_frame_equal(plain, with_gradient)


def test_the_analysis_gives_one_row_per_condition_and_gesture():
    of = trials([("tap", 1.2), ("up", 3.0)])
    table = EVENT_LOCKED.run(encoder(), Batch(torch.from_numpy(of.x), torch.from_numpy(of.targets)), [])
    assert set(table["family"]) == {"baseline", "past", "late"} and set(table["gesture"]) == set(NAMES)
    assert (table["labels"] == 1).all() and len(table) == 2 * table["condition"].nunique()
