"""Fuzz of the loaders of other people's formats: MATLAB 5 and 7.3, comma- and tab-separated text."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import test_ninapro
import test_psl_myo
import test_uci_emg
from changes import NAMES, changed_bytes, odd_array, pick
from numpy.random import Generator
from scipy.io import savemat
from scipy.sparse import csr_matrix
from verdicts import Content, SilentlyWrong, Target, Verdict, digest, judge

from emg_lens.data import Recipe, Segment, TrialSet, load_dataset, preprocess, subjects

GIANT = 40 * 2**30
"""Bytes that a file declares, or unpacks to."""


@dataclass
class Specimen:
    """A sound file of one data set, and what is read from it."""

    dataset: str
    path: str
    files: list[bytes]
    content: Content
    notes: set[str]


# --- reading ----------------------------------------------------------------------------------------------


def read(dataset: str, root: Path) -> tuple[Content, set[str]]:
    """What a loader gives, made comparable; and its notes."""
    found: dict[str, Any] = {"subjects": subjects(dataset, root)}
    recordings = list(load_dataset(dataset, root))
    for i, r in enumerate(recordings):
        found |= {f"{i}.{k}": digest(v) for k, v in (("label", r.label), ("repetition", r.repetition))}
        found |= {f"{i}.subject": r.subject, f"{i}.fs": r.fs, f"{i}.classes": r.meta["class_names"]}
        for name, signal in r.signals.items():
            found[f"{i}.{name}"] = digest(signal.data)
            found[f"{i}.{name}.about"] = (signal.fs, signal.native_fs, signal.units, signal.ch_names)
            if not np.isfinite(signal.data).all() or not len(signal.data):
                raise SilentlyWrong(f"{name} is empty or holds values that are not finite")
    return found, {note for r in recordings for note in r.notes}


def cut(dataset: str, root: Path) -> tuple[Content, set[str]]:
    """What preprocessing and cutting make of it; nothing to compare."""
    recipe = Recipe(fs=25) if dataset in ("psl-myo", "uci-emg") else Recipe()
    TrialSet.from_recordings((preprocess(r, recipe) for r in load_dataset(dataset, root)), Segment(stop_s=0.1))
    return {}, set()


def attempt(
    change: Callable[[Specimen, Generator, Path], tuple[str, bool]], made: list[Specimen], rng: Generator, folder: Path
) -> Verdict:
    """One case of a loader."""
    specimen = pick(rng, made)
    path = folder / specimen.path
    path.parent.mkdir(parents=True, exist_ok=True)
    words, must_refuse = replaced(path, rng) if rng.random() < 0.03 else change(specimen, rng, path)
    expected = (specimen.content, specimen.notes)
    verdict = judge(
        partial(read, specimen.dataset, folder), expected, words, names=names_in(folder), must_refuse=must_refuse
    )
    if verdict.outcome in ("right", "noted", "changed"):
        after = judge(partial(cut, specimen.dataset, folder), ({}, set()), words)
        return verdict if after.outcome == "right" else after
    return verdict


def names_in(folder: Path) -> list[str]:
    """Of which an error must have one: the folder's and its files'."""
    return [str(folder), *(path.name for path in folder.rglob("*") if not path.is_dir())]


def bytes_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Random bytes changed."""
    content, words = changed_bytes(pick(rng, specimen.files), rng)
    path.write_bytes(content)
    return words, False


def replaced(path: Path, rng: Generator) -> tuple[str, bool]:
    """Something else in the file's place."""
    kind = pick(rng, ("empty", "text", "noise", "folder", "link to itself", "hdf5", "gzip", "zeros"))
    match kind:
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)
        case "hdf5":
            h5py.File(path, "w").close()
        case _:
            made = {"text": b"hello\n", "noise": rng.bytes(4000), "gzip": gzip.compress(b"x"), "zeros": bytes(9000)}
            path.write_bytes(made.get(kind, b""))
    return kind, True


def specimens(dataset: str, path: str, files: list[bytes], folder: Path) -> Specimen:
    """A specimen of these files, which all mean the same."""
    place = folder / dataset / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(files[0])
    content, notes = read(dataset, folder / dataset)
    cut(dataset, folder / dataset)
    return Specimen(dataset, path, files, content, notes)


# --- MATLAB -----------------------------------------------------------------------------------------------


def matlab_5(content: dict[str, Any], packed: bool) -> bytes:
    """A file of version 5."""
    file = BytesIO()
    savemat(file, content, do_compression=packed)
    return file.getvalue()


