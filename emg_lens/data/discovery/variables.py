"""What the variables of a MATLAB, HDF5, NumPy, JSON or EDF file hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.data.discovery.columns import find_columns, rate_of_times
from emg_lens.data.discovery.file_content import FileContent, FoundSignal, few_values
from emg_lens.data.discovery.words import PREFERRED, role_of, sensor_of
from emg_lens.data.files import read_parts
from emg_lens.io.array_files import MNE_SUFFIXES, READERS

SHORTEST = 20
"""Fewest samples of a signal."""
UNCLEAR = 4
"""Less than this many times more samples than channels: which axis is time is an assumption."""


@dataclass(frozen=True)
class _Array:
    """A variable that may be a signal: its axes, and its (first) trial as `[time, channel]`."""

    key: str
    axes: tuple[str, ...]
    first: np.ndarray
    n_trials: int

    @property
    def sensor(self) -> str | None:
        return sensor_of(self.key)


def array_content(path: Path, default: str | None) -> FileContent:
    """Look at a file of arrays; `default` is the modality of arrays whose names say nothing."""
    kind = path.suffix.lower()
    variables = {k: v for k, v in read_parts(READERS[kind], path, f"a {kind} file", keys=None).items() if v is not None}
    vectors = {key: vector for key, value in variables.items() if (vector := _vector(value)) is not None}
    arrays = [_array(key, value, vectors) for key, value in variables.items() if key not in vectors]
    arrays = [one for one in arrays if one is not None and len(one.first) >= SHORTEST]
    one_d = {key: v for key, v in vectors.items() if len(v) > 1 and v.dtype.kind in "biuf" and not _role(key)}
    arrays += [
        _Array(key, ("time",), v[:, None], 1) for key, v in one_d.items() if sensor_of(key) and len(v) >= SHORTEST
    ]
    if not arrays and one_d:
        arrays = [_Array(key, ("time",), v[:, None], 1) for key, v in one_d.items() if len(v) >= SHORTEST]
    main = max(arrays, key=lambda one: (one.sensor == "emg", one.first.size * one.n_trials), default=None)
    if main is None:
        return FileContent()
    if kind in MNE_SUFFIXES:
        variables["ch_types"] = _types_beside(path, variables["ch_names"]) or variables["ch_types"]
        return _channels_content(main, variables, vectors)
    return _content(arrays, main, vectors, variables, default)


def _content(
    arrays: list[_Array],
    main: _Array,
    vectors: Mapping[str, np.ndarray],
    variables: Mapping[str, Any],
    default: str | None,
) -> FileContent:
    """The signals among the arrays, one for each modality, and the variables with labels."""
    best: dict[str, _Array] = {}
    named = [one for one in arrays if one.sensor and len(one.first) * SHORTEST >= len(main.first)]
    for one in sorted(named, key=lambda one: (one.first.shape[1] == 1 and one.sensor == "emg", len(one.key))):
        best.setdefault(one.sensor or "", one)
    chosen = [one for one in arrays if one in best.values()] or [main]
    by_role = _roles(vectors, main)
    content = FileContent(
        sources={role: {"key": key} for role, key in by_role.items()},
    )
    rates = _rates(vectors, main)
    for one in chosen:
        fs, source = rates.get(one.sensor or "", rates.get("", (None, "")))
        if fs is not None and one is not main and one.sensor not in rates:
            fs, source = fs * len(one.first) / len(main.first), f"{source}, and the number of samples"
        _add_signals(content, one, (fs, source), default)
    others = {key: role for key in vectors if (role := _role(key)) in by_role and key != by_role[role]}
    for key, role in others.items():
        same = len(vectors[key]) == len(vectors[by_role[role]])  # otherwise its name means something else
        content.unused.append(f"{key} ({by_role[role]} is used instead)" if same else key)
    used = {*by_role.values(), *others, *(one.key for one in chosen)}
    content.unused.extend(key for key in variables if key not in used and np.size(vectors.get(key, [0, 0])) > 1)
    return content


def _add_signals(content: FileContent, one: _Array, rate: tuple[float | None, str], default: str | None) -> None:
    """Add an array as a signal; an array whose name says nothing may also have columns of times and labels."""
    what, (n_time, n_channels) = one.key or "the array", one.first.shape
    place: dict[str, Any] = {"key": one.key} if one.key else {}
    if one.axes != ("time", "channel"):
        place["axes"] = [*one.axes]
    if n_channels > 1 and n_time < UNCLEAR * n_channels:
        content.notes.append(f"{what} has {n_time} samples of {n_channels} channels: is it the other way round?")
    if one.sensor or one.n_trials > 1 or one.axes == ("time",):
        sure = bool(one.sensor or default)
        content.signals.append(FoundSignal(one.sensor or default or "emg", sure, place, one.first, *rate))
        return
    groups: dict[str, list[int]] = {}
    for column in find_columns([*one.first.T], [""] * n_channels, default):
        if column.role == "signal":
            groups.setdefault(column.sensor, []).append(column.number)
        elif column.role == "label" and "label" not in content.sources:
            content.sources["label"] = {"column": column.number, **({"key": one.key} if one.key else {})}
            content.notes.append(f"column {column.number} of {what} is the label: few whole numbers in long runs")
        elif column.role == "few values":
            content.odd.append(few_values(column, f"column {column.number} of {what}"))
        else:
            rate = (column.rate[0], f"column {column.number}") if column.rate is not None else rate
            content.unused.append(f"column {column.number} of {what}")
    for sensor, numbers in groups.items():
        columns = {"columns": numbers} if len(numbers) < n_channels else {}
        data = one.first[:, [number - 1 for number in numbers]]
        content.signals.append(FoundSignal(sensor, default is not None, {**place, **columns}, data, *rate))


def _channels_content(main: _Array, variables: Mapping[str, Any], vectors: Mapping[str, np.ndarray]) -> FileContent:
    """A file whose channels have names, as those that MNE reads."""
    names, types = variables["ch_names"], variables.get("ch_types", [""] * len(variables["ch_names"]))
    groups: dict[str, list[int]] = {}
    for i, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind not in ("stim", "misc") or sensor_of(name):
            groups.setdefault(sensor_of(name) or sensor_of(kind if kind != "eeg" else "") or "emg", []).append(i)
    fs = float(vectors["fs"][0]) if "fs" in vectors else None
    signals = [
        FoundSignal(
            sensor,
            any(sensor_of(names[i]) or types[i] == sensor for i in some),
            {"key": main.key, "columns": [i + 1 for i in some], "ch_names": [names[i] for i in some]},
            main.first[:, some],
            fs,
            "the file",
        )
        for sensor, some in groups.items()
    ]
    marks = {*variables.get("annotation", [])} - {""}
    sources = {"label": {"key": "annotation"}} if marks else {}
    unused = [name for i, name in enumerate(names) if not any(i in some for some in groups.values())]
    return FileContent(signals, sources, unused=unused)


def _types_beside(path: Path, names: Sequence[str]) -> list[str]:
    """The types of the channels, if a BIDS table says them."""
    table = path.with_name(f"{path.stem.rpartition('_')[0]}_channels.tsv")
    if not table.is_file():
        return []
    rows = pd.read_csv(table, sep="\t", dtype=str)
    if not {"name", "type"} <= {*rows.columns}:
        return []
    types = dict(zip(rows["name"], rows["type"].str.lower(), strict=True))
    return [types.get(name, "") for name in names]


def _vector(value: Any) -> np.ndarray | None:
    """A variable with one value per row, per trial or per file."""
    if isinstance(value, list):
        return np.array(value) if all(isinstance(one, str) for one in value) else None
    flat = np.asarray(value)
    return flat.ravel() if flat.size and max(flat.shape, default=1) == flat.size else None


def _array(key: str, value: Any, vectors: Mapping[str, np.ndarray]) -> _Array | None:
    """Find out which axis is what: time has the most samples, trials are as many as labels, or come first."""
    parts = value if isinstance(value, list) else None
    if parts is not None:
        if not parts or any(part.ndim > 2 for part in parts):
            return None
        first = np.atleast_2d(parts[0])
        first = first.T if first.shape[0] == 1 and parts[0].ndim < 2 else first
        inner = ("time", "channel") if first.shape[0] >= first.shape[1] else ("channel", "time")
        return _Array(key, ("trial", *inner), first if inner[0] == "time" else first.T, len(parts))
    array = np.asarray(value)
    if array.ndim == 2:
        swapped = array.shape[0] < array.shape[1]
        return _Array(key, ("channel", "time") if swapped else ("time", "channel"), array.T if swapped else array, 1)
    if array.ndim != 3:
        return None
    lengths = {len(vector) for name, vector in vectors.items() if _role(name) == "label" and len(vector) > 1}
    trial = next((axis for axis in range(3) if array.shape[axis] in lengths), 0)
    a, b = (axis for axis in range(3) if axis != trial)
    axes = ["", "", ""]
    axes[trial] = "trial"
    time, channel = (a, b) if array.shape[a] >= array.shape[b] else (b, a)
    axes[time], axes[channel] = "time", "channel"
    first = np.take(array, 0, axis=trial)
    return _Array(key, tuple(axes), first if time < channel else first.T, array.shape[trial])


def _role(key: str) -> str | None:
    return role_of(key.rpartition("/")[2].rpartition(".")[2])


def _roles(vectors: Mapping[str, np.ndarray], main: _Array) -> dict[str, str]:
    """The variable of labels, repetition numbers and subjects."""
    sizes = {1, len(main.first)} if main.n_trials == 1 else {1, main.n_trials}
    found: dict[str, str] = {}
    for key, vector in sorted(
        vectors.items(), key=lambda item: (item[0].lower() not in PREFERRED, -len(item[1]), len(item[0]))
    ):
        role = _role(key)
        if role == "label" and len(vector) == 1 and vector.dtype.kind == "f" and vector[0] != round(vector[0]):
            continue
        if role in ("label", "repetition", "subject") and len(vector) in sizes:
            found.setdefault(role, key)
    return found


def _rates(vectors: Mapping[str, np.ndarray], main: _Array) -> dict[str, tuple[float, str]]:
    """Sampling rates: of a modality, or (under "") of the main signal, from a number or a vector of times."""
    rates: dict[str, tuple[float, str]] = {}
    for key, vector in vectors.items():
        if vector.dtype.kind not in "biuf":
            continue
        if len(vector) == 1 and _role(key) == "rate" and vector[0] > 1:
            rates[sensor_of(key) or ""] = (float(vector[0]), f"variable {key}")
        elif len(vector) == len(main.first) and _role(key) == "time" and (rate := rate_of_times(vector, key)):
            rates.setdefault("", (rate[0], f"times in {key}"))
    return rates
