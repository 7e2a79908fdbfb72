"""Gestures with a planted pair: without the past, the model confuses this pair and nothing else."""

import numpy as np
import pytest
import torch

from emg_lens import TrainingRecipe, build_model, fit
from emg_lens.analysis import EventEdges, event_locked_scores
from emg_lens.data import Batch
from emg_lens.data.sources.simulated.gesture_streams import GESTURES, PAIR, load
from emg_lens.data.standardization import InputStatistics
from emg_lens.decoding.event_metrics import stream_events
from emg_lens.hooks import cut, lag
from emg_lens.scoring import by_gesture, event_table


@pytest.fixture(scope="module")
def fitted():
    """The first subject of the study gestures-simulated, with its settings."""
    trials = load(
        simulation={"n_subjects": 1, "session_s": 240}, windowing={"length_s": 3.0, "hop_s": 2.0, "context_s": 1.0}
    )
    train, test = trials.split([1, 2, 3], [4])
    statistics = InputStatistics.of(train, ("emg",))
    torch.manual_seed(1)
    model = build_model(
        "tinymyo-gestures", modalities={"emg": 8}, n_samples=1500, n_classes=8, class_names=GESTURES, d_model=48,
        n_layers=2, n_heads=4, d_mlp=96, dropout=0.1, compression_range=4, compression_midpoint=2,
    )  # fmt: skip
    recipe = TrainingRecipe(
        epochs=25, batch_size=4, lr=0.001, schedule="cosine", warmup_epochs=3, clip_norm=1.0, seed=1
    )
    x, y = (torch.from_numpy(values) for values in (statistics.apply(train.x), train.targets))
    fit(model, Batch(x, y), recipe, objective="events")
    return model, torch.from_numpy(statistics.apply(test.x)), torch.from_numpy(test.targets), test.repetition_id


def right(outputs, targets) -> dict[str, float]:
    """Fraction of the labels of each gesture that are detected under their name."""
    labels, events, seconds = stream_events(outputs.numpy(), targets.numpy(), GESTURES)
    table = by_gesture(event_table({"all": [(labels, events, seconds)]}, gestures=GESTURES))
    return (table["right"] / table["labels"]).to_dict()


def check(whole, without):
    """The pair is at chance, every other gesture as before."""
    others = [name for name in GESTURES if name not in PAIR]
    assert min(whole.values()) > 0.9
    assert np.mean([without[name] for name in PAIR]) == pytest.approx(0.5, abs=0.2)
    assert all(without[name] > whole[name] - 0.1 for name in others), without


@pytest.mark.slow
def test_cutting_the_past_costs_the_pair_and_nothing_else(fitted):
    model, x, targets, _ = fitted
    with torch.inference_mode():
        whole = right(model(x), targets)
        without = right(model.run_with_hooks(x, fwd_hooks=cut(model, lag(8, 147))), targets)
        far = right(model.run_with_hooks(x, fwd_hooks=cut(model, lag(31, 147))), targets)
    check(whole, without)
    assert far == pytest.approx(whole, abs=0.1)  # 600 ms: beyond the marker


@pytest.mark.slow
def test_cuts_that_follow_each_event_show_the_same(fitted):
    model, x, targets, recording = fitted
    edges = {"late": EventEdges((-0.1, 0.12), (-np.inf, -0.2)), "early": EventEdges((-0.1, 0.12), (-np.inf, -0.6))}
    table = event_locked_scores(model, x, targets, edges, recording)
    table["fraction"] = table["right"] / table["labels"]
    scores = {
        name: dict(zip(some["gesture"], some["fraction"], strict=True)) for name, some in table.groupby("condition")
    }
    check(scores["baseline"], scores["late"])
    assert scores["early"] == pytest.approx(scores["baseline"], abs=0.1)
