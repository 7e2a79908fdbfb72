"""Calls of public functions, and invalid values of counts, rates, names, arrays, ..."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Call:
    """A function, and valid and invalid values for each of its arguments.

    Of the first, the first one is the usual one; an argument without any is always given one of the second.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, tuple[tuple, tuple]]


def call(function: Callable[..., Any], **arguments: tuple[tuple, tuple]) -> Call:
    """Make a call from a function and its arguments by name."""
    return Call(function, arguments)


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    """Return an array with one value changed in its middle."""
    changed = np.array(array, dtype=np.float64)
    changed.ravel()[changed.size // 2] = value
    return changed


NOT_FINITE = (math.nan, math.inf, -math.inf)
NOT_WHOLE = (0, -1, 2.5, math.nan, math.inf, "x", None, [])
NOT_COUNT = (*NOT_WHOLE, "8", [8], np.float64(2.5), 10**12)
NOT_FROM_ZERO = (-1, 2.5, math.nan, "x", None, [])
NOT_FRACTION = (-0.1, 1.0, 1.5, math.nan, math.inf, "x", None, [])
NOT_SECONDS = (-1.0, math.nan, math.inf, -math.inf, "x", [])
NOT_POSITIVE = (-1.0, math.nan, math.inf, "x", [])
NOT_RATE = (0, -1, math.nan, math.inf, None, "fast", [50.0, 60.0])
NOT_ARRAY = (None, 3.0, "x", [], [[[1.0], [1.0, 2.0]]], [["x"]])
NOT_GROUP = ("eeg", "", None, 3, [], ("emg",), 2.5)
NOT_CHOICE = ("lerned", "", None, 1, [])
NOT_MODALITIES = (
    {},
    None,
    "emg",
    ["emg"],
    [("emg", 3)],
    {"emg": 0},
    {"emg": -1},
    {"emg": 2.5},
    {"emg": "3"},
    {"emg": None},
    {"emg": math.nan},
    {"emg": [3]},
    {"emg": 10**12},
    {"": 3},
    {"cls": 3},
    {1: 3},
    {None: 3},
    {"a b": 3},
    {"../x": 3},
)
NOT_INDICES = (
    [],
    2.5,
    math.nan,
    True,
    "x",
    99,
    -99,
    10**30,
    [0.5],
    [math.nan],
    [True, False],
    [None],
    [[0]],
    [99],
    [2**70],
    range(0),
    range(10**9),
    range(10**22),
    slice(5, 9),
    slice(0, 2, 0),
    slice(0.5),
    slice("a"),
    np.array([True, False]),
    np.array([[0]]),
    np.array(["x"]),
    np.array([0.5]),
    torch.tensor([True, False]),
)
