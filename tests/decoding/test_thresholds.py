"""Thresholds at equal false alarms against trying every probability, and what they show of scripted cuts."""

from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.decoding import decode_events, matched_threshold, score_event_conditions
from emg_lens.scoring import ScoreError, event_scores, match_events

NAMES = ["index_press", "index_release", "thumb_up"]


def events_at(recordings, outputs, threshold):
    """No events above 1."""
    parts = zip(recordings, outputs, strict=True)
    return [decode_events(p, times, NAMES, threshold) if threshold <= 1 else [] for (_, times, _), p in parts]


def false_alarms(recordings, outputs, threshold):
    pairs = zip(recordings, events_at(recordings, outputs, threshold), strict=True)
    return sum(sum(label is None for label, _ in match_events(labels, events)) for (labels, _, _), events in pairs)


def stream(rng, n=40, step_s=0.1, levels=20):
    times = np.arange(n) * step_s
    labels = [(str(rng.choice(NAMES)), float(t)) for t in rng.uniform(0, n * step_s, rng.integers(0, 8))]
    probabilities = rng.integers(0, levels, (n, len(NAMES))) / levels
    for name, time in labels:
        probabilities[min(int(time / step_s) + 1, n - 1), NAMES.index(name)] = rng.uniform(0.3, 1)
    return (labels, times, n * step_s), probabilities


def right(recordings, outputs, threshold):
    pairs = zip(recordings, events_at(recordings, outputs, threshold), strict=True)
    return sum(
        None not in pair and labels[pair[0]][0] == events[pair[1]][0]
        for (labels, _, _), events in pairs
        for pair in match_events(labels, events)
    )


@given(st.integers(0, 10_000), st.integers(0, 25))
def test_the_threshold_is_the_best_of_all_probabilities_with_few_enough_false_alarms(seed, target):
    rng = np.random.default_rng(seed)
    recordings, outputs = zip(*[stream(rng) for _ in range(2)], strict=True)
    hours = sum(duration for _, _, duration in recordings) / 3600
    found = matched_threshold(recordings, outputs, NAMES, target / hours)
    candidates = [1.1, *sorted({float(p) for one in outputs for p in one.ravel() if p > 0})]
    counts = {one: (right(recordings, outputs, one), false_alarms(recordings, outputs, one)) for one in candidates}
    allowed = [one for one in candidates if counts[one][1] <= target]
    expected = max(allowed, key=lambda one: (counts[one][0], -counts[one][1], one))
    assert (found.right, round(found.false_per_hour * hours)) == counts[expected]
    assert events_at(recordings, outputs, found.threshold) == events_at(recordings, outputs, expected)


def test_a_silent_model_detects_nothing():
    recording = ([("thumb_up", 1.0)], np.arange(10.0), 3600.0)
    found = matched_threshold([recording], [np.zeros((10, 3))], NAMES, 5.0)
    assert (found.right, found.false_per_hour) == (0, 0) and found.threshold > 0


def test_a_true_event_that_crosses_a_high_threshold_twice_does_not_decide():
    """Above .9 the one event is found twice, and the second one is a false alarm; below, it is found once."""
    probabilities = np.array([[0.0, 0.0, p] for p in (0.0, 0.95, 0.9, 0.95, 0.0, 0.0)])
    recording = ([("thumb_up", 0.1)], np.arange(6) * 0.1, 3600.0)
    found = matched_threshold([recording], [probabilities], NAMES, 0.0)
    assert (found.threshold, found.right, found.false_per_hour) == (0.9, 1, 0)


def test_nothing_is_detected_where_the_highest_probability_is_one_false_alarm_too_many():
    probabilities = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.9]])
    recording = ([("thumb_up", 3.0)], np.arange(4.0), 3600.0)
    found = matched_threshold([recording], [probabilities], NAMES, 0.0)
    assert found.threshold > 1 and (found.right, found.false_per_hour) == (0, 0)
    assert decode_events(probabilities, recording[1], NAMES, found.threshold) == []


# --- conditions -------------------------------------------------------------------------------------------


def users(seed=0, n=4):
    """A noisy detector: peaks of .9 at the labels, weaker peaks elsewhere."""
    rng = np.random.default_rng(seed)
    recordings, outputs = {}, {}
    for user in range(n):
        times = np.arange(6000) * 0.05
        probabilities = rng.beta(1, 30, (6000, 3))
        at = np.sort(rng.choice(np.arange(20, 5980, 20), 100, replace=False))
        kinds = rng.integers(0, 3, 100)
        probabilities[at + 2, kinds] = rng.uniform(0.3, 0.95, 100)
        false = rng.choice(np.arange(10, 5990, 20), 60, replace=False)
        probabilities[false, rng.integers(0, 3, 60)] = rng.uniform(0.1, 0.7, 60)
        labels = [(NAMES[k], float(times[i])) for i, k in zip(at, kinds, strict=True)]
        recordings[f"u{user}"], outputs[f"u{user}"] = [(labels, times, 300.0)], [probabilities]
    return recordings, outputs


