"""Fuzz of the folders of finished studies."""

import io
import json
import os
import shutil
from functools import partial
from pathlib import Path

import yaml
from changes import NAMES, as_json, changed_bytes, changed_document, pick, with_new_checksum
from loaders import names_in, replaced
from model_folders import tensors_changed
from numpy.random import Generator
from rich.console import Console
from text_files import odd_cells
from tiny import TINY
from verdicts import Content, Target, Verdict, digest, judge

from emg_lens.studies.result import StudyResult
from emg_lens.studies.runner import run_study
from emg_lens.studies.spec.study_spec import StudySpec

REPORTS = ("table.", "report.html", "figures")
"""Files that are written but never read."""
Made = tuple[Path, StudySpec, Content, Content]


def small_study() -> StudySpec:
    """Make a study with two subjects, few conditions and few figures."""
    content = yaml.safe_load(TINY)
    content["cohort"]["options"]["simulation"]["n_subjects"] = 2
    content["conditions"] |= {"layer_masks": {"edges": {"uni": "unimodal()"}, "modes": ["individual"]}}
    content["conditions"]["controls"] = {"random_edges": 1}
    return StudySpec.parse(yaml.safe_dump(content | {"views": ["single", "training"]}))


def prepare(folder: Path) -> Made:
    """Make a finished run; return it with its content."""
    study = small_study()
    run_study(study, out=folder, jobs=1, console=silent())
    (run,) = (folder / study.name).iterdir()
    return folder, study, read(run)[0], again(study, folder)[0]


def silent() -> Console:
    """Return a console without visible output."""
    return Console(file=io.StringIO())


def read(run: Path, write: bool = False) -> tuple[Content, set[str]]:
    """Return all parts of a result."""
    result = StudyResult.load(run)
    names = ("scores", "controls", "curves", "leakage", "metrics", "tags", "facts", "study")
    content = {name: digest(getattr(result, name)) for name in names}
    content |= {f"analyses.{name}": digest(table) for name, table in result.analyses.items()}
    content |= {"predictions": digest(result.predictions()), "tables": digest(result.tables())}
    if write:
        result.write()
    return content, set()


def again(study: StudySpec, out: Path) -> tuple[Content, set[str]]:
    """Run the study again and return its numbers."""
    result = run_study(study, out=out, jobs=1, console=silent())
    names = ("scores", "controls", "leakage")
    content = {name: digest(getattr(result, name)) for name in names}
    return {**content, "predictions": digest(result.predictions())}, set()


def attempt(made: Made, rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    original, study, content, numbers = made
    out = folder / "out"
    shutil.copytree(original, out)
    (run,) = (out / study.name).iterdir()
    words, forged = change(run, rng)
    judged = partial(judge, change=words, names=["out", *names_in(folder)], own=not forged)
    if rng.random() < 0.25:
        return judged(partial(again, study, out), (numbers, set()))
    return judged(partial(read, run, bool(rng.random() < 0.3)), (content, set()))


def change(run: Path, rng: Generator) -> tuple[str, bool]:
    """Change or remove one file of the run; return a description, and whether it got a correct checksum."""
    read_files = [
        p for p in sorted(run.rglob("*")) if p.is_file() and not p.relative_to(run).parts[0].startswith(REPORTS)
    ]
    every = [p for p in sorted(run.rglob("*"))]
    path = pick(rng, every if rng.random() < 0.1 else read_files)
    place, chance = str(path.relative_to(run)), rng.random()
    if chance < 0.06:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return f"{place}: removed", False
    if chance < 0.1:
        name = pick(rng, [n for n in NAMES if n and not {"/", "\0"} & {*n} and n not in (".", "..") and len(n) < 200])
        os.rename(path, path.with_name(name))
        return f"{place}: renamed {name[:20]!r}", False
    if chance < 0.14:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return f"{place}: {replaced(path, rng)[0]}", False
    if path.is_dir():
        (path / pick(rng, (".x", "x", "x.partial"))).mkdir()
        return f"{place}: a folder more", False
    content = path.read_bytes()
    if chance < 0.5:
        content, words = changed_bytes(content, rng)
        path.write_bytes(content)
    elif path.suffix == ".json":
        document, words = changed_document(json.loads(content), rng)
        path.write_text(as_json(document, rng), errors="replace")
    elif path.suffix == ".yaml":
        document, words = changed_document(yaml.safe_load(content), rng)
        path.write_text(yaml.safe_dump(document, allow_unicode=True), errors="replace")
    elif path.suffix == ".safetensors":
        words = tensors_changed(path, rng)
    else:
        content, words = odd_cells(content, rng)
        path.write_bytes(content)
    forged = path.suffix == ".safetensors" and rng.random() < 0.3 and with_new_checksum(path)
    return f"{place}: {words}{', with a new checksum' * forged}", forged


TARGETS = (Target("run-folder", prepare, attempt),)
