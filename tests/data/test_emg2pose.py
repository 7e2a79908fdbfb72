"""EMG2Pose, written small in its own layout: a table of records, failed inverse kinematics, gaps, `._` files."""

import h5py
import numpy as np
import pandas as pd
import pytest

from emg_lens.data import DataError, load_dataset, load_trials, subjects

RECORD = np.dtype([("time", "f8"), ("joint_angles", "f4", (20,)), ("emg", "f4", (16,))])


def recording(rows=100, seed=0, lost=slice(0, 0), gap_at=None, step=1 / 2000):
    rng = np.random.default_rng(seed)
    table = np.zeros(rows, RECORD)
    table["time"] = 1.6e9 + np.arange(rows) * step
    if gap_at is not None:
        table["time"][gap_at:] += 0.5
    table["joint_angles"], table["emg"] = rng.normal(size=(rows, 20)), rng.normal(size=(rows, 16))
    table["joint_angles"][lost] = 0
    return table


def write(folder, **tables):
    """`write(folder, u1_fist_1=table)`: a file a recording of user and stage, and the list of them."""
    place = folder / "emg2pose_data"
    place.mkdir()
    for name, table in tables.items():
        with h5py.File(place / f"{name}.hdf5", "w") as file:
            file.create_dataset("emg2pose/timeseries", data=table)
    (place / "._u1_fist_1.hdf5").write_bytes(b"junk of a Mac")
    rows = [(name, *name.split("_")[:2]) for name in (*tables, "u9_far_1")]
    pd.DataFrame(rows, columns=["filename", "user", "stage"]).to_csv(folder / "metadata.csv", index=False)
    return folder


def test_users_stages_and_repetitions_come_from_the_table(tmp_path):
    names = ("u10_fist_1", "u1_wave_1", "u1_fist_2", "u1_fist_1")
    write(tmp_path, **{name: recording(seed=i) for i, name in enumerate(names)})
    assert subjects("emg2pose", tmp_path) == ("u1", "u10")
    recordings = list(load_dataset("emg2pose", tmp_path))
    assert [(r.subject, int(r.label[0]), int(r.repetition[0])) for r in recordings] == [
        *(("u1", 2, 1), ("u1", 2, 2), ("u1", 3, 1), ("u10", 2, 1)),
    ]
    assert recordings[0].meta["class_names"] == {1: "far", 2: "fist", 3: "wave"}  # also where no file of "far" is there
    np.testing.assert_array_equal(recordings[0].signals["emg"].data, recording(seed=3)["emg"])


def test_rows_without_angles_are_excluded_and_gaps_noted(tmp_path):
    (r,) = load_dataset(
        "emg2pose", write(tmp_path, u1_fist_1=recording(lost=slice(10, 30), gap_at=60)), sensors=["emg", "angles"]
    )
    assert np.flatnonzero(r.label == -1).tolist() == list(range(10, 30)) and r.signals["angles"].units == "rad"
    assert r.notes == (
        "1 of the 2 recordings that metadata.csv lists are not in the folder",
        "time has 1 gaps, the longest of 0.50 s after row 60: rows are missing",
        "20.0% of rows have no joint angles (all zero) and are excluded",
    )


def test_angles_become_targets(tmp_path):
    from emg_lens.data import Segment

    write(tmp_path, u1_fist_1=recording(), u1_fist_2=recording(seed=1))
    made = load_trials("emg2pose", tmp_path, segment=Segment(window_s=0.01, stride_s=0.01), sensors=["emg", "angles"])
    regression = made.with_targets(["angles"])
    assert regression.x.shape == (10, 16, 20) and regression.targets.shape == (10, 20)


def rising(dtype):
    table = np.zeros(9, dtype)
    table["time"] = np.arange(9) / 2000
    return table


@pytest.mark.parametrize(
    "table, message",
    [
        (recording()[["time", "emg"]], "has no field 'joint_angles'; it has time, emg"),
        (recording()[::-1], "time does not rise"),
        (recording(step=1 / 1000), "1000.* rows per second by the column of times, but fs is 2000"),
        (np.zeros(0, RECORD), "time does not rise|no rows"),
        (np.zeros((5, 3)), "has no field 'time'"),
        (recording()[0], r"time has shape \(\), expected one number of seconds per row"),
        (recording()[:, None], r"time has shape \(100, 1\), expected one number"),
        (recording().astype([("time", "S9"), ("joint_angles", "f4", (20,)), ("emg", "f4", (16,))]), "time .*expected"),
        (np.zeros(9, [("time", "f8"), ("joint_angles", "f4"), ("emg", "f4", (16,))]), "time does not rise"),
        (
            rising([("time", "f8"), ("joint_angles", "f4"), ("emg", "f4", (16,))]),
            r"joint_angles is float32 \[9\], expected numbers \[time, 20\]",
        ),
        (
            rising([("time", "f8"), ("joint_angles", "f4", (20,)), ("emg", "f4", (16, 1))]),
            r"emg is float32 \[9, 16, 1\], expected",
        ),
    ],
)
def test_damaged_files_are_one_line(tmp_path, table, message):
    with pytest.raises(DataError, match=f"u1_fist_1.hdf5: .*{message}") as error:
        list(load_dataset("emg2pose", write(tmp_path, u1_fist_1=table), sensors=["angles", "emg"]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "metadata.csv").unlink(), "has no metadata.csv"),
        (lambda folder: (folder / "metadata.csv").write_text("a,b\n1,2\n"), "expected filename, user and stage"),
        (lambda folder: (folder / "metadata.csv").write_text("filename,user,stage\nx,y,z\n"), "none of the files"),
        (
            lambda folder: (folder / "metadata.csv").write_text("filename," * 6000 + "user,stage\nx,y,z\n"),
            "6002 columns",
        ),
        (lambda folder: (folder / "metadata.csv").write_text("filename,user,stage" + "\nu1_fist_1,u,f" * 2), "twice"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(tmp_path, spoil, message):
    spoil(write(tmp_path, u1_fist_1=recording()))
    with pytest.raises(DataError, match=message):
        load_dataset("emg2pose", tmp_path)
    with pytest.raises(DataError, match="sensors must be a list"):
        load_dataset("emg2pose", tmp_path, sensors="emg")


def test_two_files_of_one_name_are_rejected(tmp_path):
    write(tmp_path, u1_fist_1=recording())
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "u1_fist_1.hdf5").write_bytes(b"x")
    with pytest.raises(DataError, match="two files of one name: .*; keep one"):
        load_dataset("emg2pose", tmp_path)
