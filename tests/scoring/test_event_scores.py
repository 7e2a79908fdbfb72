"""Scores of detected events: the values of hand-made streams, and an independent dynamic program on random streams."""

import math
from functools import cache
from time import perf_counter

import numpy as np
import pytest

from emg_lens.scoring import ScoreError, by_gesture, cler, event_scores, event_table, match_events
from emg_lens.validation import ArgumentError

TU, TD, TO, IP, IR, MR = "thumb_up", "thumb_down", "thumb_out", "index_press", "index_release", "middle_release"
GESTURES = [IP, IR, "middle_press", MR, TU, TD, TO, "thumb_in", "thumb_click"]
NAN = float("nan")

BY_HAND = [
    ([(TU, 3.25)], [(TU, 3.0)], 0),
    ([(TU, 2.95)], [(TU, 3.0)], 0),
    ([(TU, 3.2501)], [(TU, 3.0)], NAN),
    ([(TU, 2.9499)], [(TU, 3.0)], NAN),
    ([(TD, 3.05), (TU, 3.15)], [(TU, 3.0)], 0),
    ([(TU, 1.1), (TU, 3.1)], [(TD, 1.0), (TU, 3.0)], 0.5),
    ([(TU, 1.1), (TO, 2.1)], [(TU, 1.0), (TU, 2.0)], 0),
    ([(TU, 1.1), (TD, 2.1), (TD, 3.1)], [(TU, 1.0), (TU, 2.0), (TD, 3.0)], 0.25),
    ([(IP, 1.1), (MR, 1.6)], [(IP, 1.0), (IR, 1.5)], 0),
    ([(TU, k + 0.1) for k in range(10)], [*[(TU, float(k)) for k in range(9)], (TD, 9.0)], 0.5),
    ([], [(TU, 3.0)], NAN),
    ([(TU, 3.0)], [], NAN),
]


@pytest.mark.parametrize(("events", "labels", "expected"), BY_HAND)
@pytest.mark.parametrize("start_s", [0.0, 0.3, 86_400.0])
def test_cler_of_streams_scored_by_hand(events, labels, expected, start_s):
    shifted = [[(name, time + start_s) for name, time in part] for part in (labels, events)]
    assert cler(*shifted) == pytest.approx(expected, nan_ok=True)


def test_a_release_of_the_other_finger_is_missed():
    labels, events = [(IP, 1.0), (IR, 1.5)], [(IP, 1.1), (MR, 1.6)]
    scores = event_scores(labels, events, duration_s=10.0)
    assert scores["cler"] == 0 and scores["detected"] == 1 and scores["right"] == 0.5  # the confusion is counted


# --- an independent dynamic program -----------------------------------------------------------------------


def best_pairs(left, right, may_match):
    """The pairs of the cheapest alignment, by recursion over suffix-free prefixes with exact tuples."""

    @cache
    def solve(i, j):
        """(errors, time differences, rank of the last move, pairs) of the first i and j elements."""
        options = []
        if i:
            errors, apart, _, pairs = solve(i - 1, j)
            options.append((errors + 1, apart, 0, (*pairs, (i - 1, None))))
        if j:
            errors, apart, _, pairs = solve(i, j - 1)
            options.append((errors + 1, apart, 1, (*pairs, (None, j - 1))))
        if i and j and may_match(left[i - 1], right[j - 1]):
            errors, apart, _, pairs = solve(i - 1, j - 1)
            other = left[i - 1][0] != right[j - 1][0]
            apart += abs(left[i - 1][1] - right[j - 1][1])
            options.append((errors + other, apart, 2, (*pairs, (i - 1, j - 1))))
        return min(options, key=lambda one: one[:3]) if options else (0, 0, 0, ())

    return solve(len(left), len(right))[3]


