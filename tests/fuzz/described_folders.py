"""Fuzz of folders that a `dataset.yaml` describes: the description, and tables and arrays of every kind."""

import gzip
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import test_described
import yaml
from changes import odd_array, pick
from hdf5 import HDF5_KINDS, NEVER, odd_hdf5
from loaders import Specimen, attempt, bytes_changed, specimens
from matlab_files import matlab_5, matlab_changed
from numpy.random import Generator
from study_texts import TEXTS, doubled_key, line_changed
from study_texts import document_changed as values_changed
from text_files import text_changed
from verdicts import Target, Verdict

FILE = "dataset.yaml"
ARRAYS = "files: '{subject}.%s'\nfs: 100\nsignals: {emg: {key: signal, columns: 1-3}}\nlabel: {key: cls}\n"
PACKED = "files: '{subject}.txt.gz'\nfs: 100\nheader: false\nskip_lines: 2\nsignals: {emg: {columns: 1-2}}\n"
NUMPY = "files: '{subject}.npy'\nfs: 100\nsignals: {emg: {columns: 1-3}}\nlabel: {column: 4}\n"
GIANTS = (
    {"files": "{a}{b}{c}{d}{e}{f}{subject}.csv"}, {"files": "".join(f"{{f{i}}}" for i in range(150)) + "{subject}"},
    {"files": "{subject}(.*)*.csv"}, {"files": "{subject}" * 2}, {"files": "../{subject}.csv"}, {"files": "/{subject}"},
    {"files": "{subject}" + "x" * 10**6}, {"skip_lines": 10**12}, {"skip_lines": 10**9}, {"skip_lines": 29},
    {"separator": "(.*)*"}, {"separator": "(x+)+"}, {"separator": "\n"}, {"separator": '"'}, {"separator": " "},
    {"separator": r"\s+"}, {"separator": "["}, {"separator": "e1"}, {"separator": "."}, {"separator": "\0"},
    {"decimal": ","}, {"header": False}, {"fs": 1e-300}, {"fs": 1e300}, {"fs": 5e-324},
    {"signals": {"emg": {"columns": "1-99999"}}}, {"signals": {"emg": {"columns": 10**30}}},
    {"signals": {f"m{i}": {"columns": [1]} for i in range(2000)}}, {"signals": {"emg": {"columns": ["x" * 10**6]}}},
    {"signals": {"cls": {"columns": 1}}}, {"signals": {"../x": {"columns": 1}}}, {"notes": ["x" * 10**5] * 10},
    {"label": {"field": "subject"}}, {"label": {"column": 2}}, {"repetition": {"column": 2}}, {"time": {"column": 2}},
    {"time": {"column": 1, "unit": "us"}}, {"label": {"column": 1, "classes": {str(i): str(i) for i in range(20_000)}}},
)  # fmt: skip
"""Keys that may be written in place of a description's keys."""


def prepare(folder: Path) -> list[Specimen]:
    """Make tables (columns by name and by number), packed text, and arrays, each with its description."""
    (folder / "written").mkdir()
    frame = test_described.table(rows=40)
    numbered = frame.assign(gesture=np.repeat([0, 4, 2, -1], [4, 16, 16, 4]))[["t", "e1", "e2", "gesture"]]
    emg, label = np.random.default_rng(0).normal(size=(40, 4)), np.repeat([1.0, 2.0], 20)
    packed = gzip.compress(b"a device\nof 2020\n" + b"".join(b"%d;%d\n" % (i, i + 1) for i in range(40)), mtime=0)
    made = (
        ("A/fist_1.csv", test_described.BY_NAME, frame.to_csv(index=False).encode()),
        ("p07_day2.tsv", test_described.IN_A_COLUMN, numbered.to_csv(index=False, sep="\t").encode()),
        ("x.txt.gz", PACKED, packed),
        ("S1.npy", NUMPY, numpy_bytes(np.column_stack([emg[:, :3], label]))),
        ("S1.h5", ARRAYS % "h5", hdf5_bytes(emg, label, folder / "written" / "S1.h5")),
        ("S1.mat", ARRAYS % "mat", matlab_5({"signal": emg, "cls": label[:, None]}, True)),
    )
    fields = {"signal": emg, "cls": label}
    described_files = []
    for path, text, content in made:
        described = text.encode()
        described_files.append(specimens("folder", path, [content], folder, {FILE: described}, fields, tuple(fields)))
        described_files.append(specimens("folder", FILE, [described], folder, {path: content}))
    return described_files


