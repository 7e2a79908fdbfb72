"""Readers of files that hold named arrays: MATLAB, HDF5, NumPy and JSON files, and the formats that MNE reads.

Each reader yields the variables in `keys`, or all. A field of a structure or group has the key `outer.field` (HDF5:
`outer/field`). A variable is an array of numbers, a list of texts, or a list of arrays (cells, arrays of structures).
`emg_lens.io.subprocess_reader` runs the readers in a separate process.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emg_lens.io.binary import stored_dataset

Variables = Iterator[tuple[str, Any]]
Keys = Sequence[str] | None
NUMBERS = "biuf"
MNE_SUFFIXES = (".edf", ".bdf", ".gdf", ".vhdr", ".set", ".fif", ".cnt")


def matlab_file(path: Path, keys: Keys) -> Variables:
    """Read a MATLAB file: scipy reads version 5, h5py version 7.3, in which the axes have the reverse order."""
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            yield from _chosen(_hdf5_members(file, "", ".", matlab=True), keys)
        return
    names = None if keys is None else [*dict.fromkeys(key.partition(".")[0] for key in keys)]
    found = {name: value for name, value in loadmat(path, variable_names=names).items() if hasattr(value, "dtype")}
    yield from _chosen(((key, one) for name, value in found.items() for key, one in _matlab_value(name, value)), keys)


def hdf5_file(path: Path, keys: Keys) -> Variables:
    """Read an HDF5 file; its attributes have keys such as `fs` or `group/fs`."""
    with h5py.File(path) as file:
        yield from _chosen(_hdf5_members(file, "", "/", matlab=False), keys)


def numpy_file(path: Path, keys: Keys) -> Variables:
    """Read a `.npy` file, under the name "", or the arrays of a `.npz` file."""
    if path.suffix.lower() != ".npz":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"it holds a {type(array).__name__}, expected one array")
        yield "", _plain(array)
        return
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            if keys is None or name in keys:
                yield name, _plain(archive[name])


def json_file(path: Path, keys: Keys) -> Variables:
    """Read a JSON file: nested objects, lists of numbers or texts, and lists of objects (one entry for each)."""
    yield from _chosen(_json_values("", json.loads(path.read_text("utf-8-sig"))), keys)


def mne_file(path: Path, keys: Keys) -> Variables:
    """Read a file with MNE: `data` [time, channel], `fs`, `ch_names`, `ch_types`, `annotation` (one text per row)."""
    try:
        import mne
    except ImportError:
        raise ValueError("it needs MNE: pip install 'emg-lens[mne]'") from None
    raw = mne.io.read_raw(path, preload=False, verbose="error")
    yield "fs", float(raw.info["sfreq"])
    yield "ch_names", list(raw.ch_names)
    yield "ch_types", list(raw.get_channel_types())
    if keys is None or "annotation" in keys:
        marks = np.full(raw.n_times, "", object)
        for mark in raw.annotations:
            first = max(0, round((mark["onset"] - raw.first_time) * raw.info["sfreq"]))
            marks[first : first + max(1, round(mark["duration"] * raw.info["sfreq"]))] = str(mark["description"])
        yield "annotation", marks.tolist()
    if keys is None or "data" in keys:
        yield "data", np.asarray(raw.get_data()).T


READERS: Mapping[str, Callable[..., Variables]] = {
    ".mat": matlab_file,
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), hdf5_file),
    **dict.fromkeys((".npy", ".npz"), numpy_file),
    ".json": json_file,
    **dict.fromkeys(MNE_SUFFIXES, mne_file),
}
"""The reader of each kind of file, by its suffix."""


def _chosen(variables: Iterable[tuple[str, Any]], keys: Keys) -> Variables:
    for key, value in variables:
        if keys is not None and key not in keys:
            continue
        value = value() if callable(value) else value
        if value is not None or keys is not None:
            yield key, value


def _plain(value: np.ndarray) -> Any:
    """Numbers as they are; texts as a list."""
    if value.dtype.kind == "S":
        value = value.astype(str)
    return value.ravel().tolist() if value.dtype.kind == "U" else value


def _together(values: Sequence[Any]) -> Any:
    """One variable from the entries of a cell array or an array of structures; None if it has no meaning."""
    if all(isinstance(value, str) for value in values):
        return list(values)
    if not all(isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS for value in values):
        return None
    if all(value.size == 1 for value in values):
        return np.array([value.item() for value in values])
    return list(values)


# --- MATLAB, version 5 ------------------------------------------------------------------------------------


def _matlab_value(key: str, value: np.ndarray) -> Variables:
    """The variables in one value of `scipy.io.loadmat`."""
    if not isinstance(value, np.ndarray) or value.dtype.kind == "V" and not value.dtype.names:
        return  # functions, objects
    if value.dtype.names:
        for field in value.dtype.names:
            entries = [dict(_matlab_value("", one[field])) for one in value.ravel()]
            for inner in dict.fromkeys(name for entry in entries for name in entry):
                name = f"{key}.{field}{inner}"
                if value.size == 1:
                    yield name, entries[0][inner]
                elif all(inner in entry for entry in entries):
                    yield name, _together([_entry(entry[inner]) for entry in entries])
    elif value.dtype.kind == "O":
        entries = [dict(_matlab_value("", np.asarray(one))) for one in value.ravel()]
        for inner in dict.fromkeys(name for entry in entries for name in entry):
            if all(inner in entry for entry in entries):
                yield f"{key}{inner}", _together([_entry(entry[inner]) for entry in entries])
    elif value.dtype.kind == "U":
        yield key, [str(one).strip() for one in value.ravel()]
    else:
        yield key, value


def _entry(value: Any) -> Any:
    """An entry of a cell array: its one text, or its array."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