def matlab_73(content: dict[str, Any], path: Path) -> bytes:
    """A file of version 7.3."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, value in content.items():
            if not isinstance(value, str):
                file[key] = np.atleast_2d(value).T
    return path.read_bytes()


def prepare_matlab(dataset: str, path: str, content: dict[str, Any], folder: Path) -> list[Any]:
    """Specimens of three kinds, and the content that structured changes begin with."""
    folder = folder / dataset
    folder.mkdir(parents=True)
    files = [matlab_5(content, True), matlab_5(content, False), matlab_73(content, folder / "73.mat")]
    specimen = specimens(dataset, path, files, folder)
    specimen.fields = content  # pyright: ignore - what structured changes begin with
    return [specimen]


def matlab_changed(specimen: Any, rng: Generator, path: Path) -> tuple[str, bool]:
    """Bytes, variables, or the structure of a MATLAB file."""
    if rng.random() < 0.5:
        return bytes_changed(specimen, rng, path)
    content = dict(specimen.fields)
    key = pick(rng, sorted(key for key in content if key in READ or rng.random() < 0.3))
    if rng.random() < 0.3:
        return hostile_hdf5(content, key, rng, path)
    if rng.random() < 0.1:
        return hostile_matlab_5(key, np.asarray(content[key]), rng, path)
    content[key], words = odd_value(content[key], rng)
    if content[key] is None:
        del content[key]
    try:
        if rng.random() < 0.5:
            path.write_bytes(matlab_5(content, bool(rng.random() < 0.5)))
        else:
            path.write_bytes(matlab_73(content, path))
    except (TypeError, ValueError, OSError):  # no such thing in this version
        return bytes_changed(specimen, rng, path)
    return f"{key}: {words}", False


def odd_value(value: Any, rng: Generator) -> tuple[Any, str]:
    """A variable of another kind."""
    array = np.asarray(value)
    cell = np.empty(array.shape if array.ndim else (1, 1), object)
    cell.ravel()[:] = [np.array([[1.0]])] * cell.size
    others = {
        "removed": None,
        "cell array": cell,
        "struct": {"a": np.atleast_2d(array), "b": "x"},
        "struct array": np.array([(1, 2), (3, 4)], dtype=[("a", object), ("b", object)]),
        "char": "x" * 40,
        "chars": np.array(["ab", "cd"]),
        "sparse": csr_matrix(np.atleast_2d(array).astype(float)) if array.dtype.kind in "iuf" and array.ndim < 3 else 0,
        "scalar": 3.0,
        "scalar NaN": np.nan,
        "scalar infinite": np.inf,
        "nested cells": np.array([[cell, cell]], dtype=object)[:, :1],
    }
    if rng.random() < 0.4:
        name = pick(rng, sorted(others))
        return others[name], name
    return odd_array(array, rng)


def hostile_matlab_5(key: str, array: np.ndarray, rng: Generator, path: Path) -> tuple[str, bool]:
    """A version 5 file whose header declares, or whose compressed element unpacks to, a giant array."""
    kind = pick(rng, ("giant", "negative", "bomb", "many dimensions", "long name"))
    shape = {"giant": (2**30, 16), "negative": (-5, -3), "many dimensions": (2,) * 60}.get(kind, (GIANT // 128, 16))
    name = key.encode() * (100_000 if kind == "long name" else 1)
    size = 2**32 - 100 if kind in ("giant", "bomb") else 64
    inside = struct.pack("<IIII", 6, 8, 6, 0) + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    inside += struct.pack("<II", 9, size)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    whole = struct.pack("<II", 14, min(len(inside) + size, 2**32 - 1)) + inside
    if kind == "bomb":
        packer = zlib.compressobj(9)
        start = packer.compress(whole) + packer.flush(zlib.Z_FULL_FLUSH)
        block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
        packed = start + block * 300  # 5 GB of zeros
        whole = struct.pack("<II", 15, len(packed)) + packed
    path.write_bytes(header + whole + bytes(64))
    return f"{key}: {kind}", key in READ


def element(kind: int, data: bytes) -> bytes:
    """A data element of a version 5 file."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


READ = ("emg", "acc", "Force", "restimulus", "rerepetition")
"""Variables that are read of MATLAB files."""
NEVER = ("external link", "external storage", "virtual", "giant", "giant chunks", "bomb")
"""What nobody may read from."""
HDF5_KINDS = (
    "external link", "external storage", "virtual", "soft link", "loop", "giant", "giant chunks", "bomb", "compound",
    "text", "variable text", "references", "group", "null", "enum", "half", "big-endian", "ragged", "region",
    "opaque", "unknown filter", "bad link to self", "bitfield array",
)  # fmt: skip


