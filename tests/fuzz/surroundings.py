"""Fuzz of what is around files: links, permissions, HDF5 chunks that were never written, runs of other versions."""

import io
import json
import os
import shutil
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import described_folders
import h5py
import hdf5_files
import numpy as np
import run_folders
import text_files
from changes import NAMES, pick, with_new_checksum
from loaders import Specimen, loaded, names_in
from numpy.random import Generator
from rich.console import Console
from verdicts import ANNOUNCER, SilentlyWrong, Target, Verdict, digest, judge

from emg_lens.data import TrialSet
from emg_lens.data.corpus import Corpus
from emg_lens.io.run_folder import ENVIRONMENT
from emg_lens.studies.runner import run_study

NOBODY = 65534
"""A user without rights. The administrator may read everything, whatever the permissions."""
MODES = (0o000, 0o111, 0o222, 0o333, 0o400, 0o444, 0o600, 0o644, 0o700, 0o755)
LINKS = ("zz", "again", "S1", "A", ".hidden", "x.csv", "x.npy", "p07_day2", "person1", "01")


def prepare(folder: Path) -> list[Specimen]:
    """Make folders of tables and arrays, in one folder or in one for each subject."""
    for part in ("described", "text"):
        (folder / part).mkdir()
    described = [one for one in described_folders.prepare(folder / "described") if one.path != described_folders.FILE]
    text = [one for target in text_files.TARGETS for one in target.prepare(folder / "text")]
    return described + text


def laid_out(specimen: Specimen, folder: Path) -> Path:
    """Write the files of a specimen below a folder."""
    place = folder / "data"
    for name, content in {**specimen.others, specimen.path: specimen.files[0]}.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def attempt_links(made: list[Specimen], rng: Generator, folder: Path) -> Verdict:
    """Load a folder with links to folders, to files, in circles, or to nothing."""
    specimen = pick(rng, made)
    place = laid_out(specimen, folder)
    words = []
    for _ in range(int(rng.integers(1, 6))):
        inside = [place, *(path for path in sorted(place.rglob("*")))]
        parent = pick(rng, [path for path in inside if path.is_dir()])
        target = pick(rng, [*inside, folder, place / "nowhere", parent / "itself"])
        link = parent / pick(rng, (*LINKS, "itself"))
        if not os.path.lexists(link):
            link.symlink_to(target if rng.random() < 0.5 else os.path.relpath(target, parent))
            words.append(f"{link.relative_to(folder)} -> {target.relative_to(folder)}")
    expected = (specimen.content, specimen.notes)
    verdict = judge(partial(loaded, specimen.dataset, place), expected, ", ".join(words), names=names_in(place))
    if verdict.outcome == "changed":  # a link may be another subject, but never one file twice for one subject
        subjects = loaded(specimen.dataset, place)[0]["subjects"]
        if len(set(subjects)) < len(subjects):
            return Verdict("silent", ", ".join(words), "a subject twice")
    return verdict


def attempt_permissions(made: list[Specimen], rng: Generator, folder: Path) -> Verdict:
    """Load, as a user without rights, a folder of which parts cannot be listed or read."""
    specimen = pick(rng, made)
    place, words = laid_out(specimen, folder), []
    for path in (folder, *sorted(place.rglob("*"), reverse=True), place):
        path.chmod(0o755)
    for parent in folder.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    chosen = [path for path in sorted(place.rglob("*"), reverse=True) if rng.random() < 0.5] or [place]
    for path in chosen:
        mode = pick(rng, MODES)
        path.chmod(mode)
        words.append(f"{path.relative_to(folder)} {mode:o}")
    with of_nobody():
        expected, names = (specimen.content, specimen.notes), [str(place), *(path.name for path in chosen)]
        verdict = judge(partial(loaded, specimen.dataset, place), expected, ", ".join(words), names=names, own=True)
    for path in (place, *chosen):
        path.chmod(0o755)
    return verdict


