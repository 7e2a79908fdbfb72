from .preprocessing import Recipe, preprocess
from .recording import DataError, Recording, Signal
from .registry import (
    DataSet,
    data_fingerprint,
    dataset_names,
    describe_dataset,
    load_dataset,
    load_trials,
    register,
    subjects,
)
from .segment import Segment
from .trials import TrialSet

__all__ = [
    "DataError",
    "DataSet",
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
