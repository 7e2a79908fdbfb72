"""The objective `events`: its loss is that of torch over exactly the outputs that count."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emg_lens import TrainingRecipe, build_model, fit
from emg_lens.data import Batch, SequenceSet, SignalSequence, TrialSet, Windowing
from emg_lens.data.sources.simulated.gesture_streams import GESTURES, load
from emg_lens.scoring import measure
from emg_lens.training.event_objective import EVENTS
from emg_lens.training.objectives import OBJECTIVES, FitError

RECIPE = TrainingRecipe(epochs=1)


def windows(events, length_s=2.0, **windowing) -> TrialSet:
    x = np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)
    one = SignalSequence("a", "A", "1", x, events=tuple(events))
    names = ("index_press", "index_release", "tap")
    of = SequenceSet.of([one], {"emg": 2}, 1000, event_names=names)
    return of.windows(Windowing(length_s=length_s, **windowing))


def test_the_loss_is_binary_cross_entropy_over_the_outputs_that_count():
    trials = windows(
        [("index_press", 0.5), ("index_release", 1.0), ("tap", 1.5), ("tap", 3.0)], hop_s=1.0, context_s=0.5
    )
    targets = EVENTS.targets(trials)
    outputs = torch.randn(*targets.shape[:2], 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    losses = EVENTS.losses(outputs, targets, RECIPE)
    for window in range(len(trials)):
        total, n = 0.0, 0
        for step in range(targets.shape[1]):  # a plain loop over what the docs say
            if targets[window, step, 3] < 0:
                continue
            for gesture in range(3):
                since = float(targets[window, step, gesture])
                if since < 0:
                    continue
                wanted = torch.tensor(float(since > 0))
                total += float(F.binary_cross_entropy_with_logits(outputs.detach()[window, step, gesture], wanted))
                n += 1
        assert float(losses[window]) == pytest.approx(total / n, rel=1e-5)
    losses.sum().backward()
    assert outputs.grad is not None
    dead = (targets[..., :3] < 0) | (targets[..., 3:] < 0)
    assert dead.any() and not outputs.grad[dead].any() and outputs.grad[~dead].all()


def test_trials_without_events_and_models_with_other_steps_are_refused():
    trials = windows([("tap", 1.0)])
    gestures = build_model("tinymyo-gestures", modalities={"emg": 2}, n_samples=2000, n_classes=3, d_model=8, n_heads=2,
                           n_layers=1, d_mlp=8)  # fmt: skip
    batch = Batch(torch.from_numpy(trials.x), EVENTS.targets(trials))
    EVENTS.check(gestures, batch)
    other = build_model("tinymyo-gestures", modalities={"emg": 2}, n_samples=2000, n_classes=3, stride=5, d_model=8,
                        n_heads=2, n_layers=1, d_mlp=8)  # fmt: skip
    with pytest.raises(FitError, match=r"predicts \[396, 3\].*\[198, 4\]"):
        EVENTS.check(other, batch)
    plain = TrialSet.from_arrays(trials.x, [0, 1], ["A", "A"], [1, 1], {"emg": 2}, 1000)
    with pytest.raises(FitError, match="SequenceSet"):
        EVENTS.targets(plain)


def test_a_fit_learns_the_base_rate_and_reports_the_metric():
    trials = load(simulation={"n_subjects": 1, "n_sessions": 1, "session_s": 20}, windowing={"length_s": 2.0})
    model = build_model("tinymyo-gestures", modalities={"emg": 8}, n_samples=1000, n_classes=8, class_names=GESTURES,
                        d_model=8, n_heads=2, n_layers=1, d_mlp=8)  # fmt: skip
    history = fit(model, Batch(torch.from_numpy(trials.x), EVENTS.targets(trials)),
                  TrainingRecipe(epochs=5, lr=0.01, batch_size=5), objective="events")  # fmt: skip
    assert history.columns.tolist()[:3] == ["epoch", "loss", "event_f1"]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2
    assert OBJECTIVES["events"] is EVENTS


def test_the_training_curve_joins_the_windows_of_a_recording():
    """With overlapping windows, an event near a seam is otherwise counted in both."""
    trials = load(
        simulation={"n_subjects": 1, "n_sessions": 1, "session_s": 20},
        windowing={"length_s": 2.0, "hop_s": 1.0, "context_s": 0.5},
    )
    model = build_model("tinymyo-gestures", modalities={"emg": 8}, n_samples=1000, n_classes=8, class_names=GESTURES,
                        d_model=8, n_heads=2, n_layers=1, d_mlp=8)  # fmt: skip
    x, y = torch.from_numpy(trials.x), EVENTS.targets(trials)
    batch = Batch(x, y, repetition_id=torch.from_numpy(trials.repetition_id))
    history = fit(model, batch, TrainingRecipe(epochs=1, lr=0.01), objective="events", held_out=batch)
    with torch.no_grad():
        outputs = model(x).numpy()
    joined = measure(["event_f1"], outputs, trials.targets, trials.repetition_id, GESTURES)
    apart = measure(["event_f1"], outputs, trials.targets, None, GESTURES)
    assert history["held_out_event_f1"].iloc[-1] == pytest.approx(joined["event_f1"])
    assert joined["event_f1"] != apart["event_f1"]
