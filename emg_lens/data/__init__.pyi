from .batch import Batch
from .corpus import Corpus, HeldOut
from .corpus_writer import CorpusPart, write_corpus
from .folds import Fold
from .leakage import Leakage, leakage_report
from .mel import MelSettings, mel_spectrogram
from .pre_onset import pre_onset_trials
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
from .sequences import SequenceSet, SignalSequence, sequence_leakage
from .sources.neuromotor import neuromotor_gestures
from .sources.simulated.gesture_streams import simulated_gestures
from .sources.simulated.speech import simulated_speech
from .splits import BlockSplit, RepetitionSplit, SubjectSplit
from .standardization import InputStatistics, TargetStatistics
from .trials import TrialSet
from .utterances import frame_trials, text_trials
from .windowing import OutputSteps, Windowing

__all__ = [
    "Batch",
    "BlockSplit",
    "Corpus",
    "CorpusPart",
    "DataError",
    "DataSet",
    "Fold",
    "HeldOut",
    "InputStatistics",
    "Leakage",
    "MelSettings",
    "OutputSteps",
    "Recipe",
    "Recording",
    "RepetitionSplit",
    "Segment",
    "SequenceSet",
    "Signal",
    "SignalSequence",
    "SubjectSplit",
    "TargetStatistics",
    "TrialSet",
    "Windowing",
    "data_fingerprint",
    "dataset_names",
    "describe_dataset",
    "frame_trials",
    "leakage_report",
    "load_dataset",
    "load_trials",
    "mel_spectrogram",
    "neuromotor_gestures",
    "pre_onset_trials",
    "preprocess",
    "register",
    "sequence_leakage",
    "simulated_gestures",
    "simulated_speech",
    "subjects",
    "text_trials",
    "write_corpus",
]
