"""A share of `make fuzz`: some hundred changes of every kind, none of which may be a fault."""

import subprocess
import sys
from pathlib import Path

import pytest

SHARES = {
    "MATLAB": ("ninapro-db5", "ninapro-db2", "ninapro-db8", "myo-force"),
    "text": ("psl-myo", "uci-emg"),
    "HDF5 and JSON": ("hd-semg", "emg2pose", "epn-612"),
    "folders": ("folder",),
    "trials": ("trials",),
    "models": ("isonet", "multimodal-mlp", "tinymyo", "tinymyo-published", "statistics"),
    "checkpoints": ("fit-checkpoint", "sweep-checkpoint"),
    "words": ("edges", "studies"),
    "runs": ("run-folder", "names"),
    "calls": ("calls",),
    "commands": ("commands",),
}
CASES, SECONDS = 200, 12


@pytest.mark.parametrize("share", SHARES)
def test_whatever_is_changed_is_read_right_or_refused_in_one_line(share):
    names = [word for name in SHARES[share] for word in ("--target", name)]
    limits = ["--cases", str(CASES), "--seconds", str(SECONDS), "--jobs", "1", "--seed", "12"]
    done = subprocess.run([sys.executable, Path(__file__).parent, *names, *limits], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_target_is_in_a_share():
    done = subprocess.run([sys.executable, Path(__file__).parent, "--target", "?"], capture_output=True, text=True)
    known = done.stderr.strip().rpartition("known: ")[2].split(", ")
    assert sorted(known) == sorted(name for names in SHARES.values() for name in names)
