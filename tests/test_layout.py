import pytest
import torch

from emg_lens.errors import EmgLensError
from emg_lens.hooks import flow, positions
from emg_lens.layout import TokenLayout
from emg_lens.registry import UnknownNameError


def test_channels_puts_cls_first_and_modalities_in_order():
    layout = TokenLayout.channels({"emg": 2, "acc": 1})
    assert layout.names == ("cls", "emg.0", "emg.1", "acc.0")
    assert layout.modalities == ("emg", "acc")
    assert layout.positions("emg").tolist() == [1, 2]
    assert layout.positions("cls").tolist() == [0]
    assert len(layout) == 4


def test_channels_without_cls_starts_at_the_first_channel():
    layout = TokenLayout.channels({"emg": 2}, cls=False)
    assert layout.names[0] == "emg.0" and not layout.has_cls
    with pytest.raises(KeyError, match="unknown group or token 'cls'"):
        layout.positions("cls")


def test_patches_are_channel_major():
    layout = TokenLayout.patches({"emg": 3, "acc": 2}, n_patches=4, cls=False)
    frame = layout.to_frame()
    row = frame[(frame.group == "acc") & (frame.channel == 1) & (frame.patch == 2)].iloc[0]
    assert row.position == (3 + 1) * 4 + 2
    assert row["name"] == "acc.1.p2"
    assert layout.n_channels("emg") == 3


def test_groups_leave_other_positions_without_a_group():
    layout = TokenLayout.groups({"subject": [1, 2], "last": [7]}, n_tokens=8)
    assert layout.modalities == ("subject", "last")
    assert layout.group[0] is None
    assert layout.positions("subject").tolist() == [1, 2]


def test_cls_may_be_a_group_of_any_model():
    layout = TokenLayout.groups({"cls": [0], "image": range(1, 5)}, n_tokens=5)
    assert layout.positions("cls").tolist() == [0]
    assert layout.modalities == ("image",)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match=r"unknown group or token 'eng'.*\['cls', 'emg', 'acc'\]"):
        TokenLayout.channels({"emg": 1, "acc": 1}).positions("eng")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenLayout.channels({}), "at least one modality"),
        (lambda: TokenLayout.channels({"emg": 0}), "has 0 channels; expected at least one"),
        (lambda: TokenLayout.channels({"cls": 2}), "cannot name a modality"),
        (lambda: TokenLayout.channels({"left emg": 2}), "cannot name a modality"),
        (lambda: TokenLayout.patches({"emg": 1}, n_patches=0), "n_patches"),
        (lambda: TokenLayout.groups({"a": [0, 9]}, n_tokens=4), "position 9"),
        (lambda: TokenLayout.groups({"a": [0], "b": [0]}, n_tokens=4), "position 0 is in groups .a. and .b."),
        (lambda: TokenLayout.groups({"a": []}, n_tokens=4), "no position"),
    ],
)
def test_impossible_layouts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: TokenLayout.channels(None),
        lambda: TokenLayout.channels(["emg"]),
        lambda: TokenLayout.channels({"emg": 2.5}),
        lambda: TokenLayout.channels({"emg": True}),
        lambda: TokenLayout.channels({3: 2}),
        lambda: TokenLayout.channels({"emg": 2}, cls="no"),
        lambda: TokenLayout.channels({"emg": 10**9}),
        lambda: TokenLayout.patches({"emg": 2}, 10**9),
        lambda: TokenLayout.patches({"emg": 2}, None),
        lambda: TokenLayout.groups([1, 2], 3),
        lambda: TokenLayout.groups({"a": 1}, 3),
        lambda: TokenLayout.groups({"a": [1.7]}, 3),
        lambda: TokenLayout.groups({"a": [True]}, 3),
        lambda: TokenLayout.groups({"a": "12"}, 3),
        lambda: TokenLayout.groups({"a": range(10**9)}, 3),
        lambda: TokenLayout.groups({"a": [1]}, 10**9),
        lambda: TokenLayout("ab", "ab", (0, 1), (0, 1)),
        lambda: TokenLayout.channels({"emg": 1}).positions(["emg"]),
        lambda: TokenLayout.channels({"emg": 1}).positions(None),
    ],
)
def test_what_is_no_layout_is_refused_in_one_line_and_at_once(make):
    with pytest.raises(EmgLensError) as error:
        make()
    assert "\n" not in str(error.value)


def test_positions_of_groups_may_be_a_tensor():
    assert TokenLayout.groups({"a": torch.tensor([1, 2])}, 3).group == (None, "a", "a")


def test_a_channel_is_found_in_every_layout_that_has_channels():
    patches = TokenLayout.patches({"emg": 2, "acc": 1}, n_patches=2)
    assert patches.find("emg.1") == [3, 4] and patches.find("emg.1.p0") == [3]
    assert TokenLayout.channels({"emg": 2}).find("emg.1") == [2]
    assert flow("emg.1", "cls").mask(patches, 1, 1).nonzero()[:, 2:].tolist() == [[0, 3], [0, 4]]
    assert flow("emg.1", "cls").mask(patches, 1, 1).equal(positions(["cls"], ["emg.1"]).mask(patches, 1, 1))


@pytest.mark.parametrize("name", ["emg.2", "emg.-1", "cls.-1", "None.-1", "emg.", None, 3])
def test_an_unknown_token_is_refused_with_an_example_of_a_token(name):
    with pytest.raises(UnknownNameError, match=r"groups \['cls', 'emg'\], and tokens such as 'emg.0.p0'"):
        TokenLayout.patches({"emg": 2}, n_patches=2).find(name)
