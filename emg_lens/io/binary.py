"""What is in MATLAB, HDF5 and NumPy files: readers for `emg_lens.io.subprocess_reader`, which runs them in a process of its own."""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emg_lens.memory import free_memory

MOST_COMPRESSED = 1100
"""deflate makes 1 byte of 1032 at most; what declares more than that is not in the file."""
MOST_OF_A_PART = 256 * 10**6
"""Bytes of a chunk of what is read piece by piece: all of it is unpacked for one value."""


def matlab_variables(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The variables of a MATLAB file that it has: version 5 by scipy; 7.3 by h5py, on axes in the file's order."""
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        yield "turned", True
        with h5py.File(path) as file:
            for key in keys:
                if key in file:
                    yield key, stored(file, key)
        return
    yield "turned", False
    for key in keys:
        found = loadmat(path, variable_names=[key])
        if not isinstance(found.get(key, np.empty(0)), np.ndarray):
            raise ValueError(f"{key} holds a {type(found[key]).__name__}, expected an array of numbers")
        if key in found:
            yield key, found.pop(key)


def numpy_array(path: Path) -> Iterator[tuple[str, Any]]:
    """The array of a `.npy` file, by no name."""
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError(f"it holds a {type(found).__name__}, expected one array")
    yield "", found


def hdf5_parts(path: Path, arrays: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Root attributes as `attributes`, and those data sets of numbers and of texts that the file has."""
    with h5py.File(path) as file:
        yield "attributes", {name: getattr(value, "item", lambda v=value: v)() for name, value in file.attrs.items()}
        for name in texts:
            if name in file:
                found = stored(file, name)
                if h5py.check_string_dtype(found.dtype) is None:
                    raise ValueError(f"{name} holds {found.dtype}, expected text")
                yield name, found.asstr()[()].tolist()  # pyright: ignore[reportAttributeAccessIssue]
        for name in arrays:
            if name in file:
                yield name, stored(file, name)


def hdf5_shapes(path: Path, names: Sequence[str], texts: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Single root attributes, the names of all `members`, texts, and of those data sets that the file has, `shapes`.

    Values stay where they are, so that they may be more than fits into memory.
    """
    with h5py.File(path) as file:
        single = {name: value for name, value in file.attrs.items() if isinstance(value, str) or np.ndim(value) == 0}
        plain = {name: getattr(value, "item", lambda v=value: v)() for name, value in single.items()}
        yield "attributes", {name: value for name, value in plain.items() if isinstance(value, str | int | float)}
        yield "members", sorted(file)
    yield from (part for part in hdf5_parts(path, (), texts) if part[0] in texts)
    with h5py.File(path) as file:
        found = {name: stored(file, name, read=False) for name in names if name in file}
        yield "shapes", {name: [part.dtype.str, list(part.shape)] for name, part in found.items()}


def hdf5_rows(path: Path, names: Sequence[str], first: int | None, last: int | None) -> Iterator[tuple[str, Any]]:
    """Of those data sets that the file has, the entries from `first` to `last` of the last axis: rows, in MATLAB."""
    with h5py.File(path) as file:
        for name in names:
            if name in file:
                yield name, stored(file, name)[..., first:last]


def hdf5_fields(path: Path, name: str, fields: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Some fields of a data set of records, `group/name`."""
    with h5py.File(path) as file:
        group, _, last = name.rpartition("/")
        if group and not (group in file and isinstance(file.get(group, getlink=True), h5py.HardLink)):
            raise ValueError(f"it has no {name}")
        found = stored(file[group] if group else file, last)
        for field in fields:
            if field not in (found.dtype.names or ()):
                raise ValueError(f"{name} has no field {field!r}; it has {', '.join(found.dtype.names or ['none'])}")
            yield field, found.fields(field)[()]


def stored(file: h5py.Group, name: str, read: bool = True) -> h5py.Dataset:
    """A data set whose values are in this file, all of them; where they are to be `read`, they must fit into memory.

    Raises:
        ValueError: A group, a link to elsewhere, values that lie in other files, more than the file can hold, or, where
            they are read piece by piece, in pieces that are too large.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to another place; expected the values themselves")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name} is a group (a structure), expected an array of numbers")
    if found.external or found.is_virtual:
        raise ValueError(f"the values of {name} lie in other files; expected them in this one")
    declared, held = found.size * found.dtype.itemsize, found.id.get_storage_size()
    if declared > (held if found.chunks is None else MOST_COMPRESSED * held):
        raise ValueError(f"{name} declares {declared / 1e6:.1f} MB, and the file holds {held / 1e6:.1f} MB of it")
    if not read and found.chunks is not None and prod(found.chunks) * found.dtype.itemsize > MOST_OF_A_PART:
        part = prod(found.chunks) * found.dtype.itemsize
        raise ValueError(
            f"{name} is stored in parts of {part / 1e6:.0f} MB, each of which must be read whole; write it in smaller"
            f" chunks, of {MOST_OF_A_PART / 1e6:.0f} MB at most"
        )
    if read and declared > free_memory():
        raise ValueError(f"{name} needs {declared / 1e9:.1f} GB of memory, which are not free")
    return found
