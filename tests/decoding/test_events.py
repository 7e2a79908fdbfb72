"""Events from probabilities: by hand, and against a plain loop over steps and classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.decoding import decode_events
from emg_lens.validation import ArgumentError

NAMES = ["index_press", "index_release", "thumb_up", "middle_release"]


def plain_loop(probabilities, times, names, threshold, debounce_s):
    """From the description alone."""
    found = []
    for kind in range(len(names)):
        for step in range(len(times)):
            if probabilities[step, kind] >= threshold and (step == 0 or probabilities[step - 1, kind] < threshold):
                found.append((times[step], kind))
    kept = []
    for time, kind in sorted(found):
        if kept and round(1e6 * time) - round(1e6 * kept[-1][0]) < round(1e6 * debounce_s):
            both_no_release = not any("release" in names[one] for one in (kind, kept[-1][1]))
            if both_no_release or kind == kept[-1][1]:
                continue
        kept.append((time, kind))
    return [(names[kind], float(time)) for time, kind in kept]


def without_lone_releases(events):
    """From the description alone: a release follows the press of its finger, with no other release between."""
    kept = []
    for name, time in events:
        of_finger = [one for one, _ in kept if one.rpartition("_")[0] == name.rpartition("_")[0]]
        if not name.endswith("_release") or (of_finger and of_finger[-1].endswith("_press")):
            kept.append((name, time))
    return kept


@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.35, 0.5, 1.0]), st.sampled_from([0.0, 0.02, 0.05, 1.0]))
def test_events_equal_a_plain_loop(seed, threshold, debounce_s):
    rng = np.random.default_rng(seed)
    n, kinds = rng.integers(0, 40), rng.integers(1, 5)
    probabilities = rng.choice([0.0, 0.2, 0.34999, 0.35, 0.5, 1.0], (n, kinds))
    times = np.cumsum(rng.choice([0.0, 0.005, 0.01, 0.04], n))
    names = NAMES[:kinds]
    expected = plain_loop(probabilities, times, names, threshold, debounce_s)
    assert decode_events(probabilities, times, names, threshold, debounce_s) == expected


def decoded(steps, **options):
    """Events of (time in s, names with a probability of 1) after a step with none."""
    probabilities = np.array([[name in on for name in NAMES] for _, on in steps], float)
    return decode_events(probabilities, np.array([time for time, _ in steps]), NAMES, **options)


def test_the_first_step_is_a_rise():
    assert decoded([(0.0, ["thumb_up"]), (0.1, ["thumb_up"])]) == [("thumb_up", 0.0)]


def test_debouncing_by_hand():
    press_and_release = [(0.0, ["index_press"]), (0.01, ["index_release"]), (0.02, ["middle_release"])]
    assert [name for name, _ in decoded(press_and_release)] == ["index_press", "index_release", "middle_release"]
    same_release = [
        (0.0, ["index_release"]),
        (0.01, []),
        (0.02, ["index_release"]),
        (0.03, []),
        (0.06, ["index_release"]),
    ]
    assert [time for _, time in decoded(same_release)] == [0.0, 0.06]  # counted from the last event that was kept
    two_gestures = [(0.0, ["thumb_up"]), (0.049, ["index_press"]), (0.05, []), (0.06, ["index_press"])]
    assert decoded(two_gestures) == [("thumb_up", 0.0), ("index_press", 0.06)]
    assert [time for _, time in decoded([(0.0, ["thumb_up"]), (0.05, ["index_press"])])] == [0.0, 0.05]


def test_releases_without_a_detected_press_can_be_removed():
    steps = [["index_release"], ["index_press"], ["middle_release"], ["index_release"], ["index_release"], ["thumb_up"]]
    times = list(enumerate(on for one in steps for on in (one, [])))
    expected = [("index_press", 2.0), ("index_release", 6.0), ("thumb_up", 10.0)]
    assert decoded(times, lone_releases=False) == expected
    assert len(decoded(times)) == 6


@given(st.integers(0, 10_000))
def test_a_release_needs_a_press_of_its_finger(seed):
    rng = np.random.default_rng(seed)
    probabilities, times = rng.uniform(size=(60, 6)), np.arange(60) / 50
    names = [*NAMES, "thumb_up_release", "middle_press"]  # `thumb_up` is a gesture, and presses nothing
    every = decode_events(probabilities, times, names, 0.7)
    kept = decode_events(probabilities, times, names, 0.7, lone_releases=False)
    assert kept == without_lone_releases(every)
    assert "thumb_up_release" not in dict(kept)


def test_no_steps_give_no_events():
    assert decode_events(np.zeros((0, 4)), np.zeros(0), NAMES) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probabilities": np.full((3, 4), 1.5)}, "a probability is 1.5; expected 0 to 1; apply a sigmoid"),
        ({"probabilities": np.full((3, 4), np.nan)}, "a probability is nan"),
        ({"probabilities": np.zeros((3, 3))}, r"expected floats \[step, class\] of 4 classes"),
        ({"times": np.array([0.0, 2.0, 1.0])}, "times decrease"),
        ({"times": np.array([0.0, 1.0])}, "expected one time in s for each of 3 steps"),
        ({"names": ["a", "a", "b", "c"]}, "expected a different name"),
        ({"threshold": 35.0}, "threshold=35.0; expected a probability"),
        ({"threshold": 0.0}, "threshold=0.0; expected a number greater than 0"),
    ],
)
def test_what_is_no_stream_of_probabilities_is_refused(changed, message):
    arguments = {"probabilities": np.zeros((3, 4)), "times": np.arange(3.0), "names": NAMES}
    with pytest.raises(ArgumentError, match=message):
        decode_events(**(arguments | changed))
