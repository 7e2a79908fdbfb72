"""Fuzz of data sets of HDF5 files: high-density EMG, and EMG2Pose with the table of its recordings."""

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import test_emg2pose
import test_hd_semg
from changes import odd_array, pick
from hdf5 import HDF5_KINDS, odd_hdf5
from loaders import Specimen, attempt, bytes_changed, specimens
from matlab_files import matlab_changed
from numpy.random import Generator
from text_files import odd_cells
from verdicts import Target

RECORDING = "u1_fist_1"
DATA = f"emg2pose_data/{RECORDING}.hdf5"
GROUP, TABLE = "emg2pose", "timeseries"


def prepare_hd(folder: Path) -> list[Specimen]:
    """Make two gestures of a subject."""
    _, fields = test_hd_semg.write(folder / "hd", gestures=(1, 60), repetitions=1, rest=20, rows=220)
    read = ("emg_extensors", "emg_flexors", "force", "class", "repetition")
    turned = {key: values.T for key, values in fields.items()}
    return [specimens("hd-semg", "s1.mat", [(folder / "hd" / "s1.mat").read_bytes()], folder, None, turned, read)]


def prepare_pose(folder: Path) -> list[Specimen]:
    """Make a recording and the table; one of them is changed."""
    (folder / "pose").mkdir()
    test_emg2pose.write(folder / "pose", **{RECORDING: test_emg2pose.recording(rows=250, lost=slice(10, 20))})
    files = {name: (folder / "pose" / name).read_bytes() for name in (DATA, "metadata.csv")}
    fields = {"table": test_emg2pose.recording(rows=250)}
    return [
        specimens("emg2pose", name, [files[name]], folder, {k: v for k, v in files.items() if k != name}, fields)
        for name in files
    ]


def pose_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes, cells of the table of recordings, or the group, the records and their fields."""
    if path.suffix == ".csv" and rng.random() < 0.7:
        text, words = odd_cells(specimen.files[0], rng)
        path.write_bytes(text)
        return words, False
    if path.suffix == ".csv" or rng.random() < 0.4:
        return bytes_changed(specimen, rng, path)
    table = specimen.fields["table"]
    if rng.random() < 0.5:
        kind, name = pick(rng, HDF5_KINDS), pick(rng, (GROUP, TABLE))
        with h5py.File(path, "w") as file:
            place = file if name == GROUP else file.create_group(GROUP)
            odd_hdf5(place, name, table.shape, kind, path)
        return f"{name}: {kind}", True
    table, words = odd_records(table, rng)
    with h5py.File(path, "w") as file:
        try:
            file[f"{GROUP}/{TABLE}"] = table
        except (TypeError, ValueError):  # no such thing in HDF5
            file[f"{GROUP}/{TABLE}"] = 0
    return words, False


def odd_records(table: np.ndarray, rng: Generator) -> tuple[np.ndarray, str]:
    """Change a field of the records, remove one, or remove records."""
    if rng.random() < 0.2:
        return odd_array(table, rng)
    columns = {name: table[name] for name in table.dtype.names or ()}
    name = pick(rng, sorted(columns))
    if rng.random() < 0.2:
        del columns[name]
        words = f"{name}: removed"
    else:
        columns[name], words = odd_array(columns[name], rng)
        words = f"{name}: {words}"
        if not isinstance(columns[name], np.ndarray) or len(columns[name]) != len(table) or columns[name].ndim == 0:
            columns[name] = np.full(len(table), rng.choice([np.nan, 1e300, 0]))
    made = np.zeros(len(table), [(k, v.dtype, v.shape[1:]) for k, v in columns.items()])
    for key, values in columns.items():
        made[key] = values
    return made, words


TARGETS = (
    Target("hd-semg", prepare_hd, partial(attempt, matlab_changed)),
    Target("emg2pose", prepare_pose, partial(attempt, pose_changed)),
)
