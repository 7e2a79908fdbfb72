"""The data set `neuromotor-gestures`: files in the published layout, with the traps of that layout.

`files/neuromotor_frames.h5.gz` was written by pandas and PyTables (see `write_frames`), because pandas' fixed
format stores text as pickles.
"""

import gzip
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from emg_lens.data import DataError
from emg_lens.data.sources.neuromotor import GESTURES, load, neuromotor_gestures
from emg_lens.io.pandas_frames import frame_columns

FRAMES = Path(__file__).parent / "files" / "neuromotor_frames.h5.gz"
"""Prompts: thumb_up at 3.0 s, index_press at 5.0 s, index_release at 5.4 s, thumb_in at 19.9 s. Stages: 2 to 11 s and
12 to 18 s. All times are after START."""
START = 1_600_000_000.0


def write_frames(path):
    """How the file was made; needs PyTables."""
    import pandas as pd

    times = [START + t for t in (3.0, 5.0, 5.4, 19.9)]
    pd.DataFrame({"name": ["thumb_up", "index_press", "index_release", "thumb_in"], "time": times}).to_hdf(
        path, key="prompts"
    )
    stages = pd.DataFrame({"start": [START + 2, START + 12], "end": [START + 11, START + 18], "name": ["a", "b"]})
    stages.to_hdf(path, key="stages")


def unpacked(path: Path) -> Path:
    path.write_bytes(gzip.decompress(FRAMES.read_bytes()))
    return path


def recording(folder: Path, user: int = 7, scale: float = 30.0, seconds: float = 20.0, edit=None) -> Path:
    path = folder / f"discrete_gestures_user_{user:03d}_dataset_000.hdf5"
    unpacked(path)
    rows = np.zeros(round(2000 * seconds), dtype=[("time", "f8"), ("emg", "f4", (16,))])
    rows["time"] = START + np.arange(len(rows)) / 2000
    rows["emg"] = scale * np.random.default_rng(user).normal(size=(len(rows), 16))
    if edit is not None:
        edit(rows)
    with h5py.File(path, "a") as file:
        file["data"] = rows
        file["data"].attrs["task"] = "discrete_gestures"
    return path


def test_events_are_relative_to_the_first_stage_and_prompts_outside_are_counted(tmp_path):
    path = recording(tmp_path)
    recording(tmp_path, user=11)
    every = neuromotor_gestures(tmp_path)
    assert every.fs == 2000 and every.event_names == GESTURES and len(every) == 2
    one = every.sequences[0]
    assert (one.subject, one.session, one.x.shape) == ("007", path.stem, (16, 32_000))
    assert one.events == (("thumb_up", 1.0), ("index_press", 3.0), ("index_release", 3.4))
    assert any("1 of 4 prompts are outside" in note for note in every.notes)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(one.x, file["data"]["emg"][4000:36_000].T)
    trials = load(tmp_path, subjects=[11], windowing={"length_s": 4.0})
    assert set(trials.subject) == {"011"} and trials.targets.shape == (4, 798, 10)


def test_the_corpus_table_chooses_parts_of_recordings(tmp_path):
    stem = recording(tmp_path).stem
    rows = [f"{stem},{START + 2},{START + 6},train", f"{stem},{START + 12},{START + 16},train", f"{stem},0,1,val"]
    (tmp_path / "discrete_gestures_corpus.csv").write_text("\n".join(["dataset,start,end,split", *rows]))
    train = neuromotor_gestures(tmp_path, part="train")
    assert train.names == (f"{stem}-1", f"{stem}-2") and train[f"{stem}-2"].events == ()
    with pytest.raises(DataError, match="no row between 0"):
        neuromotor_gestures(tmp_path, part="val")
    with pytest.raises(DataError, match="no recording belongs to part 'test'"):
        neuromotor_gestures(tmp_path, part="test")
    with pytest.raises(DataError, match="part must be a list of values"):
        load(tmp_path, part="trian")
    (tmp_path / "discrete_gestures_corpus.csv").unlink()
    with pytest.raises(DataError, match="exactly one"):
        neuromotor_gestures(tmp_path, part="train")


def test_traps_are_noted_or_refused(tmp_path):
    recording(tmp_path, scale=3e-5)  # volts
    assert any("RMS of 3" in note for note in neuromotor_gestures(tmp_path).notes)

    def jump(rows):
        rows["time"][10_000:] += 0.5

    recording(tmp_path, edit=jump)
    assert any("gap of 0.5" in note for note in neuromotor_gestures(tmp_path).notes)

    def back(rows):
        rows["time"][500] -= 5

    recording(tmp_path, edit=back)
    with pytest.raises(DataError, match="time goes back"):
        neuromotor_gestures(tmp_path)
    with pytest.raises(DataError, match=r"no \.hdf5 file"):
        (tmp_path / "empty").mkdir()
        neuromotor_gestures(tmp_path / "empty")


def test_equal_times_are_allowed(tmp_path):
    def same(rows):
        rows["time"][100:102] = rows["time"][100]

    recording(tmp_path, edit=same)
    assert len(neuromotor_gestures(tmp_path)) == 1


def test_missing_parts_of_a_file_are_named(tmp_path):
    path = recording(tmp_path)
    with h5py.File(path, "a") as file:
        del file["prompts"]
    with pytest.raises(DataError, match="no data frame 'prompts'"):
        neuromotor_gestures(tmp_path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match="cannot be read"):
        neuromotor_gestures(tmp_path)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    """The text column is replaced by a pickle that would make a file."""

    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    path = recording(tmp_path)
    with h5py.File(path, "a") as file:
        name = next(f"prompts/{k}" for k in file["prompts"] if file[f"prompts/{k}"].dtype == object)
        kind = file[name].dtype
        del file[name]
        stored = file.create_dataset(name, (1,), dtype=h5py.vlen_dtype(np.uint8))
        stored[0] = np.frombuffer(pickle.dumps(Harmful()), np.uint8)
        assert kind == stored.dtype
    with pytest.raises(DataError, match="refers to pathlib"):
        neuromotor_gestures(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_frames_are_those_that_pandas_wrote(tmp_path):
    frames = dict(frame_columns(unpacked(tmp_path / "frames.h5"), ["prompts", "stages"]))
    assert frames["prompts"]["name"].tolist() == ["thumb_up", "index_press", "index_release", "thumb_in"]
    np.testing.assert_allclose(frames["prompts"]["time"] - START, [3.0, 5.0, 5.4, 19.9])
    assert set(frames["stages"]) == {"start", "end", "name"} and frames["stages"]["name"].tolist() == ["a", "b"]
    np.testing.assert_allclose(frames["stages"]["end"] - START, [11, 18])


def test_prompts_without_a_row_are_outside_and_another_rate_is_refused(tmp_path):
    def late(rows):
        rows["time"] += 4.0  # the prompt at 3.0 s is before the first row

    recording(tmp_path, edit=late)
    (one,) = neuromotor_gestures(tmp_path).sequences
    assert one.events == (("index_press", 1.0), ("index_release", pytest.approx(1.4)))

    def slow(rows):
        rows["time"] = START + np.arange(len(rows)) / 1000

    recording(tmp_path, edit=slow)
    with pytest.raises(DataError, match="1000 Hz; expected 2000 Hz"):
        neuromotor_gestures(tmp_path)
