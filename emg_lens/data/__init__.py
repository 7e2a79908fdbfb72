"""Recordings, their preprocessing, trials, and the data sets we read.

Importing this package registers the data sets; `load_dataset` and `load_trials` are the doors.
"""

import importlib

from emg_lens.data import simulate
from emg_lens.data.datasets import (
    data_fingerprint,
    dataset_names,
    describe_dataset,
    load_dataset,
    load_trials,
    register,
    subjects,
)
from emg_lens.data.preprocess import Recipe, preprocess
from emg_lens.data.recording import DataError, Recording, Signal
from emg_lens.data.segment import Segment
from emg_lens.data.trials import TrialSet

for _module in ("ninapro", "psl_myo", "uci_emg"):
    importlib.import_module(f"emg_lens.data.{_module}")

register(
    "simulated",
    simulate.load,
    "synthetic subjects whose label information is set by the experimenter",
    simulate.find,
)

__all__ = [
    "DataError",
    "Recipe",
    "Recording",
    "Segment",
    "Signal",
    "TrialSet",
    "data_fingerprint",
    "dataset_names",
    "describe_dataset",
    "load_dataset",
    "load_trials",
    "preprocess",
    "register",
    "subjects",
]
