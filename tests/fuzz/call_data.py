"""A user's arrays and recordings, recipes, segments, splits, statistics, and names of files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nonsense import NOT_ARRAY, NOT_FINITE, NOT_MODALITIES, NOT_POSITIVE, NOT_RATE, NOT_SECONDS, call, with_value

from emg_lens import Study, TrialSet
from emg_lens.data import (
    BlockSplit,
    InputStatistics,
    Recipe,
    Recording,
    RepetitionSplit,
    Segment,
    Signal,
    SubjectSplit,
    load_dataset,
    load_trials,
)

N = 24
X = np.random.default_rng(0).normal(size=(N, 5, 20))
WORDS, NUMBERS = np.array(["a", "b"] * (N // 2)), np.arange(N)
TARGETS = X[:, 0, :2]
ROWS = NUMBERS.reshape(12, 2)
NOWHERE = Path("/nowhere/at/all")
NOT_SUBJECTS = ([], ["A", "A"], None, [None], "AB")
NOT_WHERE = (None, NOWHERE, "/dev/null", "\0", "x" * 5000, 3)


def windows(**options: Any) -> Any:
    """Make a segment, and cut ten seconds into windows."""
    return Segment(**options).windows(1000, 100.0)


def recorded(
    data: Any, fs: Any, native_fs: Any, label_fs: Any, label: Any, repetition: Any, ch_names: Any
) -> pd.DataFrame:
    """Make a recording of one signal, and its trials."""
    signal = Signal(data, fs, native_fs, "V", ch_names)
    return Recording("A", {"emg": signal}, label, repetition, label_fs).trials


def scaled(x: Any, **options: Any) -> Any:
    """Fit statistics and standardise samples with them."""
    return InputStatistics(**options).apply(x)


def folds(split: type) -> Any:
    """Return a function that makes a split and its folds for some subjects."""
    return lambda names, **given: split(**given).folds(names)


def step(**settings: Any) -> dict[str, list]:
    """Return the steps of a recipe for EMG."""
    return {"emg": [settings]}


CALLS = {
    "TrialSet.from_arrays": call(
        TrialSet.from_arrays,
        x=(
            (X, X.tolist(), X.astype(np.float32)),
            (
                *NOT_ARRAY,
                *(with_value(X, value) for value in (*NOT_FINITE, 1e300)),
                X[0],
                X[None],
                X[:0],
                X[..., :0],
                X + 1j,
                X.astype(str),
                np.full(X.shape, None),
            ),
        ),
        y=(
            (WORDS, NUMBERS % 3, WORDS.tolist()),
            (None, 3, WORDS[:-1], WORDS[None], with_value(NUMBERS, math.nan), [[1]] * N, [None] * N, {}, "a" * N),
        ),
        subject=(
            (WORDS, NUMBERS % 2, ["é"] * N),
            (None, 3, WORDS[:-1], WORDS[None], with_value(NUMBERS, math.nan), [None] * N, [""] * N, [[1, 2]] * N),
        ),
        repetition=(
            (NUMBERS % 3, [1.0] * N),
            (
                None,
                1,
                WORDS,
                NUMBERS[:-1],
                NUMBERS[None],
                NUMBERS + 0.5,
                NUMBERS + 1j,
                with_value(NUMBERS, math.nan),
                with_value(NUMBERS, 1e300),
                [None] * N,
            ),
        ),
        channels=(
            ({"emg": 3, "acc": 2}, {"emg": np.int64(5)}),
            (
                *NOT_MODALITIES,
                {"emg": 4},
                {"emg": 7, "acc": -2},
                pd.DataFrame(),
                pd.DataFrame({"modality": ["emg"] * 5}),
            ),
        ),
        fs=((50.0, 100, np.float32(20)), NOT_RATE),
        repetition_id=(
            (None, NUMBERS // 2),
            (3, WORDS, NUMBERS[:-1], NUMBERS + 0.5, with_value(NUMBERS, math.nan), [None] * N),
        ),
        classes=((None,), (3, ["z"], [None])),
        targets=((None,), (3, "x", TARGETS + 1j, with_value(TARGETS, math.nan), TARGETS[:-1], X)),
        target_names=(((),), (("a",), 3, ("a", "a"))),
    ),
    "Segment": call(
        windows,
        start_s=((0.0, 0.5), NOT_SECONDS),
        stop_s=((2.0, None), (0.0, *NOT_SECONDS)),
        window_s=((0.5, None), (0.0, 1e-9, 1e9, *NOT_SECONDS)),
        stride_s=((0.25, None), (0.0, 1e-9, *NOT_SECONDS)),
        piece_s=((None, 1.0), (0.0, 1e-9, 1e9, *NOT_SECONDS)),
    ),
    "Recipe": call(
        Recipe,
        fs=((50.0, None), (0.0, *NOT_POSITIVE)),
        signals=(
            ({}, step(step="rectify")),
            (
                3,
                "x",
                None,
                {1: []},
                {"emg": "rectify"},
                step(step="rectifi"),
                step(step="lowpass"),
                step(step="lowpass", cutoff_hz=-1),
                step(step="lowpass", cutoff_hz=math.nan),
                step(step="lowpass", cutoff_hz=4, order=0),
                step(step="bandpass", low_hz=9, high_hz=2),
            ),
        ),
    ),
    "InputStatistics": call(
        scaled,
        x=(
            (np.ones((2, 5, 4), np.float32),),
            (None, "x", np.ones((2, 4, 4)), np.ones((2, 5)), np.ones((2, 5, 4)) * 1j, np.full((2, 5, 4), "x")),
        ),
        modalities=(({"emg": 3, "acc": 2},), (*NOT_MODALITIES, {"emg": 4})),
        mean=(
            (np.zeros(5),),
            (None, "x", np.zeros(4), np.full(5, math.nan), np.zeros((5, 1)), np.zeros(5) * 1j, np.full(5, "x")),
        ),
        std=((np.ones(5),), (None, "x", -np.ones(5), np.full(5, math.inf), np.ones(4), np.full(5, "x"))),
        rectify=(((), ("emg",)), ("emg", ("eeg",), None, (None,))),
    ),
    "RepetitionSplit": call(
        folds(RepetitionSplit),
        names=((["A", "B"],), NOT_SUBJECTS),
        train=((None, [1, 2]), ([], [1, 1], [4, 1], "x", 3, [math.nan], [-1], [1.5])),
        test=(([4],), ([], [5, 5], None, "x", 3, [math.nan], [-1], [1.5])),
    ),
    "SubjectSplit": call(
        folds(SubjectSplit),
        names=((["A", "B", "C"],), (*NOT_SUBJECTS, ["A"])),
        leave_out=((1, 2), (0, -1, 2.5, math.nan, "x", 99)),
    ),
    "BlockSplit": call(
        folds(BlockSplit),
        names=((["A", "B", "C"],), NOT_SUBJECTS),
        folds=((2, 5), (0, 1, -1, 2.5, math.nan, "x", 10**12)),
    ),
    "Recording": call(
        recorded,
        data=(
            (ROWS, ROWS / 2),
            (
                None,
                "x",
                NUMBERS,
                ROWS.tolist(),
                ROWS * 1j,
                ROWS.astype(str),
                ROWS.astype(object),
                np.zeros((12, 3)),
            ),
        ),
        fs=((100.0,), NOT_RATE),
        native_fs=((100.0,), NOT_RATE),
        label_fs=((100.0,), NOT_RATE),
        label=(
            (np.ones(12, int), np.ones(12, np.uint8)),
            (None, "x", np.ones(11, int), np.ones(12), np.full(12, "x"), np.ones((12, 1), int), np.ones(12, object)),
        ),
        repetition=((np.ones(12, int),), (None, "x", np.ones(10, int), np.ones(12), np.full(12, "x"))),
        ch_names=((("a", "b"),), ((), ("a",), None)),
    ),
    "load_dataset": call(
        lambda **given: list(load_dataset(**given)),
        name=(("ninapro-db5", "psl-myo", "uci-emg"), ("ninapro", "", None, "trials")),
        root=((), NOT_WHERE),
        subjects=((None,), (3, "A", [None], [math.nan], [])),
    ),
    "load_trials": call(
        load_trials,
        name=(("trials",), ("trial", None)),
        root=((), NOT_WHERE),
        subjects=((None,), (3, "A", [None], [])),
        recipe=((None,), ("x", {})),
        segment=((None,), ("x", {})),
    ),
    "Study.load": call(
        Study.load,
        name_or_path=(("quickstart", "loso-uci"), ("quikstart", "", "/", ".", "x.yaml", *NOT_WHERE)),
    ),
}