@contextmanager
def of_nobody():
    """Give up the rights of the administrator for a moment; another user keeps its own."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def prepare_sparse(folder: Path) -> list[Specimen]:
    """Make files of HDF5 of every kind."""
    for part in ("described", "hd"):
        (folder / part).mkdir()
    described = [one for one in described_folders.prepare(folder / "described") if one.path.endswith(".h5")]
    return described + hdf5_files.prepare_hd(folder / "hd")


def attempt_sparse(made: list[Specimen], rng: Generator, folder: Path) -> Verdict:
    """Read arrays of which some chunks were never written: they must not become zeros."""
    if rng.random() < 0.3:
        return attempt_sparse_shard(rng, folder)
    specimen = pick(rng, made)
    place = laid_out(specimen, folder)
    with h5py.File(place / specimen.path, "r+") as file:
        key = pick(rng, sorted(set(specimen.read) & set(file) or set(specimen.fields) & set(file)))
        words = sparse(file, key, rng)
    expected = (specimen.content, specimen.notes)
    return judge(partial(loaded, specimen.dataset, place), expected, words, names=names_in(place), own=True)


def attempt_sparse_shard(rng: Generator, folder: Path) -> Verdict:
    """Read such windows of a shard or a file of trials."""
    path = folder / "a.h5"
    values = rng.normal(size=(6, 3, 8)).astype("f4")
    if rng.random() < 0.5:
        TrialSet.from_arrays(values, [0, 1] * 3, ["A"] * 6, [0] * 6, {"emg": 3}, 100.0).save(path)
    else:
        with h5py.File(path, "w") as file:
            file["data"] = values
    with h5py.File(path, "r+") as file:
        words = sparse(file, "x" if "x" in file else "data", rng)

    def act() -> tuple[dict, set]:
        return {"x": digest(Corpus.open([path], scale="none").read(np.arange(6)))}, set()

    return judge(act, ({"x": digest(values)}, set()), words, names=[path.name], own=True)


def sparse(file: h5py.File, key: str, rng: Generator) -> str:
    """Store an array in chunks, and leave out some of them."""
    array, attributes = file[key][()], dict(file[key].attrs)
    del file[key]
    chunks = tuple(int(rng.integers(1, max(2, n // 2 + 1))) for n in array.shape)
    made = file.create_dataset(key, array.shape, array.dtype, chunks=chunks, compression=pick(rng, (None, "gzip")))
    made.attrs.update(attributes)
    axis = int(rng.integers(array.ndim))
    written = int(rng.integers(0, array.shape[axis])) // chunks[axis] * chunks[axis]
    place = tuple(slice(0, written) if i == axis else slice(None) for i in range(array.ndim))
    made[place] = array[place]
    return f"{key}: {written} of {array.shape[axis]} written on axis {axis}, chunks {chunks}"


def attempt_versions(made: run_folders.Made, rng: Generator, folder: Path) -> Verdict:
    """Resume a run of another version: the numbers are the same and the other version is noted, or it is refused."""
    original, study, _, numbers = made
    shutil.copytree(original, folder / "out")
    (run,) = (folder / "out" / study.name).iterdir()
    path = run / ENVIRONMENT
    facts = json.loads(path.read_text())
    name = pick(rng, [key for key in facts if key != "checksum"])
    facts[name] = pick(rng, ("0.0.1", "99.1", "é", "<b>", *(one for one in NAMES if one.isprintable())))
    path.write_text(json.dumps(facts))
    with_new_checksum(path)
    lacks = rng.random() < 0.7
    if lacks:
        shutil.rmtree(pick(rng, sorted((run / "fits").iterdir())))
    words, console = f"{name}={facts[name]!r}, {'a fit is missing' * lacks}", Console(file=io.StringIO(), width=400)
    ANNOUNCER.announce(words)

    def act() -> tuple[dict, set]:
        result = run_study(study, out=folder / "out", jobs=1, console=console)
        content = {part: digest(getattr(result, part)) for part in ("scores", "controls", "leakage")}
        content["predictions"] = digest(result.predictions())
        if lacks and name != "machine" and name not in console.file.getvalue():
            raise SilentlyWrong(f"another version is not noted: {console.file.getvalue()[-200:]}")
        return content, set()

    return judge(act, (numbers, set()), words, names=["out"], own=True)


TARGETS = (
    Target("links", prepare, attempt_links),
    Target("permissions", prepare, attempt_permissions),
    Target("sparse", prepare_sparse, attempt_sparse),
    Target("versions", run_folders.prepare, attempt_versions, 0.1),
)
