"""Fuzz of names: complete studies with odd names of subjects, classes, conditions and levels."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from changes import NAMES, pick
from numpy.random import Generator
from rich.console import Console
from verdicts import SilentlyWrong, Target, Verdict, digest, judge

from emg_lens import TrialSet
from emg_lens.studies.result import StudyResult
from emg_lens.studies.runner import run_study
from emg_lens.studies.spec.study_spec import StudySpec

OTHERS = (
    "0", "1e5", "True", "inf", "-1", "+1", "@x", "1-1", "a-b", "A", "a", "baseline", "cls", "x\tx", "a,b", "\r", "~",
    "$HOME", "*", "x.partial", "scores.csv", "fits", "uni", "a;b", "|", "#x", "%s", "{}", "&amp;", "\\textbf{x}",
    "_", "..x", "...", "\u2028", "\x85", "é", "e\u0301", "S1 ", "S1",
)  # fmt: skip
SPEC = {
    "name": "odd",
    "title": "A study",
    "cohort": {"dataset": "trials"},
    "split": {"by": "repetition", "train": [1], "test": [2]},
    "model": {"d_model": 8, "n_heads": 1, "n_layers": 1, "d_mlp": 8},
    "training": {"epochs": 1, "anneal_epochs": 1},
    "conditions": {"layer_masks": None},
    "views": ["single"],
}


def attempt(made: None, rng: Generator, folder: Path) -> Verdict:
    """Run one case."""
    odd = [*NAMES, *OTHERS, str(folder / "outside"), "../outside"]
    names = {
        "subjects": [pick(rng, odd), "S1"],
        "classes": [pick(rng, odd) if rng.random() < 0.3 else "fist", "rest"],
        "modality": pick(rng, odd) if rng.random() < 0.1 else "emg",
        "conditions": [pick(rng, odd) if rng.random() < 0.5 else "uni", "cut"],
        "levels": [pick(rng, odd), "a"] if rng.random() < 0.1 else [],
        "title": pick(rng, odd) if rng.random() < 0.2 else "A study",
    }
    words = ", ".join(f"{key}: {value!r}" for key, value in names.items())[:200]
    return judge(lambda: (run(names, folder), set()), ({}, set()), words)


def run(names: dict[str, Any], folder: Path) -> dict:
    """Run a study with these names; its files must contain them, and no file may be elsewhere."""
    subjects, n = names["subjects"], 8
    TrialSet.from_arrays(
        x=np.random.default_rng(0).normal(size=(2 * n, 3, 6)),
        y=[names["classes"][i % 2] for i in range(2 * n)],
        subject=np.repeat(np.array(subjects, dtype=object), n),
        repetition=np.tile(np.repeat([1, 2], n // 2), 2),
        channels={names["modality"]: 2, "acc": 1},
        fs=10.0,
    ).save(folder / "data" / "trials.h5")
    content = {**SPEC, "title": names["title"]}
    content["conditions"] = {
        **SPEC["conditions"],
        "extra": [{"name": c, "edges": "unimodal()"} for c in names["conditions"]],
    }
    if names["levels"]:
        content["factors"] = {
            "kind": {level: {"training": {"lr": 0.1**i}} for i, level in enumerate(names["levels"], 1)}
        }
    study = StudySpec.parse(yaml.safe_dump(content, allow_unicode=True))
    before = set(folder.rglob("*"))
    result = run_study(study, folder / "data" / "trials.h5", folder / "out", 1, console=Console(file=io.StringIO()))
    outside = [path for path in set(folder.rglob("*")) - before if not path.is_relative_to(folder / "out")]
    if outside:
        raise SilentlyWrong("files outside of the run's folder")
    check(result, names)
    check(StudyResult.load(result.folder), names)
    if digest(StudyResult.load(result.folder).scores) != digest(result.scores):
        raise SilentlyWrong("the scores that are read are others than those that were written")
    return {}


def check(result: StudyResult, names: dict[str, Any]) -> None:
    """Check that all names are in the results, and that none acts as a formula, markup or path."""
    if set(result.scores["subject"]) != set(names["subjects"]):
        raise SilentlyWrong("the subjects of the scores are others")
    # A study also adds conditions that remove sensors.
    if missing := {"baseline", *names["conditions"]} - set(result.scores["condition"]):
        raise SilentlyWrong(f"the scores lack conditions: {missing}")
    terminal = io.StringIO()
    for part in result.terminal():
        Console(file=terminal, width=1000).print(part)
    if "\x1b" in terminal.getvalue():
        raise SilentlyWrong(f"the terminal receives {terminal.getvalue().partition(chr(27))[2][:20]!r}")
    for path in result.folder.glob("*.csv"):
        for row in csv.reader(path.open(newline="", encoding="utf-8")):
            formulas = [cell for cell in row if cell[:1] in tuple("=+-@") and cell[1:] and not is_number(cell)]
            if formulas:
                raise SilentlyWrong(f"a formula in {path.name}: {formulas[0][:20]!r}")
    if "<script>x" in (result.folder / "report.html").read_text():
        raise SilentlyWrong("a script in the report")


def is_number(text: str) -> bool:
    """Whether a text is one."""
    try:
        float(text)
    except ValueError:
        return False
    return True


TARGETS = (Target("names", lambda folder: None, attempt, 0.2),)
