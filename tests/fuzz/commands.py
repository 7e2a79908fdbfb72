"""Fuzz of the command line: `list`, `show`, `check`, `data`, `run` and `report` with odd arguments."""

import contextlib
import io
import os
import sys
from pathlib import Path

import test_ninapro
import yaml
from changes import NAMES, pick
from numpy.random import Generator
from tiny import TINY
from verdicts import ANNOUNCER, Target, Verdict, of_error

from emg_lens import cli
from emg_lens.data.registry import dataset_names
from emg_lens.studies.spec.catalog_lookup import catalogue

QUICK = {"training": {"epochs": 1, "anneal_epochs": 0}}
DB5 = {
    "name": "mine",
    "title": "Mine",
    "cohort": {"dataset": "ninapro-db5", "segment": {"stop_s": 0.1}},
    "split": {"by": "repetition", "test": [2]},
    "model": {"d_model": 8, "n_heads": 1, "n_layers": 1, "d_mlp": 8},
}
PLACES = (
    "", " ", ".", "..", "~", "~nobody/x", "/", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem",
    "/nowhere/at/all", "/etc/passwd", "/root/.x", "x" * 300, "x/" * 2000, "\udcff", "a\nb", "*", "$HOME", "-", "--", "file://x",
    "http://x", "empty", "a file", "a link to itself", "not mine", "tiny.yaml", "db5",
)  # fmt: skip
WORDS = ("0", "-1", "1", "2", "99999999999", "1e3", "x", "", "nan", "³", "0x2", "1.5", "None", "9" * 5000)
DEVICES = (
    "cpu", "cpu:0", "cpu:7", "cpu:-1", "cuda", "cuda:99", "mps", "meta", "xla", "tpu", "", "x", "CPU", "cuda:x",
    "vulkan", "hip", "cpu,cpu", "\udcff", "9" * 400,
)  # fmt: skip
OPTIONS = (
    "--jobs",
    "--device",
    "--data",
    "--out",
    "--debugg",
    "-h",
    "--help",
    "--version",
    "-v",
    "--",
    "--jobs=",
    "-x",
)
ENDS = (0, 2)
"""Valid exit codes."""


def prepare(folder: Path) -> Path:
    """Make a folder with two small studies, recordings, and unusable paths, in which the cases run."""
    tiny = yaml.safe_load(TINY)
    tiny["cohort"]["options"]["simulation"]["n_subjects"] = 2
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**tiny, **QUICK}))
    (folder / "db5.yaml").write_text(yaml.safe_dump({**DB5, **QUICK}))
    (folder / "empty").mkdir()
    (folder / "a file").write_bytes(b"\xff\x00hello\n")
    (folder / "a link to itself").symlink_to("a link to itself")
    (folder / "not mine").mkdir(mode=0)
    test_ninapro.write(folder / "db5", rows=600)
    return folder


def attempt(made: Path, rng: Generator, folder: Path) -> Verdict:
    """Run one case: a command with no, one or several odd arguments."""
    arguments = command(rng)
    words = " ".join(argument[:40] for argument in arguments).encode("utf-8", "replace").decode()
    ANNOUNCER.announce(words)
    for place in made.iterdir():
        (folder / place.name).symlink_to(place)
    os.chdir(folder)
    code, printed, errors, error = called(arguments)
    if error is not None:
        return of_error(error, words)
    if "Traceback" in printed + errors:
        return Verdict("raw", words, "a traceback is printed", errors)
    if code not in ENDS:
        return Verdict("raw", words, f"exit code {code}", errors)
    if code == 0:
        return Verdict("right", words)
    if not errors.strip() and "Usage:" not in printed:
        return Verdict("raw", words, "a mistake without a message", printed)
    lines = [line for line in errors.splitlines() if line.strip()]
    if any(line.startswith("error:") for line in lines) and not lines[-1].startswith("error:"):
        return Verdict("raw", words, "an error of several lines", errors)
    return Verdict("refused", words, trace=errors)


def called(arguments: list[str]) -> tuple[object, str, str, Exception | None]:
    """Run a command; return its exit code, both output streams, and an uncaught exception."""
    printed, errors = io.StringIO(), io.StringIO()
    sys.argv = ["emg-lens", *arguments]
    cli.out, cli.err = cli.Console(file=printed, width=cli.PIPE_WIDTH), cli.Console(file=errors)
    code, error = None, None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code or 0
        except Exception as raised:
            error = raised
    return code, printed.getvalue(), errors.getvalue(), error


def command(rng: Generator) -> list[str]:
    """Make a command with arguments; about half of them are invalid."""
    odd = (*PLACES, *(name for name in NAMES if "\0" not in name))
    studies = ["tiny.yaml", "db5.yaml"]

    def sound_or_odd(*sound: str) -> str:
        return pick(rng, sound) if rng.random() < 0.6 else pick(rng, odd)

    name = pick(rng, ("data", "data", "check", "check", "run", "show", "report", "list", "other"))
    match name:
        case "data":
            given = [name, sound_or_odd(*dataset_names())] + [sound_or_odd("db5", "empty")] * (rng.random() < 0.9)
        case "check" | "show":
            given = [name, sound_or_odd(*studies, *(study for study in catalogue() if name == "show"))]
        case "run":
            given = [name, sound_or_odd(*studies)]
        case "report":
            given = [name, sound_or_odd("empty", "runs")]
        case "list":
            given = [name]
        case _:
            given = [pick(rng, odd) for _ in range(int(rng.integers(0, 4)))]
    if name in ("check", "run") and rng.random() < 0.8:
        given += ["--data", sound_or_odd("db5", "db5", "empty")]
    if name == "run":
        given += ["--jobs", pick(rng, ("1", "1", "1", *WORDS))]
        given += ["--out", sound_or_odd("runs")] * (rng.random() < 0.5)
        given += ["--device", pick(rng, ("cpu", *DEVICES))] * (rng.random() < 0.5)
    if rng.random() < 0.15:
        given.insert(int(rng.integers(len(given) + 1)), pick(rng, OPTIONS))
    return given


TARGETS = (Target("commands", prepare, attempt),)
