import numpy as np
import pytest
from scipy.io import savemat

from emg_lens.data import DataError, Segment, load_dataset, load_trials, subjects


def write(folder, name="v10", rows=900, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    content = {
        "emg": random.integers(-128, 128, (rows, 8)).astype(np.int16),
        "Force": random.integers(0, 1024, (rows, 1)).astype(np.uint16),
        "X": np.zeros((rows, 9)),
        **changes,
    }
    savemat(folder / f"recording_force_{name}.mat", {k: v for k, v in content.items() if v is not None})
    return content


def read(root, **options):
    return list(load_dataset("myo-force", root, **options))


def test_a_recording_holds_emg_and_force_of_one_long_repetition(tmp_path):
    content = write(tmp_path)
    (r,) = read(tmp_path)
    assert {m: (s.fs, s.data.shape, s.units, s.data.dtype) for m, s in r.signals.items()} == {
        "emg": (200, (900, 8), "adc", np.float32),
        "force": (200, (900, 1), "adc", np.float32),
    }
    np.testing.assert_array_equal(r.signals["emg"].data, content["emg"])
    np.testing.assert_array_equal(r.signals["force"].data, content["Force"])
    assert r.trials.to_dict("records") == [{"start": 0.0, "stop": 4.5, "label": 1, "repetition": 1}]
    assert r.meta["class_names"] == {1: "grasp"} and any("each recording counts as a subject" in n for n in r.notes)


def test_force_kept_as_bytes_means_the_same(tmp_path):
    write(tmp_path, "v5", Force=np.full((900, 1), 251, np.uint8))
    assert (read(tmp_path)[0].signals["force"].data == 251).all()


def test_recordings_are_subjects_in_natural_order(tmp_path):
    for name in ("v10", "v2", "v11_2", "v11"):
        write(tmp_path, name)
    write(tmp_path / "other", "force_v2")
    assert subjects("myo-force", tmp_path) == ("v2", "v10", "v11", "v11_2")
    assert [r.subject for r in read(tmp_path, subjects=[2, "v11_2"])] == ["v2", "v11_2"]


def test_force_becomes_the_target_of_windows_of_two_second_pieces(tmp_path):
    content = write(tmp_path)
    segment = Segment(piece_s=2.0, window_s=0.5, stride_s=0.5)
    trials = load_trials("myo-force", tmp_path, segment=segment).with_targets(["force"])
    assert trials.target_names == ("grasp force (adc)",) and trials.modalities == {"emg": 8}
    np.testing.assert_allclose(trials.targets[:, 0], content["Force"][:800].reshape(8, 100).mean(axis=1), rtol=1e-6)
    assert trials.repetition_id.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"Force": None}, r"no variable 'Force' \(it has emg\); is the file complete"),
        ({"emg": np.zeros((900, 7))}, r"emg is float64 \[900, 7\], expected numbers \[time, 8\]"),
        ({"emg": np.zeros((0, 8))}, r"emg is float64 \[0, 8\]"),
        ({"Force": np.full((900, 1), np.nan)}, "Force is NaN or infinite"),
        ({"Force": np.zeros((899, 1))}, r"differ in length \(emg 900, force 899 rows\)"),
    ],
)
def test_damaged_files_are_rejected_in_one_line(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path)
    assert "recording_force_v10.mat" in str(error.value) and "\n" not in str(error.value)


def test_a_truncated_file_is_rejected(tmp_path):
    write(tmp_path)
    path = tmp_path / "recording_force_v10.mat"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="recording_force_v10.mat: cannot be read as a MATLAB file"):
        read(tmp_path)
