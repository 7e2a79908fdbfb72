"""Recordings, their preprocessing, trials, and the data sets we read.

Importing this package registers the data sets; `load_dataset` and `load_trials` are the doors.
"""

from functools import partial

from emg_lens.data import ninapro, psl_myo, simulate, uci_emg
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

register(
    ninapro.DB5.name,
    partial(ninapro.load, ninapro.DB5),
    "NinaPro DB5, folder with S<n>_E<e>_A1.mat: two Myo bands (16 EMG at 200 Hz) and an accelerometer",
    partial(ninapro.find, ninapro.DB5),
)
register(
    psl_myo.NAME,
    psl_myo.load,
    f"Polish Sign Language, 18 signs with a Myo band: {psl_myo.EXPECTED}",
    psl_myo.find,
)
register(
    uci_emg.NAME,
    uci_emg.load,
    f"UCI EMG data for gestures, eight EMG channels: {uci_emg.EXPECTED}",
    uci_emg.find,
)
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
