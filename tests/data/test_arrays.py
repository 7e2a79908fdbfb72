"""A user's own arrays: an invalid trial, label or name gives a one-line error that names it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from emg_lens.data.recording import DataError, Signal
from emg_lens.data.sources.file_values import checked_signal
from emg_lens.data.trials import TrialSet

X = np.random.default_rng(0).standard_normal((6, 3, 10)).astype(np.float32)
PARTS = {
    "x": X,
    "y": [0, 1, 2] * 2,
    "subject": ["a"] * 6,
    "repetition": [1] * 3 + [2] * 3,
    "channels": {"emg": 3},
    "fs": 100.0,
}
LABELS = [
    [math.nan, 1, 2, 0, 1, 2],
    [math.nan, "a", "b"] * 2,
    [None, "a", "b"] * 2,
    [math.inf] * 6,
    [b"a"] * 6,
    np.array(["a"] * 6, "S1"),
    np.array([1j] * 6),
    np.array(["NaT"] * 6, "M8[s]"),
    pd.array([1, 2, None] * 2),
    [["a"]] * 6,
    [""] * 6,
    [" "] * 6,
    ["a\x1b[31m"] * 6,
    ["a\nb"] * 6,
    {"a": 1},
    "abcdef",
    None,
    [1],
]


@pytest.mark.parametrize(
    "given",
    [
        *({"x": x} for x in (X + 1j, X > 0, X * math.nan, X.astype(float) * 1e300, np.zeros((6, 3, 10), "M8[s]"))),
        *({"x": x} for x in ("abc", b"abc", None, [[1], [1, 2]], np.full((6, 3, 10), 10**30, object), X[0], X[:0])),
        *({what: labels} for what in ("y", "subject") for labels in LABELS),
        {"y": np.array([1, "1", 2, 2, 1, 1], object)},
        *({what: n} for what in ("repetition", "repetition_id") for n in ([math.nan] * 6, [math.inf] * 6, [1e30] * 6)),
        {"repetition": [True] * 6},
        {"repetition_id": np.full(6, 2**63 + 1, np.uint64)},
        *(
            {"channels": c}
            for c in (["emg"], {"emg": True}, {"emg": 3.0}, {3: 3}, {"emg": 3, "acc": 0}, {"emg": -3}, {})
        ),
        *({"channels": c} for c in (None, {"": 3}, {"e\x1bmg": 3})),
        *({"fs": fs} for fs in (math.nan, math.inf, 0, -1, True, "100", None, [100], 1j)),
        *({"classes": c} for c in ("012", [0, 1, 2, math.nan], [0, 1, 2, None], [0, 1, 2, ""], [0])),
        {"notes": "abc"},
        {"targets": np.full((6, 1), 1j), "target_names": ["force"]},
        {"targets": [["a"]] * 6, "target_names": ["force"]},
        {"targets": np.zeros((6, 1)), "target_names": "f"},
        {"targets": np.zeros((6, 1)), "target_names": [None]},
    ],
)
def test_invalid_arrays_give_a_one_line_error(given):
    with pytest.raises(DataError) as error:
        TrialSet.from_arrays(**{**PARTS, **given})
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "name", ["NA", "nan", "None", "null", "true", "1e5", "007", '""', "=1+1", "[red]", "../up", "é"]
)
def test_names_are_kept_unchanged(name, tmp_path):
    trials = TrialSet.from_arrays(**{**PARTS, "subject": [name] * 6, "y": [name, "b", "c"] * 2})
    trials.save(tmp_path / "trials.h5")
    again = TrialSet.load(tmp_path / "trials.h5")
    assert set(again.subject) == {name} and set(again.classes) == {name, "b", "c"}


NUMBERS, WORDS = [0, 1, 2] * 2, ["a", "b", "c"] * 2


@pytest.mark.parametrize("labels", [np.array(NUMBERS, np.uint8), torch.tensor(NUMBERS), pd.Series(WORDS), tuple(WORDS)])
def test_labels_of_any_kind_of_list_are_taken(labels):
    trials = TrialSet.from_arrays(**{**PARTS, "y": labels, "subject": labels})
    assert trials.y.tolist() == [0, 1, 2] * 2 and len(set(trials.subject)) == 3


def test_numbers_rise_as_numbers():
    assert TrialSet.from_arrays(**{**PARTS, "y": [10, 9, 2] * 2}).classes == ("2", "9", "10")


@pytest.mark.parametrize("labels", [[1.0, 2.0, 3.0] * 2, np.float32([1, 2, 3] * 2), pd.Series([1.0, 2.0, 3.0] * 2)])
def test_whole_numbers_that_a_table_wrote_with_a_point_are_whole(labels):
    trials = TrialSet.from_arrays(**{**PARTS, "y": labels, "subject": labels})
    assert trials.classes == ("1", "2", "3") and set(trials.subject) == {"1", "2", "3"}
    halves = TrialSet.from_arrays(**{**PARTS, "y": [0.5, 1.0, 2.0] * 2})
    assert halves.classes == ("0.5", "1.0", "2.0")


MASKED = np.ma.masked_array(X, np.arange(X.size).reshape(X.shape) == 7)


@pytest.mark.parametrize(
    "part, given",
    [("x", MASKED), ("x", list(MASKED)), ("repetition", np.ma.masked_array([1] * 6, [0, 1, 0, 0, 0, 0]))],
)
def test_masked_values_are_not_data(part, given):
    with pytest.raises(DataError, match=f"{part} has 1 masked values"):
        TrialSet.from_arrays(**PARTS | {part: given})
    with pytest.raises(DataError, match="signal data has 1 masked values"):
        Signal(MASKED[0], 10, 10, "V", tuple("0123456789"))


@pytest.mark.parametrize(
    "given",
    [
        {"y": [np.int64(one) for one in PARTS["y"]]},
        {"y": [torch.tensor(one) for one in PARTS["y"]], "repetition": torch.tensor(PARTS["repetition"])},
        {"y": np.array(PARTS["y"], ">i4"), "repetition": np.array(PARTS["repetition"], ">i2")},
        {"x": torch.tensor(X, requires_grad=True)},
        {"x": X.astype(">f4")},
        {"x": X.astype(">f8")},
    ],
)
def test_numbers_of_numpy_and_torch_in_any_byte_order_are_the_same_data(given):
    made, plain = TrialSet.from_arrays(**PARTS | given), TrialSet.from_arrays(**PARTS)
    np.testing.assert_array_equal(made.x, plain.x)
    assert made.x.dtype.isnative and made.y.tolist() == plain.y.tolist() and made.classes == plain.classes
    assert made.repetition.tolist() == plain.repetition.tolist()


def test_whole_numbers_that_float32_would_round_are_an_error():
    exact = np.full(X.shape, 2**24)
    assert (TrialSet.from_arrays(**PARTS | {"x": exact}).x == 2**24).all()
    with pytest.raises(DataError, match="whole numbers beyond 16777216"):
        TrialSet.from_arrays(**PARTS | {"x": exact + 1})
    counts = 2**30 + np.arange(40).reshape(20, 2)
    assert checked_signal("f", counts, 10, 10, "adc", ("a", "b"), "").data.tolist() == counts.tolist()