def test_a_cut_that_only_lowers_the_logits_loses_nothing_at_equal_false_alarms():
    recordings, intact = users()
    lowered = {user: [1 / (1 + (1 / p - 1) * np.e**2) for p in parts] for user, parts in intact.items()}
    scored = score_event_conditions(recordings, {"baseline": intact, "lowered": lowered}, NAMES)
    fixed, matched = scored.fixed.to_frame(), scored.matched.to_frame()
    assert fixed.loc["lowered", "right"] < 0.6 * fixed.loc["baseline", "right"]
    assert fixed.loc["lowered", "cler"] <= fixed.loc["baseline", "cler"] + 0.02  # what a published score would show
    assert matched.loc["lowered"].to_dict() == pytest.approx(matched.loc["baseline"].to_dict())
    assert matched.loc["baseline"].to_dict() == pytest.approx(fixed.loc["baseline"].to_dict(), rel=0.1, abs=0.05)
    target = scored.thresholds["target_per_hour"]
    assert (scored.thresholds["false_per_hour"] <= target + 1e-9).all()
    change = scored.matched.differences().set_index(["condition", "score"]).loc[("lowered", "right")]
    assert change["low"] == change["difference"] == change["high"] == 0


def test_a_cut_that_loses_information_loses_at_both_thresholds():
    recordings, intact = users()
    rng = np.random.default_rng(1)
    cut = {user: [rng.permuted(p, axis=1) for p in parts] for user, parts in intact.items()}
    scored = score_event_conditions(recordings, {"baseline": intact, "shuffled": cut}, NAMES)
    for part in (scored.fixed.to_frame(), scored.matched.to_frame()):
        assert part.loc["shuffled", "right"] < 0.6 * part.loc["baseline", "right"]


def test_scores_are_those_of_the_decoded_events():
    recordings, intact = users(2)
    scored = score_event_conditions(recordings, {"a": intact}, NAMES, baseline="a", false_per_hour=120.0)
    threshold = scored.thresholds.loc["a", "threshold"]
    for part, at in ((scored.fixed, 0.35), (scored.matched, threshold)):
        for user, row in part.of("a").by_unit().iterrows():
            ((labels, times, duration_s),) = recordings[user]
            events = decode_events(intact[user][0], times, NAMES, at)
            assert row.to_dict() == pytest.approx(event_scores(labels, events, duration_s), nan_ok=True)
    assert 100 < scored.matched.to_frame().loc["a", "false_per_hour"] <= 120
    assert len(scored.fixed.table.units) == 4


def test_releases_without_a_press_count_nowhere_if_they_are_removed():
    recordings, intact = users(6)
    scored = score_event_conditions(recordings, {"a": intact}, NAMES, baseline="a", lone_releases=False)
    threshold = scored.thresholds.loc["a", "threshold"]
    for part, at in ((scored.fixed, 0.35), (scored.matched, threshold)):
        for user, row in part.of("a").by_unit().iterrows():
            ((labels, times, duration_s),) = recordings[user]
            events = decode_events(intact[user][0], times, NAMES, at, lone_releases=False)
            assert row.to_dict() == pytest.approx(event_scores(labels, events, duration_s), nan_ok=True)


def test_a_silenced_condition_misses_everything_at_both_thresholds():
    recordings, intact = users(3)
    silent = {user: [np.zeros_like(p) for p in parts] for user, parts in intact.items()}
    scored = score_event_conditions(recordings, {"baseline": intact, "silent": silent}, NAMES)
    for part in (scored.fixed.to_frame(), scored.matched.to_frame()):
        assert part.loc["silent", "right"] == 0 and np.isnan(part.loc["silent", "cler"])
    other_order = score_event_conditions(recordings, {"silent": silent, "baseline": intact}, NAMES)
    assert other_order.thresholds.index.tolist() == ["silent", "baseline"]
    assert other_order.fixed.to_frame().loc[["baseline", "silent"]].equals(scored.fixed.to_frame())


def test_users_are_those_of_the_recordings():
    recordings, intact = users(4)
    with pytest.raises(ScoreError, match="unknown baseline 'intact'; .*conditions: a"):
        score_event_conditions(recordings, {"a": intact}, NAMES, baseline="intact")
    with pytest.raises(ScoreError, match="condition 'b' has other users"):
        score_event_conditions(recordings, {"a": intact, "b": {"u0": intact["u0"]}}, NAMES, baseline="a")


@pytest.mark.slow
def test_an_hour_is_searched_in_seconds():
    rng = np.random.default_rng(0)
    times, labels = np.arange(720_000) / 200, []
    probabilities = rng.beta(0.5, 8, (720_000, 3))
    for time in np.arange(2, 3598, 2.0):
        labels.append((NAMES[int(rng.integers(3))], float(time)))
        probabilities[int(200 * time) + 20, NAMES.index(labels[-1][0])] = 0.9
    start = process_time()
    stream_ = (labels, times, 3600.0)
    found = matched_threshold([stream_], [probabilities], NAMES, 100.0)
    assert process_time() - start < 20
    assert found.false_per_hour <= 100
    best = max(  # of a fine grid
        (one for one in np.linspace(0.3, 0.9, 31) if false_alarms([stream_], [probabilities], one) <= 100),
        key=lambda one: right([stream_], [probabilities], one),
    )
    assert found.right >= 0.99 * right([stream_], [probabilities], best) > 1500
