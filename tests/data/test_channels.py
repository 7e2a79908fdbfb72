"""Channels of trials, chosen and grouped anew."""

import numpy as np
import pytest
from test_trials import trials

from emg_lens.data import DataError
from emg_lens.validation import ArgumentError


def test_groups_are_modalities_from_then_on_and_channels_keep_their_order():
    made = trials(width=10, channels={"emg": 4, "acc": 6})
    chosen = made.regroup({"first": {"emg": [3, 0]}, "second": {"emg": [1]}, "acc": {"electrodes": [1], "axes": 3}})
    assert chosen.modalities == {"first": 2, "second": 1, "acc": 3}
    assert chosen.channels["name"].tolist() == ["emg.0", "emg.3", "emg.1", "acc.3", "acc.4", "acc.5"]
    np.testing.assert_array_equal(chosen.x, made.x[:, [0, 3, 1, 7, 8, 9]])


def test_one_group_may_hold_several_modalities():
    chosen = trials().regroup({"all of it": {"acc": [2], "emg": "all"}})
    assert chosen.modalities == {"all of it": 3}
    assert chosen.channels["name"].tolist() == ["emg.0", "emg.1", "acc.2"]


def test_the_first_electrodes_are_those_listed_first():
    chosen = trials(width=7, channels={"emg": 7}).regroup({"emg": {"electrodes": [5, 2, 6, 0], "first": 2}})
    assert chosen.channels["name"].tolist() == ["emg.2", "emg.5"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"emg": [0, 1]}, "does not list 'acc'; write 'acc: all'"),
        ({"emg": [0, 2], "acc": "all"}, "emg has no electrode 2; it has electrodes 0 to 1"),
        ({"emg": [0, 0], "acc": "all"}, "different numbers"),
        ({"emg": [], "acc": "all"}, "different numbers"),
        ({"emg": [0], "gyro": [0]}, "unknown modality 'gyro'; known: emg, acc"),
        ({"emg": [0], "more": {"emg": [0, 1]}, "acc": "all"}, "emg channel emg.0 is in 'emg' and 'more'"),
        ({"emg": {"electrodes": "all", "axes": 3}, "acc": "all"}, "2 channels, which is not a multiple of axes=3"),
        ({"emg": {"electrodes": [1], "first": 2}, "acc": "all"}, "first=2 is more than the 1 electrodes of emg"),
        ({"emg": "left", "acc": "all"}, "numbers from 0 or 'all', got 'left'"),
        ({"emg": [-1], "acc": "all"}, "emg.0=-1; expected a number greater than or equal to 0$"),
        ({"emg": [True], "acc": "all"}, "electrodes"),
        ({}, "channels is empty"),
        ([0, 1], "groups=.*expected a mapping"),
    ],
)
def test_an_invalid_choice_of_channels_gives_a_one_line_error(groups, message):
    with pytest.raises((DataError, ArgumentError), match=message) as error:
        trials().regroup(groups)
    assert "\n" not in str(error.value)