def numpy_bytes(array: np.ndarray) -> bytes:
    """Return a `.npy` file."""
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def hdf5_bytes(signal: np.ndarray, label: np.ndarray, path: Path) -> bytes:
    """Return a file with two arrays."""
    with h5py.File(path, "w") as file:
        file["signal"], file["cls"] = signal, label
    return path.read_bytes()


def folder_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change a file according to its format."""
    change: Callable[[Specimen, Generator, Path], tuple[str, bool]] = {
        ".yaml": description_changed,
        ".npy": numpy_changed,
        ".h5": hdf5_changed,
        ".mat": matlab_changed,
        ".gz": packed_changed,
    }.get(path.suffix, text_changed)
    words, must_refuse = change(specimen, rng, path)
    if rng.random() < 0.05:
        (path.parent / ("a_" * 100 + pick(rng, (".csv", ".csvx", "x")))).write_bytes(b"1,2\n")
    return f"{path.name}: {words}", must_refuse


def description_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes, lines, keys or values of the description."""
    text, chance = specimen.files[0].decode(), rng.random()
    if chance < 0.2:
        return bytes_changed(specimen, rng, path)
    if chance < 0.25:
        path.write_text(pick(rng, TEXTS))
        return "another text", True
    if chance < 0.3:
        text, words = doubled_key(text.lstrip("\n"), rng)
    elif chance < 0.45:
        text, words = line_changed(text, rng)
    elif chance < 0.75:
        text, words = values_changed(text, rng)
    else:
        giant = pick(rng, GIANTS)
        text, words = yaml.safe_dump({**yaml.safe_load(text), **giant}, sort_keys=False), f"giant {str(giant)[:60]}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return words, False


def packed_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change the file as text; it keeps its name."""
    return text_changed(specimen, rng, path.with_suffix(""))


def numpy_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes, replace the array or its objects, or declare more than the file holds."""
    chance = rng.random()
    if chance < 0.45:
        return bytes_changed(specimen, rng, path)
    array = np.load(BytesIO(specimen.files[0]))
    if chance < 0.9:
        array, words = odd_array(array, rng)
        np.save(path, array)
        return words, False
    kind = pick(rng, ("objects", "giant", "records", "deep"))
    match kind:
        case "objects":
            np.save(path, np.full((40, 4), None), allow_pickle=True)
        case "records":
            np.save(path, np.zeros(40, [("a", "f8"), ("b", "f8")]))
        case _:
            shape = "(4000000000, 400)" if kind == "giant" else "(" + "(" * 5000 + "1" + ")" * 5000 + ", 4)"
            head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(12_000).encode() + b"\n"
            path.write_bytes(b"\x93NUMPY\x02\x00" + len(head).to_bytes(4, "little") + head + bytes(1280))
    return kind, True


def hdf5_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change bytes or arrays, or insert an unusual HDF5 feature."""
    chance = rng.random()
    if chance < 0.4:
        return bytes_changed(specimen, rng, path)
    key = pick(rng, sorted(specimen.fields))
    path.write_bytes(specimen.files[0])
    with h5py.File(path, "r+") as file:
        del file[key]
        if chance < 0.7:
            kind = pick(rng, HDF5_KINDS)
            odd_hdf5(file, key, specimen.fields[key].shape, kind, path)
            return f"{key}: {kind}", kind in NEVER
        array, words = odd_array(specimen.fields[key], rng)
        file[key] = array if getattr(array, "dtype", np.dtype("f8")).kind != "U" else array.astype("S")
    return f"{key}: {words}", False


def attempt_folder(made: list[Specimen], rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    return attempt(folder_changed, made, rng, folder)


TARGETS = (Target("folder", prepare, attempt_folder),)
