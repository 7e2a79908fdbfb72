"""Sequences, their windows, and events as targets of a model."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.data import DataError, OutputSteps, SequenceSet, SignalSequence, Windowing, load_trials, sequence_leakage
from emg_lens.data.pulses import event_targets, labels_of
from emg_lens.data.windowing import join_steps
from emg_lens.validation import ArgumentError


def sequence(name: str, session: str = "1", n: int = 4000, seed: int = 0, **fields) -> SignalSequence:
    x = np.random.default_rng(seed).normal(size=(2, n)).astype(np.float32)
    return SignalSequence(name, fields.pop("subject", "A"), session, x, **fields)


def test_a_saved_set_is_the_same_after_loading(tmp_path):
    frames = np.arange(6, dtype=np.float32).reshape(3, 2)
    one = sequence("a", events=(("tap", 1.0), ("up", 3.25)), n=4000)
    two = sequence(
        "b",
        "2",
        n=777,
        seed=1,
        text="über",
        frames=frames,
        frame_labels=np.array([0, 1, 1]),
        frame_rate=86.13,
        twin="a",
    )
    names = {"frame_names": ("low", "high"), "label_names": ("sil", "a")}
    saved = SequenceSet.of([one, two], {"emg": 1, "acc": 1}, 1000, notes=["a note"], **names)
    saved.save(tmp_path / "set.h5")
    loaded = SequenceSet.load(tmp_path / "set.h5")
    assert repr(loaded) == repr(saved) and loaded.notes == ("a note",) and loaded.label_names == ("sil", "a")
    assert loaded.channels.equals(saved.channels)
    for before, after in zip(saved.sequences, loaded.sequences, strict=True):
        assert {k: v for k, v in vars(before).items() if not isinstance(v, np.ndarray)} == {
            k: v for k, v in vars(after).items() if not isinstance(v, np.ndarray)
        }
        np.testing.assert_array_equal(before.x, after.x)
    np.testing.assert_array_equal(loaded["b"].frames, frames)
    assert loaded["a"].frames is None and loaded["b"].events is None


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    SequenceSet.of([sequence("a")], {"emg": 2}, 1000).save(tmp_path / "set.h5")
    content = bytearray((tmp_path / "set.h5").read_bytes())
    content[-40] ^= 1
    (tmp_path / "damaged.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.h5"):
        SequenceSet.load(tmp_path / "damaged.h5")
    with pytest.raises(DataError, match="no such file"):
        SequenceSet.load(tmp_path / "missing.h5")
    steps = OutputSteps(0, 10)
    SequenceSet.of([sequence("a", events=(("tap", 1.0),))], {"emg": 2}, 1000).windows(
        Windowing(length_s=1.0), steps
    ).save(tmp_path / "trials.h5")
    with pytest.raises(DataError, match=r"SequenceSet\.save"):
        SequenceSet.load(tmp_path / "trials.h5")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"events": (("tap", np.nan),)}, "expected seconds"),
        ({"events": ("tap",)}, "name, time"),
        ({"frames": np.ones((3, 2), np.float32)}, "frame_rate"),
        ({"frames": np.ones(3, np.float32), "frame_rate": 10.0}, r"\[frame, value\]"),
        (
            {"frames": np.ones((3, 2), np.float32), "frame_labels": np.array([0, 1]), "frame_rate": 10.0},
            "one label per frame",
        ),
        ({"subject": ""}, "printable"),
    ],
)
def test_a_sequence_that_is_not_one_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        sequence("a", **fields)


def test_samples_must_be_finite_float32_channels():
    for x in (
        np.ones(5, np.float32),
        np.ones((1, 5)),
        np.full((1, 5), np.nan, np.float32),
        np.ones((1, 0), np.float32),
    ):
        with pytest.raises(DataError, match="sequence a: x"):
            SignalSequence("a", "A", "1", x)


def test_sets_refuse_what_does_not_fit_together():
    with pytest.raises(DataError, match="two sequences are called 'a'"):
        SequenceSet.of([sequence("a"), sequence("a")], {"emg": 2}, 1000)
    with pytest.raises(DataError, match="not in event_names"):
        SequenceSet.of([sequence("a", events=(("tap", 1.0),))], {"emg": 2}, 1000, event_names=("up",))
    with pytest.raises(DataError, match="channels"):
        SequenceSet.of([sequence("a"), SignalSequence("b", "A", "1", np.ones((3, 9), np.float32))], {"emg": 2}, 1000)
    with pytest.raises(DataError, match="at least one"):
        SequenceSet.of([], {"emg": 2}, 1000)
    with pytest.raises(DataError, match="labels must be 0 to -1"):
        SequenceSet.of([sequence("a", frame_labels=np.array([0]), frame_rate=1.0)], {"emg": 2}, 1000)


@pytest.mark.parametrize("values", [np.ones(3), (word for word in ["a"])])
def test_items_that_are_no_sequences_are_refused(values):
    with pytest.raises(ArgumentError, match=r"of: sequences\[0\]=.*; expected a SignalSequence"):
        SequenceSet.of(values, {"emg": 2}, 1000)


def test_splits_keep_units_together():
    names = [("a", "A", "1"), ("b", "A", "2"), ("c", "B", "1"), ("d", "B", "2")]
    every = SequenceSet.of([sequence(n, s, subject=who, n=500) for n, who, s in names], {"emg": 2}, 1000)
    assert [part.names for part in every.split("subject", ["B"])] == [("a", "b"), ("c", "d")]
    assert [part.names for part in every.split("session", ["A/2"])] == [("a", "c", "d"), ("b",)]
    assert [part.names for part in every.split("sequence", ["d", "a"])] == [("b", "c"), ("a", "d")]
    with pytest.raises(DataError, match="unknown session '2'"):
        every.split("session", ["2"])
    with pytest.raises(DataError, match="nothing is left"):
        every.split("subject", ["A", "B"])
    with pytest.raises(DataError, match="by="):
        every.split("word", ["A"])


def test_leakage_counts_what_is_shared():
    train = SequenceSet.of(
        [sequence("a", n=900, text="go"), sequence("b", "2", n=500, seed=1, text="stop")], {"emg": 2}, 1000
    )
    test = SequenceSet.of(
        [sequence("c", "2", n=520, seed=2, text="stop"), sequence("d", "3", n=900, text="left")], {"emg": 2}, 1000
    )
    counted = sequence_leakage(train, test).set_index("fact")["n"].to_dict()
    assert counted == {
        "subject": 2,
        "session": 1,
        "name": 0,
        "samples": 1,
        "text": 1,
        "text of the training sequence with the nearest duration": 1,
    }


# --- windows ----------------------------------------------------------------------------------------------

WINDOWINGS = st.builds(
    lambda hop, context, more, stitch: Windowing(
        length_s=(hop + context + more) / 10, hop_s=hop / 10, context_s=context / 10, stitch=stitch
    ),
    hop=st.integers(2, 20),
    context=st.integers(0, 10),
    more=st.integers(0, 10),
    stitch=st.sampled_from(["most_context", "last", "mean"]),
)


@given(windowing=WINDOWINGS, n=st.integers(20, 900), first=st.integers(0, 15), every=st.integers(1, 10))
def test_windows_cover_every_step_once(windowing, n, first, every):
    """Sampled at 100 Hz. A step is a sample; the step grid is the same in every window only if hops are whole steps."""
    steps = OutputSteps(first, every)
    if windowing.n_samples(100) <= first:
        return
    times = windowing.step_times(n, 100, steps)
    starts, windows = windowing.starts(n, 100), windowing.cut(np.arange(n, dtype=np.float32)[None], 100)
    assert windows.shape == (len(starts), 1, windowing.n_samples(100)) and len(times) == len(starts)
    for window, of, start in zip(windows, times, starts, strict=True):
        samples = steps.samples(windowing.n_samples(100))
        counted = of >= 0
        np.testing.assert_array_equal(window[0, samples[counted]], samples[counted] + start)  # each knows its sample
        np.testing.assert_allclose(of[counted] * 100, samples[counted] + start)
    without_output = max(first, round(100 * windowing.context_s))  # at the start of a window
    if every == 1 and round(100 * windowing.hop_s) <= windowing.n_samples(100) - without_output:
        counted = np.rint(times[times >= 0] * 100).astype(int)
        assert set(counted) == set(range(first, n))
        if windowing.stitch != "mean":
            assert len(counted) == n - first  # each step once


@pytest.mark.parametrize("stitch", ["most_context", "last", "mean"])
def test_joined_outputs_of_a_causal_model_are_those_of_the_whole_sequence(stitch):
    """A causal filter whose memory is shorter than the context gives the same at every step of every window."""
    x = np.random.default_rng(0).normal(size=(1, 1000))
    kernel = np.random.default_rng(1).normal(size=50)

    def model(signal):
        return np.apply_along_axis(lambda row: np.convolve(row, kernel)[: len(row)], -1, signal)

    windowing, steps = Windowing(length_s=3.0, hop_s=1.0, context_s=0.5, stitch=stitch), OutputSteps(0, 1)
    outputs = model(windowing.cut(x, 100))[:, 0, :, None]
    times, joined = windowing.joined(outputs, windowing.step_times(1000, 100, steps))
    np.testing.assert_allclose(times, np.arange(1000) / 100, atol=1e-9)
    np.testing.assert_allclose(joined[:, 0], model(x)[0], atol=1e-9)


def test_stitching_chooses_the_window_that_its_name_says():
    steps = OutputSteps(0, 100)
    numbers = np.arange(4)[:, None].repeat(4, 1).astype(float)  # every output is the number of its window

    def joined(stitch, context_s=0.0):
        windowing = Windowing(length_s=4.0, hop_s=2.0, context_s=context_s, stitch=stitch)
        return windowing.joined(numbers, windowing.step_times(1000, 100, steps))[1].tolist()

    assert joined("most_context") == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert joined("last") == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert joined("mean") == [0, 0, 0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3, 3]
    assert joined("last", context_s=1.0) == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]


def test_windowings_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match="leaves gaps"):
        Windowing(length_s=2.0, hop_s=1.5, context_s=1.0)
    with pytest.raises(ValueError, match="not shorter"):
        Windowing(length_s=2.0, context_s=2.0)
    with pytest.raises(DataError, match="shorter than one sample"):
        Windowing(length_s=0.001).starts(100, 100)
    with pytest.raises(DataError, match="shorter than one step"):
        Windowing(length_s=0.1).step_times(100, 100, OutputSteps(20, 10))


def test_a_short_sequence_ends_in_zeros_that_do_not_count():
    trials = SequenceSet.of([sequence("a", n=500, events=(("tap", 0.2),))], {"emg": 2}, 1000).windows(
        Windowing(length_s=1.0)
    )
    assert trials.x.shape == (1, 2, 1000) and not trials.x[..., 500:].any()
    assert (trials.targets[0, :, -1] >= 0).sum() == len(range(20, 500, 10))
    assert any("end in zeros" in note for note in trials.notes)


# --- events as targets ------------------------------------------------------------------------------------


def test_the_published_grid_has_1598_steps_and_8_per_pulse():
    """8 s at 2 kHz: 1598 steps of 200 Hz and 8 steps a pulse (Kaifosh et al. 2025)."""
    times = Windowing(length_s=8.0).step_times(16000, 2000, OutputSteps())
    targets = event_targets([("tap", 1.0)], times, ["tap"])
    assert times.shape == (1, 1598)
    pulse = np.flatnonzero(targets[0, :, 0] > 0)
    assert len(pulse) == 8 and np.all((times[0, pulse] >= 1.08 - 1e-9) & (times[0, pulse] < 1.12))


@given(
    ticks=st.lists(st.tuples(st.sampled_from(["index_press", "index_release", "tap"]), st.integers(0, 90)), unique=True)
)
def test_events_are_read_back_from_targets(ticks):
    """Events of one name are at least 0.1 s apart, so that their pulses do not overlap."""
    events = sorted((name, tick / 10 + 0.0037) for name, tick in ticks)
    times = Windowing(length_s=3.0, hop_s=1.5).step_times(1050, 100, OutputSteps(0, 1))
    names = ["index_press", "index_release", "tap"]
    found = labels_of(event_targets(events, times, names), names)
    assert [time for _, time in found] == sorted(time for _, time in found)
    assert [name for name, _ in sorted(found)] == [name for name, _ in events]
    np.testing.assert_allclose([time for _, time in sorted(found)], [time for _, time in events], atol=1e-5)


def test_a_release_counts_only_while_its_finger_is_down():
    times = (np.arange(400) / 200)[None]  # 2 s at 200 steps a second
    events = [("index_press", 0.4), ("index_release", 1.0), ("tap", 1.5)]
    names = ["index_press", "index_release", "tap"]
    targets = event_targets(events, times, names)
    counts = targets[0, :, 1] >= 0
    pressed, released = np.argmax(targets[0, :, 0] > 0), np.argmax(targets[0, :, 1] > 0)
    np.testing.assert_array_equal(np.flatnonzero(counts), np.arange(pressed, released + 8))
    assert (targets[0, :, [0, 2]] >= 0).all()
    assert not (event_targets([], times, names)[0, :, 1] >= 0).any()  # no press in the window: nowhere
    held = event_targets([("index_press", 0.4)], times, names)[0, :, 1] >= 0  # no release: to the end
    np.testing.assert_array_equal(np.flatnonzero(held), np.arange(pressed, 400))


def test_pulses_that_fall_between_two_steps_are_refused():
    with pytest.raises(DataError, match="40 ms"):
        event_targets([("tap", 1.0)], np.arange(0, 4, 0.05)[None], ["tap"])
    with pytest.raises(DataError, match="not among the outputs"):
        event_targets([("up", 1.0)], np.arange(0, 4, 0.01)[None], ["tap"])


def test_steps_of_the_same_time_are_averaged():
    times = np.array([[0.0, 1.0, -1.0], [1.0, 2.0, 3.0]])
    outputs = np.array([[0.0, 2.0, 99.0], [4.0, 5.0, 6.0]])
    at, joined = join_steps(outputs, times)
    assert at.tolist() == [0, 1, 2, 3] and joined.tolist() == [0, 3, 5, 6]


def test_sessions_are_numbered_within_their_subject():
    one = SignalSequence("a", "A", "late", np.ones((1, 9), np.float32))
    others = [("b", "A", "early"), ("c", "B", "early"), ("d", "A", "late"), ("e", "B", "z")]
    every = [one, *(replace(one, name=n, subject=subject, session=session) for n, subject, session in others)]
    assert SequenceSet.of(every, {"emg": 1}, 100).session_numbers.tolist() == [1, 2, 1, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulation": {"n_subject": 2}}, "did you mean 'n_subjects'"),
        ({"simulation": 3}, "simulation: the content=3"),
        ({"windowing": {"length": 2.0}}, "did you mean 'length_s'"),
        ({"windowing": [2.0]}, "windowing: the content"),
        ({"steps": {"firs": 0}}, r"steps={'firs': 0}; expected the output steps"),
        ({"steps": 10}, "steps=10; expected"),
        ({"steps": {"every": 0}}, "every of 1 or more"),
    ],
)
def test_invalid_options_of_streams_are_errors_of_one_line(options, message):
    with pytest.raises(DataError, match=message) as error:
        load_trials("simulated-gestures", **options)
    assert "\n" not in str(error.value)


def test_events_without_an_output_step_are_counted_or_refused():
    def windows(times, **windowing):
        events = tuple(("tap", time) for time in times)
        return SequenceSet.of([sequence("a", n=20_000, events=events)], {"emg": 2}, 1000).windows(
            Windowing(length_s=2.0, **windowing)
        )

    evenly = np.arange(0.5, 19, 0.5)
    between = 3.92  # its target, 4.00 to 4.04 s, is in the first 20 ms of a window, which has no step yet
    touching, overlapping = windows([*evenly, between - 0.001]), windows([*evenly, between - 0.001], hop_s=1.5)
    assert not any("are lost" in note for note in overlapping.notes)
    found = labels_of(touching.targets, ["tap"])
    lost = len(evenly) + 1 - len(found)
    assert lost == 0 or any(f"{lost} of {len(evenly) + 1} events" in note for note in touching.notes)
    with pytest.raises(DataError, match="4 of 10 events have no output step"):
        windows([*np.arange(1.0, 7), 25.0, 26.0, 27.0, 28.0], hop_s=1.5)
    assert any("1 of 38 events" in note for note in windows([*evenly, 25.0], hop_s=1.5).notes)


def test_a_sequence_whose_times_float32_cannot_hold_is_refused():
    long = SignalSequence("a", "A", "1", np.zeros((1, 20_000), np.float32), events=())
    with pytest.raises(DataError, match="20000 s long; divide it"):
        SequenceSet.of([long], {"emg": 1}, 1, event_names=["tap"]).windows(Windowing(length_s=100.0))
