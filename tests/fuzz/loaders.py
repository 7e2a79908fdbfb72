"""Fuzz of a loader: load a changed file, filter it, and cut trials."""

import gzip
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from changes import changed_bytes, pick
from numpy.random import Generator
from verdicts import Content, SilentlyWrong, Verdict, digest, judge

from emg_lens.data import Recipe, Segment, TrialSet, load_dataset, preprocess, subjects


@dataclass
class Specimen:
    """A valid file of one data set, the other files of its folder, and its content.

    Structured changes begin with `fields`, the variables that it holds; `read` are those that a loader needs.
    """

    dataset: str
    path: str
    files: list[bytes]
    content: Content
    notes: set[str]
    others: Mapping[str, bytes]
    fields: Mapping[str, Any]
    read: Collection[str]


def specimens(
    dataset: str,
    path: str,
    files: list[bytes],
    folder: Path,
    others: Mapping[str, bytes] | None = None,
    fields: Mapping[str, Any] | None = None,
    read: Collection[str] = (),
) -> Specimen:
    """Make a specimen of these files, which all have the same content."""
    place = folder / f"{dataset} {path.replace('/', ' ')}"
    for name, content in {**(others or {}), path: files[0]}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    content, notes = loaded(dataset, place)
    cut(dataset, place)
    return Specimen(dataset, path, files, content, notes, others or {}, fields or {}, read)


def loaded(dataset: str, root: Path) -> tuple[Content, set[str]]:
    """Return the output of a loader in comparable form, and its notes."""
    content: dict[str, Any] = {"subjects": subjects(dataset, root)}
    recordings = list(load_dataset(dataset, root))
    for i, r in enumerate(recordings):
        content |= {f"{i}.{k}": digest(v) for k, v in (("label", r.label), ("repetition", r.repetition))}
        content |= {f"{i}.subject": r.subject, f"{i}.fs": r.fs, f"{i}.classes": r.meta["class_names"]}
        for name, signal in r.signals.items():
            content[f"{i}.{name}"] = digest(signal.data)
            content[f"{i}.{name}.about"] = (signal.fs, signal.native_fs, signal.units, signal.ch_names)
            if not np.isfinite(signal.data).all() or not len(signal.data):
                raise SilentlyWrong(f"{name} is empty or holds values that are not finite")
    return content, {note for r in recordings for note in r.notes}


def cut(dataset: str, root: Path) -> tuple[Content, set[str]]:
    """Preprocess the recordings and cut trials; return nothing to compare."""
    recipe = Recipe(fs=25) if dataset in ("psl-myo", "uci-emg") else Recipe()
    TrialSet.from_recordings((preprocess(r, recipe) for r in load_dataset(dataset, root)), Segment(stop_s=0.1))
    return {}, set()


def attempt(
    change: Callable[[Specimen, Generator, Path], tuple[str, bool]], made: list[Specimen], rng: Generator, folder: Path
) -> Verdict:
    """Run one case of a loader."""
    specimen = pick(rng, made)
    path = folder / specimen.path
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, content in specimen.others.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    words, must_refuse = replaced(path, rng) if rng.random() < 0.03 else change(specimen, rng, path)
    expected = (specimen.content, specimen.notes)
    verdict = judge(
        partial(loaded, specimen.dataset, folder), expected, words, names=names_in(folder), must_refuse=must_refuse
    )
    if verdict.outcome in ("right", "noted", "changed"):
        after = judge(partial(cut, specimen.dataset, folder), ({}, set()), words)
        return verdict if after.outcome == "right" else after
    return verdict


def names_in(folder: Path) -> list[str]:
    """Return names of the folder and its files; an error must contain one of them."""
    return [str(folder), *(path.name for path in folder.rglob("*") if not path.is_dir())]


def bytes_changed(specimen: Specimen, rng: Generator, path: Path) -> tuple[str, bool]:
    """Change random bytes."""
    content, words = changed_bytes(pick(rng, specimen.files), rng)
    path.write_bytes(content)
    return words, False


def replaced(path: Path, rng: Generator) -> tuple[str, bool]:
    """Put something else in the place of the file."""
    kind = pick(rng, ("empty", "text", "noise", "folder", "link to itself", "hdf5", "gzip", "zeros"))
    match kind:
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)
        case "hdf5":
            h5py.File(path, "w").close()
        case _:
            made = {
                "text": b"hello\n",
                "noise": rng.bytes(4000),
                "gzip": gzip.compress(b"x", mtime=0),
                "zeros": bytes(9000),
            }
            path.write_bytes(made.get(kind, b""))
    return kind, True
