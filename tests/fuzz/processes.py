"""Fuzz of whole processes: broken plug-ins of another package, and pre-training in two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from changes import pick
from numpy.random import Generator
from verdicts import ANNOUNCER, Target, Verdict

sys.path.append(str(Path(__file__).parents[1] / "training" / "pretraining"))

GROUPS = (
    "datasets",
    "models",
    "objectives",
    "metrics",
    "interventions",
    "views",
    "attribution_methods",
    "fit_analyses",
)
BODIES = (
    "raise RuntimeError('two\\nlines \\x1b[31m')",
    "import sys; sys.exit(3)",
    "import nowhere_at_all",
    "THING = None",
    "THING = object",
    "def THING(*args, **kwargs): raise ValueError('called')",
    "class THING:\n    def __getattr__(self, name): raise KeyError(name)",
    "this is no Python",
    "import emg_lens; THING = emg_lens",
)
LOADERS = (
    "return 3",
    "return None",
    "yield 3",
    "yield from [None]",
    "raise RuntimeError('no\\nsuch device')",
    "yield {}['x']",
    "return [1, 2]",
    "import sys; sys.exit('goodbye')",
    "yield Recording('A', {}, None, None, 1.0)",
)
READER = """
from emg_lens.data import DataSet, Recording

def load({arguments}):
    {body}

THING = DataSet({name!r}, load, "a data set of another package")
"""
LIMIT_S = 200
STUDY = (
    "name: s\ntitle: S\ncohort: {dataset: odd}\nsplit: {by: repetition, test: [1]}\nmodel: {d_model: 8, n_heads: 1}\n"
)


def attempt_plug_in(made: None, rng: Generator, folder: Path) -> Verdict:
    """Run a command where a package with a broken plug-in is installed."""
    late = rng.random() < 0.5
    group = "datasets" if late else pick(rng, GROUPS)
    body = pick(rng, LOADERS if late else BODIES)
    arguments = pick(rng, ("*, subjects=None", "root, *, subjects=None", "", "**options")) if late else ""
    name = pick(rng, ("odd", "odd", "simulated", "isonet", "odd name"))
    (folder / "odd_plugin.py").write_text(
        READER.format(arguments=arguments, body=body, name=name) if late else f"{body}\n"
    )
    (info := folder / "odd_lab-1.0.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-lab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[emg_lens.{group}]\n{name} = odd_plugin:THING\n")
    (folder / "s.yaml").write_text(STUDY)
    command = pick(rng, (["list"], ["data", name], ["check", "s.yaml"], ["run", "s.yaml"], ["show", "quickstart"]))
    words = f"{' '.join(command)} with {name!r} of {group}: load({arguments}): {body}"
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return run([sys.executable, "-m", "emg_lens", *command], words, folder, environment)


def run(command: list[str], words: str, folder: Path, environment: dict[str, str]) -> Verdict:
    """Run a command: it must end, and print an error as one line."""
    ANNOUNCER.announce(words)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Verdict("hang", words, f"no end in {LIMIT_S} s")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if "Traceback" in done.stderr:
        return Verdict("raw", words, f"a traceback: {lines[-1][:120]}", done.stderr)
    if done.returncode not in (0, 2):
        return Verdict("raw", words, f"exit code {done.returncode}: {lines[-1:]}", done.stderr)
    if done.returncode == 2 and (not lines or "error:" not in lines[-1]):
        return Verdict("raw", words, "no error in the last line", done.stderr)
    return Verdict("refused" if done.returncode else "right", words, trace=done.stderr)


def attempt_ranks(made: None, rng: Generator, folder: Path) -> Verdict:
    """Pre-train in two processes on odd shards, or kill one of them: both end, without a traceback."""
    from test_processes import launch, own_lines, pretraining

    change = pick(rng, ("a NaN", "a text", "another length", "a shard less", "killed", "stopped", "nothing"))
    command = pretraining(folder, epochs=40 if change in ("killed", "stopped") else 2)
    path = folder / "data" / "shards" / f"{rng.integers(4)}.h5"
    if change == "a NaN":
        with h5py.File(path, "r+") as file:
            file["data"][int(rng.integers(10)), int(rng.integers(3)), int(rng.integers(40))] = np.nan
    elif change == "a text":
        path.write_bytes(b"hello")
    elif change == "another length":
        with h5py.File(path, "w") as file:
            file["data"] = rng.normal(size=(10, 3, 41)).astype("f4")
            file.attrs.update(subject="toy/9", modalities=json.dumps({"emg": 3}), fs=200.0)
    elif change == "a shard less":
        path.unlink()
    ANNOUNCER.announce(change)
    started = launch(*command, cwd=folder)
    if change in ("killed", "stopped"):
        end = time.monotonic() + LIMIT_S
        while not any((folder / "runs").rglob("losses.csv")) and started.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(float(rng.random()))
        started.send_signal(signal.SIGTERM) if change == "stopped" else kill_a_rank(started.pid, rng)
    try:
        _, errors = started.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        started.kill()
        return Verdict("hang", change, f"no end in {LIMIT_S} s")
    try:
        lines = own_lines(errors)
    except AssertionError:
        return Verdict("raw", change, "a traceback of a rank", errors)
    sound = change in ("nothing", "a shard less")
    if sound != (started.returncode == 0) and change not in ("killed", "stopped"):
        return Verdict("raw" if sound else "silent", change, f"exit code {started.returncode}", errors)
    return Verdict("right" if sound else "refused", change, trace="\n".join(lines))


def kill_a_rank(launcher: int, rng: Generator) -> None:
    """Kill one of the two processes, if they still run."""
    import psutil

    try:
        ranks = [one for one in psutil.Process(launcher).children() if "pretrain" in one.cmdline()]
        if ranks:
            pick(rng, ranks).kill()
    except psutil.Error:
        return


TARGETS = (
    Target("plug-ins", lambda folder: None, attempt_plug_in, 0.1),
    Target("ranks", lambda folder: None, attempt_ranks, 0.02),
)
