"""Memory of a run on long recordings: the peak of all its processes together, against the size of one recording.

`python tests/bench/memory.py [--times 50] [--subjects 3] [--d-model 64]` writes NinaPro DB5 files of `times`
the usual length, runs the Table 3 study on them with two epochs and two jobs, and prints the largest sum of the
processes' proportional set sizes (Linux alone tells them). A narrower model is faster, and holds little less.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import yaml
from scipy.io import savemat

from emg_lens.studies.spec.study_spec import StudySpec

ROWS = 130_000
"""Of a DB5 file of one exercise: eleven minutes at 200 Hz."""
GESTURES, REPETITIONS = 12, 6
SAMPLE_SECONDS = 0.05


def write_recording(folder: Path, subject: int, n_rows: int) -> int:
    """One exercise of one subject, every repetition with as much rest before it; returns bytes of its signals."""
    rng, n = np.random.default_rng(subject), n_rows // (2 * GESTURES * REPETITIONS)
    places = [(m, r) for m in range(1, GESTURES + 1) for r in range(1, REPETITIONS + 1)]
    label = np.concatenate([np.repeat(np.int8([0, m]), n) for m, _ in places])[:, None]
    repetition = np.concatenate([np.repeat(np.int8([0, r]), n) for _, r in places])[:, None]
    emg = rng.integers(-30, 30, (len(label), 16), dtype=np.int8).astype(np.float32)
    emg *= 1 + label / GESTURES
    np.round(emg, out=emg)
    acc = np.tile(np.float32([0.6, 0.0, 0.8]), (len(label), 1)) + np.float32(0.05) * label
    content = {"emg": emg, "acc": acc, "restimulus": label, "rerepetition": repetition}
    content |= {"subject": subject, "exercise": 1, "frequency": 200}
    savemat(folder / f"S{subject}_E1_A1.mat", content, do_compression=True)
    return emg.nbytes + acc.nbytes


def peak_of(command: list[str]) -> tuple[float, float, dict[str, float], int]:
    """Run a command: the largest sum of PSS of it and its children (bytes), when it was, who had what, exit code."""
    started, process = time.monotonic(), subprocess.Popen(command)
    peak, when, who = 0.0, 0.0, {}
    while process.poll() is None:
        found = {}
        try:
            for one in (root := psutil.Process(process.pid), *root.children(recursive=True)):
                found[f"{one.pid} {' '.join(one.cmdline()[1:4])[:50]}"] = _pss(one.pid)
        except (psutil.Error, OSError):
            pass
        if (total := sum(found.values())) > peak:
            peak, when, who = total, time.monotonic() - started, found
        time.sleep(SAMPLE_SECONDS)
    return peak, when, who, process.returncode


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * float(line.split()[1])
    return 0.0


def run_peak(
    folder: Path, times: float, n_subjects: int, d_model: int, epochs: int = 2
) -> tuple[float, float, float, dict[str, float]]:
    """Peak of a run (bytes), seconds after its start, bytes of one recording's signals, and who had what."""
    (folder / "data").mkdir(exist_ok=True)
    sizes = [write_recording(folder / "data", s + 1, round(times * ROWS)) for s in range(n_subjects)]
    content = yaml.safe_load(StudySpec.load("isonet-table3-db5").to_yaml())
    content["training"] |= {"epochs": epochs, "anneal_epochs": 1, "warmup_epochs": 0}
    content["model"] |= {"d_model": d_model, "d_mlp": 2 * d_model}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    command = ["run", str(folder / "study.yaml"), "--data", str(folder / "data"), "--out", str(folder / "runs")]
    peak, when, who, code = peak_of([sys.executable, "-m", "emg_lens", *command, "--jobs", "2"])
    assert code == 0, f"exit code {code}"
    return peak, when, sizes[0], who


def main() -> None:
    """Print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=50)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--d-model", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        peak, when, size, who = run_peak(Path(folder), options.times, options.subjects, options.d_model)
    print(  # noqa: T201
        f"peak {peak / 2**20:.0f} MiB after {when:.0f} s, {peak / size:.1f} times the signals of a recording"
        f" ({size / 2**20:.0f} MiB)"
    )
    for name, bytes_ in who.items():
        print(f"{bytes_ / 2**20:6.0f} MiB  {name}")  # noqa: T201


if __name__ == "__main__":
    main()
