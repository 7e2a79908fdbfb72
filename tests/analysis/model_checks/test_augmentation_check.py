"""`check_augmentation` says which axis moves and by how much."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from emg_lens.analysis import check_augmentation
from emg_lens.validation import ArgumentError

X = torch.zeros(8, 50)


def rotate_electrodes(x: Tensor) -> Tensor:
    """The published fault: meant for [time, channel], called with [channel, time]."""
    return torch.roll(x, int(torch.randint(-2, 3, ())), dims=-1)


def rotate_electrodes_right(x: Tensor) -> Tensor:
    return torch.roll(x, int(torch.randint(-2, 3, ())), dims=-2)


def test_a_rotation_of_electrodes_that_shifts_samples():
    torch.manual_seed(0)
    report = check_augmentation(rotate_electrodes, X, moves="channel")
    assert report.failed == ["axis 0 (channel)", "axis 1 (time)"]
    assert report.findings["axis 1 (time)"].number == 2
    assert "moves by -2, -1, 1, 2; expected no shift" in report.findings["axis 1 (time)"].sentence
    assert check_augmentation(rotate_electrodes, X, moves="time").passed
    sound = check_augmentation(rotate_electrodes_right, X, moves="channel")
    assert sound.passed and sound.table["number"].tolist() == [2, 0]


@given(st.integers(0, 2), st.integers(-3, 3))
def test_every_axis_and_shift(axis, shift):
    report = check_augmentation(lambda x: np.roll(x, shift, axis), np.zeros((7, 8, 9)), moves=(), calls=2)
    numbers = [abs(shift) if one == axis else 0 for one in range(3)]
    assert report.table["number"].tolist() == numbers
    assert report.passed == (shift == 0)


def test_what_moves_nothing_or_adds_a_border_or_reorders():
    same = check_augmentation(lambda x: x, X)
    assert same.passed and set(same.table["number"]) == {0}
    assert check_augmentation(lambda x: x, X, moves="channel").failed == ["axis 0 (channel)"]

    def delayed(x: Tensor) -> Tensor:  # zeros at the border, in place
        x[:, 5:] = x[:, :-5].clone()
        x[:, :5] = 0
        return x

    report = check_augmentation(delayed, X, moves=["time"])
    assert report.passed and report.findings["axis 1 (time)"].sentence == "moves by 5"
    swapped = check_augmentation(lambda x: x.flip(0), X, moves="channel")
    assert swapped.passed and swapped.findings["axis 0 (channel)"].number == 3  # 2k - 7 places, of 8 in a ring
    both = check_augmentation(lambda x: x.roll((1, 3), (0, 1)), X, moves=["channel", "time"])
    assert both.passed and both.table["number"].tolist() == [1, 3]


def test_names_of_axes_and_trials_with_shifts_of_their_own():
    def each(x: Tensor) -> Tensor:
        return torch.stack([trial.roll(k, 0) for k, trial in enumerate(x)])

    report = check_augmentation(each, torch.zeros(3, 6, 10), moves="channel")
    assert report.passed and report.findings["axis 1 (channel)"].sentence == "moves by 1, 2"
    report = check_augmentation(lambda x: x.roll(1, 0), X.T, moves="time", axes=("time", "channel"))
    assert report.passed and "axis 0 (time)" in report.findings


def test_mistakes_are_one_line():
    with pytest.raises(ArgumentError, match="moves='electrode'; expected one of the axes"):
        check_augmentation(rotate_electrodes, X, moves="electrode")
    with pytest.raises(ArgumentError, match="give one name for each axis"):
        check_augmentation(rotate_electrodes, torch.zeros(2, 2, 2, 2))
    with pytest.raises(ArgumentError, match=r"returns shape \[8, 49\] for \[8, 50\]"):
        check_augmentation(lambda x: x[:, 1:], X)
    with pytest.raises(ArgumentError, match="changes 100% of the values"):
        check_augmentation(lambda x: x + 0.5, X)
    with pytest.raises(ArgumentError, match="crop it"):
        check_augmentation(rotate_electrodes, torch.zeros(1).expand(17, 10**6))
