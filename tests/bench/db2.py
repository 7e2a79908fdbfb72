"""One command on a NinaPro DB2 on disk: the IsoNet paper's Table 3 from files of its layout, with time and memory.

`python tests/bench/db2.py [--subjects 40] [--epochs 2]` writes exercise B of as many synthetic subjects: the first in
the real size (some 1.8 million rows of 12 EMG and 36 accelerometer channels at 2000 Hz), the others with gestures of
2.2 s, because all must reach the second that the study reads. Then it runs `isonet-table3` on them, with fewer epochs
and random cuts, and prints the table with the paper's numbers, the time, and the peak memory of all processes together.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from memory import peak_of
from scipy.io import savemat

from emg_lens.studies.spec.study_spec import StudySpec

FS, GESTURES, REPETITIONS = 2000, 17, 6
REAL_S, SHORT_S = (5.5, 3.3), (2.2, 0.3)
"""Seconds of a repetition and of the rest before it."""


def write_subject(folder: Path, subject: int, seconds: tuple[float, float]) -> int:
    """One exercise of one subject; returns its rows. Gestures differ in which electrodes are active and in gravity."""
    rng = np.random.default_rng(subject)
    move, rest = (round(s * FS) for s in seconds)
    places = [(m, r) for m in range(1, GESTURES + 1) for r in range(1, REPETITIONS + 1)]
    label = np.concatenate([np.repeat(np.int8([0, m]), [rest, move]) for m, _ in places])
    repetition = np.concatenate([np.repeat(np.int8([r, r]), [rest, move]) for _, r in places])
    active = rng.uniform(1, 4, size=(GESTURES + 1, 12)).astype(np.float32)
    emg = rng.standard_normal((len(label), 12), dtype=np.float32)
    emg *= 1e-5 * active[label]
    towards = rng.normal(size=(GESTURES + 1, 12, 3))
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    acc = towards.reshape(-1, 36).astype(np.float32)[label]
    acc += 0.1 * rng.standard_normal(acc.shape, dtype=np.float32)
    content = {"emg": emg, "acc": acc, "subject": np.uint8(subject), "exercise": np.uint8(1)}
    for name, values in (("stimulus", label), ("restimulus", label), ("repetition", repetition)):
        content[name] = values[:, None]
    content["rerepetition"] = repetition[:, None]
    savemat(folder / f"S{subject}_E1_A1.mat", content)
    return len(label)


def main() -> None:
    """Write, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--random-edges", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="db2-") as place:
        (data := Path(place) / "data").mkdir()
        rows = [write_subject(data, s + 1, SHORT_S if s else REAL_S) for s in range(options.subjects)]
        content = yaml.safe_load(StudySpec.load("isonet-table3").to_yaml())
        content["training"] |= {"epochs": options.epochs, "anneal_epochs": 1}
        content["conditions"]["controls"] = {"random_edges": options.random_edges}
        content["analyses"] = []
        (Path(place) / "study.yaml").write_text(yaml.safe_dump(content))
        command = ["run", f"{place}/study.yaml", "--data", str(data), "--out", f"{place}/runs"]
        started = time.monotonic()
        peak, _, _, code = peak_of([sys.executable, "-m", "emg_lens", *command])
    print(  # noqa: T201
        f"exit code {code}; {options.subjects} subjects, {rows[0]} rows the first, {rows[-1]} the last;"
        f" {time.monotonic() - started:.0f} s, peak {peak / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