# --- HDF5, and MATLAB version 7.3 -------------------------------------------------------------------------


def _hdf5_members(group: h5py.Group, prefix: str, separator: str, matlab: bool) -> Variables:
    """The variables below a group, each with a function that reads it."""
    for name, value in () if matlab else group.attrs.items():
        yield f"{prefix}{name}", _attribute(value)
    for name in group:
        if name.startswith("#") or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        member, key = group[name], f"{prefix}{name}"
        if isinstance(member, h5py.Group):
            yield from _hdf5_members(member, f"{key}{separator}", separator, matlab)
        elif isinstance(member, h5py.Dataset):
            yield key, lambda parent=group, name=name: _dataset(parent, name, matlab)


def _attribute(value: Any) -> Any:
    if isinstance(value, bytes | str):
        return [value.decode(errors="replace") if isinstance(value, bytes) else value]
    array = np.asarray(value)
    return _plain(array) if array.dtype.kind in f"{NUMBERS}US" else None


def _dataset(group: h5py.Group, name: str, matlab: bool) -> Any:
    dataset = stored_dataset(group, name)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr()[()]).ravel().tolist()  # pyright: ignore[reportAttributeAccessIssue]
    if h5py.check_ref_dtype(dataset.dtype) is not None:
        entries = [group.file[one] for one in np.asarray(dataset).T.ravel()]
        if not all(isinstance(one, h5py.Dataset) for one in entries):
            return None
        return _together([_entry(_dataset(one.parent, one.name.rpartition("/")[2], matlab)) for one in entries])
    if dataset.dtype.kind not in NUMBERS:
        return None
    array = np.asarray(dataset)
    if matlab and dataset.attrs.get("MATLAB_class") == b"char":
        return ["".join(map(chr, row)).strip() for row in np.atleast_2d(array.T)]
    return array.T if matlab else array


# --- JSON -------------------------------------------------------------------------------------------------


def _json_values(key: str, value: Any) -> Variables:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _json_values(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        for name in dict.fromkeys(name for one in value for name in one):
            entries = [_json_array(one.get(name)) for one in value]
            yield f"{key}.{name}" if key else name, _together([_entry(one) for one in entries])
    else:
        yield key, _json_array(value)


def _json_array(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        parts = [np.asarray(one) for one in value] if all(isinstance(one, list) for one in value) else []
        return _together(parts) if parts else None
    if array.dtype.kind == "U":
        return array.ravel().tolist()
    return array if array.dtype.kind in NUMBERS else None
