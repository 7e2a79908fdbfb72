"""Reconstruction errors of a pre-trained model on people who were held out (docs/pretraining.md §10.4).

`python tests/bench/reconstruction.py pretrain-myo --data ~/emg` prints a table of Smooth-L1 errors on masked samples,
for the model, the mean of the visible samples, and linear interpolation. Errors are averaged over the windows of each
person first, then over people. The pre-training is run first if `runs/` does not hold it.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from emg_lens.analysis.reconstruction import gap_curve, masked_errors
from emg_lens.training.pretraining.run_folder import PretrainedRun, run_pretraining
from emg_lens.training.pretraining.spec import PretrainingSpec

EACH = 75
"""Windows of each person, at equal distances."""
GAPS = (2, 4, 8)
"""Lengths of gaps in patches."""


def errors_by_person(run: PretrainedRun) -> pd.DataFrame:
    """Return one row per kind of mask and person, and one column per method."""
    files = np.array([run.validation.file_of(i).stem for i in range(len(run.validation))])
    windows = np.concatenate([_spread(np.flatnonzero(files == name)) for name in dict.fromkeys(files)])
    x, real = (torch.from_numpy(of(windows)) for of in (run.validation.read, run.validation.real))
    kinds = {"tokens at random": masked_errors(run.model, x, real=real)}
    for where, every in (("one channel", False), ("all channels", True)):
        curve = gap_curve(run.model, x, GAPS, all_channels=every, real=real, fs=run.validation.fs)
        kinds |= {f"{where}, gap of {s:g} s": table for s, table in curve.groupby("seconds")}
    parts = []
    for kind, table in kinds.items():
        by_window = table.groupby(["window", "method"])["smooth_l1"].mean().unstack()
        parts.append(by_window.groupby(files[windows][by_window.index]).mean().assign(masked=kind))
    return pd.concat(parts).rename_axis("person").reset_index()


def _spread(numbers: np.ndarray) -> np.ndarray:
    return numbers[np.linspace(0, len(numbers) - 1, min(EACH, len(numbers))).round().astype(int)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", help="name of a shipped pre-training, or its file")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    given = parser.parse_args()
    table = errors_by_person(run_pretraining(PretrainingSpec.load(given.spec), given.data, given.out, device="cpu"))
    better = table.assign(better=1 - table["model"] / table["mean"]).groupby("masked", sort=False)["better"]
    means = table.groupby("masked", sort=False)[["model", "mean", "interpolation"]].mean()
    of_mean = better.agg(least="min", most="max", people=lambda gains: (gains > 0).sum())
    print(means.join(of_mean.add_prefix("better than mean: ")).round(4).to_string())  # noqa: T201
