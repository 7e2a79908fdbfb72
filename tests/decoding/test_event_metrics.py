"""Metrics of events: the windows of a recording are joined, and the counts of recordings add up."""

import numpy as np
import pytest
from scipy.special import logit

from emg_lens.data import OutputSteps, Windowing
from emg_lens.data.pulses import event_targets
from emg_lens.decoding.event_metrics import stream_events
from emg_lens.scoring import event_table, measure
from emg_lens.scoring.metrics import METRICS, MetricError

NAMES = ("index_press", "index_release", "tap", "up")
METRIC_NAMES = ["event_f1", "detected", "right", "cler", "missed_per_hour", "false_per_hour", "latency_ms"]
LABELS = [("index_press", 1.0), ("index_release", 1.6), ("tap", 2.55), ("up", 3.5), ("tap", 4.5), ("tap", 6.0)]
FOUND = [("index_press", 1.1), ("index_release", 1.7), ("tap", 2.6), ("tap", 3.6), ("tap", 5.5), ("tap", 6.1)]


def outputs_of(events, times):
    """Logits that rise exactly at the given events, in every window."""
    values = np.full((*times.shape, len(NAMES)), logit(0.01))
    for name, time in events:
        values[np.abs(times - time) < 0.015, NAMES.index(name)] = logit(0.9)
    return values


def stream(windowing, n=800, labels=LABELS, found=FOUND):
    steps = OutputSteps(0, 1)
    times = windowing.step_times(n, 100, steps)
    every = windowing.starts(n, 100)[:, None] / 100 + np.arange(times.shape[1]) / 100
    return outputs_of(found, every), event_targets(labels, times, NAMES)


@pytest.mark.parametrize(
    "windowing",
    [
        Windowing(length_s=8.0),
        Windowing(length_s=2.0),
        Windowing(length_s=3.0, hop_s=1.0, context_s=1.0),
        Windowing(length_s=3.0, hop_s=1.0, stitch="mean"),
        Windowing(length_s=3.0, hop_s=0.7, context_s=0.5, stitch="last"),
    ],
)
def test_a_recording_in_windows_has_the_scores_of_the_whole(windowing):
    outputs, targets = stream(windowing)
    values = measure(METRIC_NAMES, outputs, targets, np.zeros(len(outputs), int), NAMES)
    detected = [(name, time - 0.01) for name, time in FOUND]  # the pulse of `outputs_of` starts 0.01 s earlier
    expected = event_table({"all": [(LABELS, detected, 8.0)]}).pooled()
    for metric, of in zip(METRIC_NAMES, ["f1", *METRIC_NAMES[1:]], strict=True):
        within = {"abs": 1.01} if metric == "latency_ms" else {"rel": 1e-6}  # times are float32
        assert values[metric] == pytest.approx(expected[of], **within), metric
    assert expected["right"] == pytest.approx(4 / 6) and expected["false_per_hour"] == 450


def test_recordings_are_scored_apart_and_their_counts_add_up():
    windowing = Windowing(length_s=4.0)
    first, second = stream(windowing), stream(windowing, found=FOUND[:1])
    outputs, targets = (np.concatenate(parts) for parts in zip(first, second, strict=True))
    which = np.array([0, 0, 1, 1])
    both = measure(METRIC_NAMES, outputs, targets, which, NAMES)
    order = np.array([2, 0, 3, 1])  # the order of the recordings has no effect
    assert measure(METRIC_NAMES, outputs[order], targets[order], which[order], NAMES) == pytest.approx(both)
    assert both["right"] == pytest.approx((4 + 1) / 12)
    metric = METRICS["event_f1"]
    counts = metric.counts(outputs, targets, which, names=NAMES)
    assert counts.shape[0] == 4 and not counts[[1, 3]].any()
    alone = [metric.value(counts[k]) for k in (0, 2)]
    assert alone[0] > alone[1]


def test_silence_has_no_cler_and_everything_missed():
    outputs, targets = stream(Windowing(length_s=8.0), found=[])
    values = measure(METRIC_NAMES, outputs, targets, np.zeros(1, int), NAMES)
    assert np.isnan(values["cler"]) and values["event_f1"] == 0
    assert values["missed_per_hour"] == pytest.approx(6 * 450, rel=1e-6)


def test_outputs_of_another_shape_are_refused():
    outputs, targets = stream(Windowing(length_s=8.0))
    with pytest.raises(MetricError, match="event targets"):
        measure(["event_f1"], outputs, targets[..., :-1])


def test_duration_counts_every_step_once():
    outputs, targets = stream(Windowing(length_s=3.0, hop_s=1.0, stitch="mean"))
    assert stream_events(outputs, targets, NAMES)[2] == pytest.approx(8.0)


def test_releases_without_a_detected_press_are_left_out():
    lone = [("index_release", 0.5), *FOUND, ("index_release", 7.0)]
    outputs, targets = stream(Windowing(length_s=8.0), found=lone)
    names = [name for name, _ in stream_events(outputs, targets, NAMES)[1]]
    assert names == [name for name, _ in FOUND]


def test_a_window_whose_steps_do_not_count_has_no_events():
    outputs, targets = stream(Windowing(length_s=8.0), labels=[])
    targets[..., -1] = -1
    assert stream_events(outputs, targets, NAMES)[:2] == ([], [])
    assert np.isnan(measure(["event_f1"], outputs, targets, np.zeros(1, int), NAMES)["event_f1"])
