"""Edge sets from Python: constructors, selections, masks."""

import math

import numpy as np
import torch
from nonsense import NOT_GROUP, NOT_INDICES, call

from emg_lens import TokenLayout, cross_modal, edges_from_mask, every, flow, lag, positions, unimodal

LAYOUT = TokenLayout.channels({"emg": 4, "acc": 3})
PATCHES = TokenLayout.patches({"emg": 2, "acc": 1}, 3)
MASK = torch.zeros(2, 2, 8, 8, dtype=torch.bool)
SELECTIONS = (None, 0, [0, 1], (0,), -1, range(2), slice(0, 1), np.array([0]), torch.tensor([1]))
NOT_SIZE = (-1, 2.5, "2", None, math.nan)
NOT_LAG = (2.5, "x", None, math.nan, True, [])

CALLS = {
    "at": call(
        lambda layers, heads, n_layers, n_heads, layout: every().at(layers, heads).mask(layout, n_layers, n_heads),
        layers=(SELECTIONS, NOT_INDICES),
        heads=(SELECTIONS, NOT_INDICES),
        n_layers=((2,), NOT_SIZE),
        n_heads=((2,), NOT_SIZE),
        layout=((LAYOUT, PATCHES), (None, "x", {"emg": 3})),
    ),
    "positions": call(
        lambda **given: positions(**given).mask(LAYOUT, 2, 2),
        dest=((None, 0, [0, "acc"], "cls", range(3), np.array([1])), (*NOT_INDICES, "eeg", ["eeg"], [0, None])),
        src=((None, 0, [0, "acc"], "cls", range(3), np.array([1])), (*NOT_INDICES, "eeg", ["eeg"], [0, None])),
    ),
    "lag": call(
        lambda **given: lag(**given).mask(PATCHES, 2, 2), low=((0, -1), NOT_LAG), high=((1, 2), (*NOT_LAG, -5))
    ),
    "flow": call(
        lambda **given: flow(**given).mask(LAYOUT, 2, 2),
        src=(("emg", "emg.0"), NOT_GROUP),
        dest=(("cls", "acc"), NOT_GROUP),
    ),
    "unimodal": call(lambda name: unimodal(name).mask(LAYOUT, 2, 2), name=(("emg",), ("cls", *NOT_GROUP))),
    "cross_modal": call(
        lambda name: cross_modal("acc", name).mask(LAYOUT, 2, 2), name=(("emg",), ("cls", "acc", *NOT_GROUP))
    ),
    "edges_from_mask": call(
        lambda mask: edges_from_mask(mask).mask(LAYOUT, 2, 2),
        mask=(
            (MASK, MASK.numpy()),
            (None, "x", [], MASK.float(), MASK[:1, :, :4], MASK[..., :7], np.array(["x"])),
        ),
    ),
}