def independent_cler(labels, events):
    """From the description of the score alone. Times are integers, in ms."""
    labels, events = (sorted(part, key=lambda one: one[1]) for part in (labels, events))
    near = lambda label, event: label[1] - 50 <= event[1] <= label[1] + 250  # noqa: E731
    state, kept = "neutral", []
    for e, k in best_pairs(tuple(events), tuple(labels), lambda event, label: near(label, event)):
        forbidden = {"neutral": (IR, MR), "index": (MR,), "middle": (IR,)}[state]
        if e is not None and events[e][0] not in forbidden:
            kept.append(events[e])
        if k is not None:
            state = {IP: "index", "middle_press": "middle"}.get(labels[k][0], "neutral")
    occurring, rates = {name for name, _ in labels}, []
    pairs = best_pairs(tuple(labels), tuple(kept), near)
    counted = [(labels[k][0], kept[e][0]) for k, e in pairs if None not in (k, e)]
    for gesture in sorted(occurring):
        among = [second for first, second in counted if first == gesture and second in occurring]
        if among:
            rates.append(1 - among.count(gesture) / len(among))
    return sum(rates) / len(rates) if rates else NAN


def random_stream(rng):
    """Labels, and events near and far from them, in ms; all gestures, so that releases meet every state."""
    n, length = rng.integers(0, 11), rng.integers(300, 4000)
    names = rng.permutation(GESTURES)[: rng.integers(1, 10)]
    labels = [(str(rng.choice(names)), int(rng.integers(0, length))) for _ in range(n)]
    near = [
        (name if rng.random() < 0.6 else str(rng.choice(GESTURES)), int(time + rng.integers(-80, 300)))
        for name, time in labels
        if rng.random() < 0.8
    ]
    false = [(str(rng.choice(GESTURES)), int(rng.integers(0, length))) for _ in range(rng.integers(0, 5))]
    return labels, near + false


def in_s(stream):
    return [(name, time / 1000) for name, time in stream]


def test_cler_equals_an_independent_dynamic_program_on_1000_random_streams():
    rng, defined = np.random.default_rng(0), 0
    for _ in range(1000):
        labels, events = random_stream(rng)
        expected = independent_cler(labels, events)
        assert cler(in_s(labels), in_s(events)) == pytest.approx(expected, nan_ok=True), (labels, events)
        defined += 0 < expected < 1
    assert defined > 250  # the streams are not trivial


def test_matches_equal_the_independent_ones_in_any_order_of_the_input():
    rng = np.random.default_rng(1)
    for _ in range(200):
        labels, events = (sorted(part, key=lambda one: one[1]) for part in random_stream(rng))
        near = lambda event, label: label[1] - 50 <= event[1] <= label[1] + 250  # noqa: E731
        expected = [(k, e) for e, k in best_pairs(tuple(events), tuple(labels), near)]
        assert match_events(in_s(labels), in_s(events)) == expected
        order = rng.permutation(len(labels))
        if len({time for _, time in labels}) == len(labels):
            mixed = match_events([in_s(labels)[k] for k in order], in_s(events))
            assert [(None if k is None else int(order[k]), e) for k, e in mixed] == expected


# --- scripted detectors -----------------------------------------------------------------------------------


def scripted(n=600, gap_s=1.0):
    rng = np.random.default_rng(2)
    return [(str(name), k * gap_s) for k, name in enumerate(rng.choice([TU, TD, TO], n))]


def test_an_exact_detector_has_no_errors_and_a_late_one_its_delay():
    labels = scripted()
    assert event_scores(labels, labels, 600.0) == {
        "cler": 0, "detected": 1, "right": 1, "missed_per_hour": 0, "false_per_hour": 0, "f1": 1,
        "latency_ms": 0, "latency_iqr_ms": 0,
    }  # fmt: skip
    late = event_scores(labels, [(name, time + 0.123) for name, time in labels], 600.0)
    assert late["latency_ms"] == 123 and late["f1"] == 1 and late["cler"] == 0
    too_late = event_scores(labels, [(name, time + 0.3) for name, time in labels], 600.0)
    assert math.isnan(too_late["cler"]) and math.isnan(too_late["latency_ms"]) and too_late["f1"] == 0
    assert too_late["missed_per_hour"] == too_late["false_per_hour"] == 3600


def test_a_silent_detector_is_not_rewarded():
    scores = event_scores(scripted(), [], 600.0)
    assert math.isnan(scores["cler"]) and scores["f1"] == scores["detected"] == 0
    assert scores["missed_per_hour"] == 3600
    assert event_table({"a": [(scripted(), [], 600.0)]}).summary().set_index("score").loc["cler", "note"] == (
        "undefined in 1 of 1 units: no event is matched to a label"
    )


