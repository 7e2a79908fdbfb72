"""A part of `make fuzz`: some hundred changes of every kind, without a fault."""

import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = {
    "MATLAB": ("ninapro-db5", "ninapro-db2", "ninapro-db8", "myo-force"),
    "text": ("psl-myo", "uci-emg"),
    "HDF5 and JSON": ("hd-semg", "emg2pose", "epn-612"),
    "folders": ("folder",),
    "trials": ("trials",),
    "models": ("isonet", "multimodal-mlp", "tinymyo", "tinymyo-published", "statistics"),
    "checkpoints": ("fit-checkpoint", "sweep-checkpoint"),
    "words": ("edges", "studies"),
    "runs": ("run-folder", "names"),
    "calls": ("calls", "examples"),
    "surroundings": ("links", "permissions", "sparse", "versions"),
    "processes": ("plug-ins",),
    "two ranks": ("ranks",),  # one or two cases
    "commands": ("commands",),
}
CASES, SECONDS = 200, 12


@pytest.mark.parametrize("group", GROUPS)
def test_a_changed_input_is_read_correctly_or_refused_in_one_line(group):
    names = [word for name in GROUPS[group] for word in ("--target", name)]
    limits = ["--cases", str(CASES), "--seconds", str(SECONDS), "--jobs", "1", "--seed", "12"]
    done = subprocess.run([sys.executable, Path(__file__).parent, *names, *limits], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_target_is_in_a_group():
    done = subprocess.run([sys.executable, Path(__file__).parent, "--target", "?"], capture_output=True, text=True)
    known = done.stderr.strip().rpartition("known: ")[2].split(", ")
    assert sorted(known) == sorted(name for names in GROUPS.values() for name in names)
