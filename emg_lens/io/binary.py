"""Readers of MATLAB and HDF5 files. `emg_lens.io.subprocess_reader` runs them in a separate process."""

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emg_lens.memory import free_memory

MOST_COMPRESSION = 1100
"""deflate compresses by a factor of 1032 at most. A file cannot hold an array that declares more than that."""
MOST_CHUNK_BYTES = 256 * 10**6
"""Largest chunk of an array that is read in parts: HDF5 unpacks a whole chunk to read one value."""


def matlab_variables(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Read the variables in `keys` that a MATLAB file has.

    scipy reads version 5. h5py reads version 7.3, in which the axes have the reverse order (`transposed`).
    """
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        yield "transposed", True
        with h5py.File(path) as file:
            for key in keys:
                if key in file:
                    yield key, stored_dataset(file, key)
        return
    yield "transposed", False
    for key in keys:
        variables = loadmat(path, variable_names=[key])
        if not isinstance(variables.get(key, np.empty(0)), np.ndarray):
            raise ValueError(f"{key} is a {type(variables[key]).__name__}, expected an array of numbers")
        if key in variables:
            yield key, variables.pop(key)


def hdf5_parts(
    path: Path, arrays: Sequence[str] = (), texts: Sequence[str] = (), shapes: Sequence[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Read scalar root attributes (`attributes`), the names of all `members`, and those data sets that the file has.

    Of those in `shapes`, only data type and shape are read, so they may be larger than the memory.
    """
    with h5py.File(path) as file:
        plain = {
            name: getattr(value, "item", lambda v=value: v)()
            for name, value in file.attrs.items()
            if np.ndim(value) == 0
        }
        yield "attributes", {name: value for name, value in plain.items() if isinstance(value, str | int | float)}
        yield "members", sorted(file)
        datasets = {name: stored_dataset(file, name, read=False) for name in shapes if name in file}
        yield "shapes", {name: [one.dtype.str, list(one.shape)] for name, one in datasets.items()}
        for name in texts:
            if name in file:
                dataset = stored_dataset(file, name)
                if h5py.check_string_dtype(dataset.dtype) is None:
                    raise ValueError(f"{name} has the type {dataset.dtype}, expected text")
                yield name, dataset.asstr()[()].tolist()  # pyright: ignore[reportAttributeAccessIssue]
        for name in arrays:
            if name in file:
                yield name, stored_dataset(file, name)


def hdf5_rows(path: Path, names: Sequence[str], first: int | None, last: int | None) -> Iterator[tuple[str, Any]]:
    """Read the entries from `first` to `last` on the last axis of those data sets that the file has (MATLAB's rows)."""
    with h5py.File(path) as file:
        for name in names:
            if name in file:
                yield name, stored_dataset(file, name)[..., first:last]


def hdf5_fields(path: Path, name: str, fields: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Read some fields of `group/name`, a data set of records."""
    with h5py.File(path) as file:
        group, _, last = name.rpartition("/")
        if group and not (group in file and isinstance(file.get(group, getlink=True), h5py.HardLink)):
            raise ValueError(f"it has no {name}")
        dataset = stored_dataset(file[group] if group else file, last)
        known = dataset.dtype.names or ()
        for field in fields:
            if field not in known:
                raise ValueError(f"{name} has no field {field!r}; it has {', '.join(known or ['none'])}")
            yield field, dataset.fields(field)[()]


def stored_dataset(file: h5py.Group, name: str, read: bool = True) -> h5py.Dataset:
    """Return a data set after checking that all its values are in this file.

    With `read`, the values will be read at once, so they must fit into memory; without it, chunk by chunk.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link to another place; expected the values themselves")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} is a group (a structure), expected an array of numbers")
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the values of {name} are in other files; expected them in this one")
    declared, held = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if declared > (held if dataset.chunks is None else MOST_COMPRESSION * held):
        raise ValueError(f"{name} declares {declared / 1e6:.1f} MB, but the file holds {held / 1e6:.1f} MB of it")
    needed = prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks or (), strict=False))
    if dataset.chunks and dataset.id.get_num_chunks() < needed:  # they would be read as zeros
        raise ValueError(f"{needed - dataset.id.get_num_chunks()} of the {needed} chunks of {name} were never written")
    chunk_bytes = prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    if not read and chunk_bytes > MOST_CHUNK_BYTES:
        raise ValueError(
            f"{name} is stored in chunks of {chunk_bytes / 1e6:.0f} MB;"
            f" write it with chunks of at most {MOST_CHUNK_BYTES / 1e6:.0f} MB"
        )
    if read and declared > free_memory():
        raise ValueError(f"{name} needs {declared / 1e9:.1f} GB of memory, more than is free")
    return dataset