def test_a_detector_that_misses_every_third_event_and_raises_50_false_alarms():
    labels = scripted()
    events = [one for k, one in enumerate(labels) if k % 3] + [(TU, k + 0.5) for k in range(50)]
    scores = event_scores(labels, events, 1800.0)
    assert scores["cler"] == 0
    assert scores["detected"] == scores["right"] == pytest.approx(2 / 3)
    assert scores["missed_per_hour"] == 400 and scores["false_per_hour"] == 100
    assert scores["f1"] == pytest.approx(2 * 400 / (600 + 450))
    table = by_gesture(event_table({"a": [(labels, events, 1800.0)]}))
    assert table["labels"].sum() == 600 and table["missed"].sum() == 200 and table.loc[TU, "false"] == 50


def test_a_confusion_matrix_gives_the_cler_that_follows_from_it():
    rates = {TU: {TU: 7, TD: 3}, TD: {TD: 9, TO: 1}, TO: {TO: 5, TU: 2, TD: 3}}  # events per ten labels
    labels = [(name, float(k)) for k, name in enumerate([TU, TD, TO] * 20)]
    said = {name: [other for other, n in row.items() for _ in range(n)] * 2 for name, row in rates.items()}
    events = [(said[name].pop(), time + 0.1) for name, time in labels]
    scores = event_scores(labels, events, 60.0)
    assert scores["cler"] == pytest.approx((0.3 + 0.1 + 0.5) / 3)
    assert scores["right"] == pytest.approx(0.7) and scores["detected"] == 1 and scores["f1"] == pytest.approx(0.7)


def test_quantiles_of_latency_are_those_of_numpy():
    rng = np.random.default_rng(3)
    labels = [(TU, float(k)) for k in range(101)]
    lags = rng.integers(-50, 251, 101)
    scores = event_scores(labels, [(TU, k + lag / 1000) for k, lag in enumerate(lags)], 101.0)
    low, middle, high = np.quantile(lags, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert scores["latency_ms"] == middle and scores["latency_iqr_ms"] == high - low


def test_scores_do_not_depend_on_the_order_of_recordings_and_pool_what_users_count():
    rng = np.random.default_rng(4)
    recordings = [tuple(in_s(part) for part in random_stream(rng)) + (6.0,) for _ in range(12)]
    users = {name: recordings[k::3] for k, name in enumerate("abc")}
    table = event_table(users)
    for _ in range(5):
        mixed = {name: [users[name][k] for k in rng.permutation(4)] for name in rng.permutation(list("abc"))}
        assert event_table(mixed).pooled() == pytest.approx(table.pooled(), nan_ok=True)
    assert event_table({"all": recordings}).pooled() == pytest.approx(table.pooled(), nan_ok=True)
    for name, row in table.by_unit().iterrows():
        assert event_table({"x": users[name]}).pooled() == pytest.approx(row.to_dict(), nan_ok=True)


def test_an_hour_with_many_false_alarms_is_scored_in_seconds():
    rng = np.random.default_rng(5)
    labels = [(str(rng.choice(GESTURES)), float(time)) for time in np.sort(rng.uniform(0, 3600, 2000))]
    events = [(str(rng.choice(GESTURES)), float(time)) for time in np.sort(rng.uniform(0, 3600, 6000))]
    start = perf_counter()
    event_scores(labels, events, 3600.0)
    assert perf_counter() - start < 10


@pytest.mark.parametrize(
    "call",
    [
        lambda: event_scores([(TU, 1.0)], [], 0.0),
        lambda: event_scores([(TU, NAN)], [], 1.0),
        lambda: event_scores([TU], [], 1.0),
        lambda: cler([(1.0, TU)], []),
        lambda: match_events([], [], (-0.1, 0.2)),
        lambda: event_table({}),
        lambda: event_table({"a": []}),
    ],
)
def test_what_is_no_stream_is_refused(call):
    with pytest.raises((ArgumentError, ScoreError), match="expected"):
        call()