def hostile_hdf5(content: dict[str, Any], key: str, rng: Generator, path: Path) -> tuple[str, bool]:
    """A version 7.3 file with something in one variable's place that HDF5 knows and nobody expects."""
    matlab_73(content, path)
    kind = pick(rng, HDF5_KINDS)
    with h5py.File(path, "r+") as file:
        shape = np.atleast_2d(content[key]).T.shape if not isinstance(content[key], str) else (3, 1)
        if key in file:
            del file[key]
        odd_hdf5(file, key, shape, kind, path)
    return f"{key}: {kind}", key in READ and kind in NEVER


def odd_hdf5(file: h5py.File, key: str, shape: tuple[int, ...], kind: str, path: Path) -> None:
    """Put something odd into an HDF5 file."""
    secret = path.with_name("secret.bin")
    n = int(np.prod(shape))
    match kind:
        case "external link":
            with h5py.File(path.with_name("other.h5"), "w") as other:
                other[key] = np.ones(shape)
            file[key] = h5py.ExternalLink("other.h5", key)
        case "external storage":
            secret.write_bytes(bytes(8 * n))
            file.create_dataset(key, shape, np.float64, external=[(str(secret), 0, 8 * n)])
        case "virtual":
            with h5py.File(path.with_name("other.h5"), "w") as other:
                other[key] = np.ones(shape)
            layout = h5py.VirtualLayout(shape, np.float64)
            layout[...] = h5py.VirtualSource(str(path.with_name("other.h5")), key, shape)
            file.create_virtual_dataset(key, layout)
        case "soft link":
            file[key] = h5py.SoftLink("/nowhere")
        case "loop":
            file[key] = h5py.SoftLink(f"/{key}")
        case "bad link to self":
            file[key] = file["/"]
        case "giant":
            file.create_dataset(key, (GIANT // 8 // max(shape[-1], 1), *shape[1:]), np.float64, chunks=True)
        case "giant chunks":
            file.create_dataset(
                key, (2**40,) * len(shape), np.float64, chunks=(1,) * len(shape), maxshape=(None,) * len(shape)
            )
        case "bomb":
            packed = file.create_dataset(key, (GIANT // 2**3,), np.float64, chunks=(2**24,), compression="gzip")
            packed.id.write_direct_chunk((0,), zlib.compress(bytes(2**27)))
        case "compound":
            file[key] = np.zeros(shape, [("real", "f8"), ("imag", "f8")])
        case "text":
            file[key] = np.full(shape, b"abc")
        case "variable text":
            file.create_dataset(key, shape, h5py.string_dtype())
        case "references":
            file.create_dataset(key, shape, h5py.ref_dtype)
        case "region":
            file.create_dataset(key, shape, h5py.regionref_dtype)
        case "group":
            file.create_group(key)["x"] = 1
        case "null":
            file[key] = h5py.Empty("f8")
        case "enum":
            file.create_dataset(key, shape, h5py.enum_dtype({"OFF": 0, "ON": 1}))
        case "half":
            file[key] = np.ones(shape, np.float16)
        case "big-endian":
            file[key] = np.ones(shape, ">f8")
        case "ragged":
            file.create_dataset(key, shape, h5py.vlen_dtype(np.float64))
        case "opaque":
            file.create_dataset(key, shape, np.dtype("V8"))
        case "unknown filter":
            made = file.create_dataset(
                key, shape, np.float64, chunks=shape if n else None, compression="gzip" if n else None
            )
            if n:
                made.id.write_direct_chunk((0,) * len(shape), b"not packed")
        case "bitfield array":
            file[key] = np.zeros(shape, np.dtype((np.int32, (2,))))


# --- text -------------------------------------------------------------------------------------------------


def text_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Bytes, lines or cells of a text file, which may be packed."""
    content = pick(rng, specimen.files)
    packed = content[:2] == b"\x1f\x8b"
    if packed:
        path = path.rename(path.with_name(path.name + ".gz")) if path.exists() else path.with_name(path.name + ".gz")
    draw = rng.random()
    if draw < 0.4:
        content, words = changed_bytes(content, rng)
        path.write_bytes(content)
        return words, False
    if draw < 0.5:
        return renamed(content, rng, path)
    if packed and draw < 0.53:
        path.write_bytes(gzip.compress(b"time\t" * 2**20) * 400)  # 2 GB
        return "bomb", True
    text = gzip.decompress(content) if packed else content
    if draw < 0.75:
        text, words = changed_bytes(text, rng)
    else:
        text, words = odd_cells(text, rng)
    path.write_bytes(gzip.compress(text) if packed else text)
    return words, False


CELLS = (
    "", "NA", "nan", "inf", "-inf", "1e300", "1e30", "-1", "0", "1.5", "x", "9" * 400, "0x10", "1_000", "١", "²",
    " ", "true", "None", "2018-13-45T99:99:99", "NaT", "'", "\x00", "é", "1,5", "9" * 5000, "2**3", "99999",
    "2147483648",
)  # fmt: skip


def odd_cells(text: bytes, rng: Generator) -> tuple[bytes, str]:
    """A table with other cells, rows or columns."""
    lines = text.split(b"\n")
    separator = b"\t" if b"\t" in lines[0] else b","
    kind = pick(
        rng,
        (
            "cell",
            "cell",
            "cell",
            "column",
            "drop",
            "double",
            "shuffle",
            "order",
            "wide",
            "narrow",
            "header",
            "quote",
            "encoding",
            "one row",
            "endings",
            "giant line",
        ),
    )
    row = int(rng.integers(len(lines)))
    cells = lines[row].split(separator)
    column = int(rng.integers(len(cells)))
    value = pick(rng, CELLS)
    new = value.encode() if separator == b"\t" else b'"' + value.encode() + b'"'
    match kind:
        case "cell":
            cells[column] = new
            lines[row] = separator.join(cells)
        case "column":
            lines = [
                separator.join([new if i == column else c for i, c in enumerate(line.split(separator))])
                for line in lines
            ]
        case "drop":
            del lines[row : row + int(2 ** rng.uniform(0, 9))]
        case "double":
            lines[row:row] = lines[row : row + int(2 ** rng.uniform(0, 9))]
        case "shuffle":
            lines = [lines[i] for i in rng.permutation(len(lines))]
        case "order":
            lines = lines[::-1]
        case "wide":
            lines[row] += separator + new
        case "narrow":
            lines[row] = separator.join(cells[:-1])
        case "header":
            lines = lines[1:]
        case "quote":
            lines[row] = b'"' + lines[row]
        case "encoding":
            return text.decode("latin-1").encode("utf-16"), kind
        case "one row":
            lines = lines[:2]
        case "endings":
            lines = [line.rstrip(b"\r") + b"\r" for line in lines]
        case "giant line":
            lines[row] = lines[row] * 20_000
    return b"\n".join(lines), f"{kind} in line {row + 1}, {value[:20]!r}"


def renamed(content: bytes, rng: Generator, path: Path) -> tuple[str, bool]:
    """The file, or its folder, under another name, beside the right one."""
    name = pick(
        rng, [n for n in NAMES if n and "\0" not in n and "\n" not in n and len(n) < 200 and n not in (".", "..")]
    )
    name = name.replace("/", "_")
    folder = path.parent.with_name(pick(rng, (name, "person" + name, "person²", "0²", "person007", "1" * 200)))
    folder.mkdir(exist_ok=True)
    (folder / pick(rng, (path.name, name + path.name))).write_bytes(content)
    if rng.random() < 0.5:
        path.write_bytes(content)
    return f"beside it {os.fsdecode(folder.name)[:40]!r}", False


# --- targets ----------------------------------------------------------------------------------------------


def prepare_ninapro(folder: Path) -> list[Any]:
    """NinaPro DB5."""
    return prepare_matlab("ninapro-db5", "S1_E1_A1.mat", test_ninapro.content(rows=600), folder)


def prepare_myo_force(folder: Path) -> list[Any]:
    """Grasp force."""
    random = np.random.default_rng(0)
    content = {
        "emg": random.integers(-128, 128, (300, 8)).astype(np.int16),
        "Force": random.integers(0, 1024, (300, 1)).astype(np.uint16),
    }
    return prepare_matlab("myo-force", "recording_force_v10.mat", content, folder)


def prepare_psl(folder: Path) -> list[Any]:
    """Polish Sign Language."""
    name = "[1]2018-07-04 17:23:13337433_4.csv"
    test_psl_myo.write(folder / "psl", name, seconds=0.5)
    return [specimens("psl-myo", f"person1/{name}", [(folder / "psl" / name).read_bytes()], folder)]


def prepare_uci(folder: Path) -> list[Any]:
    """UCI gestures, plain and packed."""
    name = "1_raw_data_13-12_22.03.16.txt"
    test_uci_emg.write(folder / "uci", name, run=40, step_ms=5)
    text = (folder / "uci" / name).read_bytes()
    return [specimens("uci-emg", f"01/{name}", [text, gzip.compress(text)], folder)]


TARGETS = (
    Target("ninapro-db5", prepare_ninapro, partial(attempt, matlab_changed)),
    Target("myo-force", prepare_myo_force, partial(attempt, matlab_changed)),
    Target("psl-myo", prepare_psl, partial(attempt, text_changed)),
    Target("uci-emg", prepare_uci, partial(attempt, text_changed)),
)
