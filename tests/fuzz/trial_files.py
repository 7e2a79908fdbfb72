"""Fuzz of a user's own trials, one HDF5 file."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from changes import NAMES, as_json, changed_bytes, changed_document, odd_array, pick, with_new_checksum
from hdf5 import HDF5_KINDS, NEVER, odd_hdf5
from loaders import names_in, replaced
from numpy.random import Generator
from verdicts import Content, SilentlyWrong, Target, Verdict, digest, judge

from emg_lens.data import TrialSet, load_trials, subjects
from emg_lens.studies.fits.fit_unit import fits_of
from emg_lens.studies.spec.study_spec import StudySpec

FILE = "trials.h5"
SAFE = re.compile(r"[\w+-][\w+.-]{0,200}", re.ASCII)
STUDY = StudySpec.parse(
    "{name: own, title: Own, cohort: {dataset: trials}, split: {by: repetition, train: [1], test: [2]}}"
)


def specimen(folder: Path) -> tuple[bytes, Content, set[str]]:
    """A valid file, its content, and its notes."""
    random, n = np.random.default_rng(0), 24
    trials = TrialSet.from_arrays(
        x=random.normal(size=(n, 5, 20)),
        y=np.tile(["fist", "rest", "point"], n // 3),
        subject=np.repeat(["A", "B"], n // 2),
        repetition=np.tile(np.repeat([1, 2], n // 4), 2),
        channels={"emg": 3, "acc": 2},
        fs=50.0,
        notes=["made up"],
        targets=random.normal(size=(n, 2)),
        target_names=["force (N)", "angle (deg)"],
    )
    trials.save(folder / FILE)
    return (folder / FILE).read_bytes(), *read(folder)


def read(folder: Path) -> tuple[Content, set[str]]:
    """Return the content in comparable form, and the notes."""
    names = subjects("trials", folder / FILE)
    trials = load_trials("trials", folder / FILE)
    if sorted(names) != sorted(set(trials.subject.tolist())):
        raise SilentlyWrong(f"subjects are {names} and {set(trials.subject.tolist())}")
    if len({name.casefold() for name in names}) == len(names):  # others are refused, by name
        check_folders([fit.folder_name for fit in fits_of(STUDY, [names])])
    if not np.isfinite(trials.x).all():
        raise SilentlyWrong("x is not finite")
    fields = (
        "x",
        "y",
        "subject",
        "repetition",
        "repetition_id",
        "channels",
        "fs",
        "classes",
        "targets",
        "target_names",
    )
    return {name: digest(getattr(trials, name)) for name in fields}, set(trials.notes)


def check_folders(names: list[str]) -> None:
    """Check that folder names are safe, and differ."""
    odd = [name for name in names if not SAFE.fullmatch(name)]
    if odd or len({name.casefold() for name in names}) < len(names):
        raise SilentlyWrong(f"folders are called {odd or names}")


def attempt(made: tuple[bytes, Content, set[str]], rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    content, expected, notes = made
    path, chance, must_refuse = folder / FILE, rng.random(), False
    if chance < 0.03:
        words, must_refuse = replaced(path, rng)
    elif chance < 0.55:
        content, words = changed_bytes(content, rng)
        path.write_bytes(content)
    else:
        path.write_bytes(content)
        words = structure_changed(path, rng)
    again = not must_refuse and rng.random() < 0.5 and with_new_checksum(path)
    return judge(
        partial(read, folder),
        (expected, notes),
        words + ", with a new checksum" * again,
        names=names_in(folder),
        own=not again,
        must_refuse=must_refuse or words.rpartition(": ")[2] in NEVER,
    )


def structure_changed(path: Path, rng: Generator) -> str:
    """Change an array or an attribute; a checksum is not changed."""
    with h5py.File(path, "r+") as file:
        if rng.random() < 0.45:
            return attribute_changed(file, rng)
        key = pick(rng, sorted(file))
        old = file[key][()]
        if rng.random() < 0.08:
            del file[key]
            return f"{key}: removed"
        if rng.random() < 0.4:
            kind = pick(rng, HDF5_KINDS)
            del file[key]
            odd_hdf5(file, key, old.shape or (1,), kind, path)
            return f"{key}: {kind}"
        if old.dtype.kind == "O":
            new = old.copy()
            new[int(rng.integers(len(new))) if rng.random() < 0.5 else slice(None)] = (
                name := pick(rng, NAMES)
            ).replace("\0", "")
            words = f"name {name[:20]!r}"
            if rng.random() < 0.1:
                new, words = new[:-1], "a name less"
        else:
            new, words = odd_array(old, rng)
        del file[key]
        if new.dtype.kind == "O":
            file.create_dataset(key, data=new, dtype=h5py.string_dtype())
        else:
            file[key] = new.astype("S") if new.dtype.kind == "U" else new
        return f"{key}: {words}"


def attribute_changed(file: h5py.File, rng: Generator) -> str:
    """Remove or change one attribute."""
    key = pick(rng, sorted(file.attrs))
    old: Any = file.attrs[key]
    chance = rng.random()
    if chance < 0.15:
        del file.attrs[key]
        return f"attribute {key}: removed"
    if isinstance(old, str) and chance < 0.7 and old[:1] in "[{":
        document, words = changed_document(json.loads(old), rng)
        text = as_json(document, rng).replace("\0", "")
        file.attrs[key] = text if len(text) < 60_000 else "[" * 60_000
        return f"attribute {key}: {words}"
    others = (
        "", "x", "NA", b"\xff\xfe", 0, -1, 1e300, np.nan, np.inf, np.arange(3), h5py.Empty("f8"), True, 10**15, "{",
        "null", "[]",
    )  # fmt: skip
    file.attrs[key] = value = pick(rng, others)
    return f"attribute {key}: {value!r}"


TARGETS = (Target("trials", specimen, attempt),)
