"""EPN-612, written small in its own layout; testing people's second set hides its gestures."""

import json

import numpy as np
import pytest

from emg_lens.data import DataError, load_dataset, load_trials, subjects

ORDER = ("fist", "noGesture", "open", "pinch", "waveIn", "waveOut")


def sample(gesture, seed, rows=40, **changes):
    rng = np.random.default_rng(seed)
    imu = {axis: rng.normal(size=rows // 4).tolist() for axis in "wxyz"}
    sample = {
        "emg": {f"ch{i}": rng.integers(-128, 128, rows).tolist() for i in range(1, 9)},
        "accelerometer": {a: imu[a] for a in "xyz"},
        "gyroscope": {a: imu[a] for a in "xyz"},
        "quaternion": imu,
        "gestureName": gesture,
        "groundTruthIndex": [11, 30],
    }
    return {key: value for key, value in {**sample, **changes}.items() if value is not None}


def write(folder, who="training", number=1, hidden=False, repetitions=2, **changes):
    place = folder / f"{who}JSON" / f"user{number}"
    place.mkdir(parents=True)
    content = {"generalInfo": {"samplingFrequencyInHertz": 200}}
    for name in ("trainingSamples", "testingSamples"):
        gestures = [g for _ in range(repetitions) for g in ORDER]
        hide = {"gestureName": None} if hidden and name == "testingSamples" else {}
        content[name] = {f"idx_{i}": sample(g, i, **hide, **changes) for i, g in enumerate(gestures, start=1)}
    (place / f"user{number}.json").write_text(json.dumps(content))
    return folder


def test_gestures_are_numbered_by_name_and_repetitions_through_both_sets(tmp_path):
    recordings = list(load_dataset("epn-612", write(tmp_path, repetitions=3)))
    assert len(recordings) == 36 and recordings[0].meta["class_names"][6] == "fist"
    assert [(int(r.label[0]), int(r.repetition[0])) for r in recordings[:7]] == [
        *((6, 1), (1, 1), (5, 1), (4, 1), (2, 1), (3, 1), (6, 2)),
    ]
    assert sorted({int(r.repetition[0]) for r in recordings}) == [1, 2, 3, 26, 27, 28]
    emg = recordings[0].signals["emg"]
    assert emg.data.shape == (40, 8) and emg.fs == 200 and (recordings[0].label == 6).all()
    np.testing.assert_array_equal(emg.data[:, 2], sample("fist", 1)["emg"]["ch3"])


def test_hidden_gestures_are_left_out_and_people_of_both_folders_stay_apart(tmp_path):
    write(tmp_path), write(tmp_path, "testing", hidden=True), write(tmp_path, number=10)
    assert subjects("epn-612", tmp_path) == ("testing.1", "training.1", "training.10")
    assert len(list(load_dataset("epn-612", tmp_path, subjects=["testing.1"]))) == 12
    assert load_trials("epn-612", tmp_path, sets=["trainingSamples"]).x.shape == (36, 8, 40)


def test_other_sensors_and_the_marked_part(tmp_path):
    write(tmp_path)
    first, second, *_ = load_dataset("epn-612", tmp_path, sensors=["acc", "quat"], extent="marked")
    assert first.signals["acc"].data.shape == (10, 3) and first.signals["quat"].ch_names == ("w", "x", "y", "z")
    assert np.flatnonzero(first.label).tolist() == list(range(10, 30)) and (second.label == 1).all()


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({"emg": {"ch1": [1]}}, {}, "user1.json: trainingSamples.idx_1: emg has no ch2"),
        ({"emg": {f"ch{i}": [1] * i for i in range(1, 9)}}, {}, "must be numbers, the same number of each"),
        ({"emg": {f"ch{i}": [] for i in range(1, 9)}}, {}, r"emg is float32 \[0, 8\], expected .* at least one row"),
        ({"emg": {f"ch{i}": ["x"] for i in range(1, 9)}}, {}, "must be numbers"),
        ({"accelerometer": None}, {"sensors": ["acc"]}, "accelerometer has no x"),
        (
            {"groundTruthIndex": [30, 11]},
            {"extent": "marked"},
            r"is \[30, 11\], expected the first and last row of the gesture, from 1 to 40",
        ),
        ({"groundTruthIndex": None}, {"extent": "marked"}, "is None, expected the first and last row"),
        ({"gestureName": "kick"}, {}, "unknown gesture 'kick'"),
        ({}, {"sensors": "emg"}, "sensors must be a list"),
        ({}, {"sets": ["all"]}, "sets must be a list"),
        ({}, {"extent": "middle"}, "extent must be one of sample, marked"),
    ],
)
def test_invalid_content_gives_a_one_line_error(tmp_path, changes, options, message):
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as error:
        list(load_dataset("epn-612", tmp_path, **options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"trainingSamples": 3}', '{"trainingSamples": {"idx_1": 3}}', "[" * 9000])
def test_damaged_files_are_one_line(tmp_path, text):
    (write(tmp_path) / "trainingJSON" / "user1" / "user1.json").write_text(text)
    with pytest.raises(DataError, match="user1.json"):
        list(load_dataset("epn-612", tmp_path))
