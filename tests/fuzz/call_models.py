"""Calls that make configurations and models, and run a forward pass."""

import math
from functools import partial
from typing import Any

from nonsense import NOT_CHOICE, NOT_COUNT, NOT_FRACTION, NOT_MODALITIES, Call, call

from emg_lens import EncoderConfig, HookedBiosignalEncoder, TokenLayout, build_model


def encoder(**settings: Any) -> Any:
    """Make a configuration and its model, and run a forward pass."""
    model = HookedBiosignalEncoder(EncoderConfig(**settings))
    return model(model.example_input(2))


def registered(name: str, **settings: Any) -> Any:
    """Build a model by name, and run a forward pass."""
    model = build_model(name, **settings)
    return model(model.example_input(2))


NOT_SWITCH = ("no", None, 2, [])
SIGNALS = {
    "modalities": (({"emg": 4, "acc": 3}, {"emg": 2}), NOT_MODALITIES),
    "n_samples": ((8, 16), NOT_COUNT),
    "n_classes": ((3, 2), NOT_COUNT),
}
ENCODER = SIGNALS | {
    "d_model": ((8, 16), NOT_COUNT),
    "n_heads": ((2, 1), NOT_COUNT),
    "n_layers": ((2, 1), NOT_COUNT),
    "d_mlp": ((8, 4), NOT_COUNT),
    "patch_samples": ((None, 4), (0, -1, 2.5, "2", 999, math.nan, [4], True)),
    "embedding": (("dedicated", "shared"), NOT_CHOICE),
    "positions": (("learned", "none", "sinusoidal", "rotary"), NOT_CHOICE),
    "norm": (("pre", "post"), NOT_CHOICE),
    "act_fn": (("gelu", "relu"), NOT_CHOICE),
    "cls_token": ((True,), NOT_SWITCH),
    "qkv_bias": ((True, False), NOT_SWITCH),
    "dropout": ((0.0, 0.5), NOT_FRACTION),
    "drop_path": ((0.0, 0.2), NOT_FRACTION),
    "eps": ((1e-5,), (-1.0, math.nan, math.inf, "x", None)),
    "rotary_base": ((10000.0,), (-1.0, 0.0, math.nan, "x", None)),
    "masked_edges": (
        ("", "flow('acc', 'cls')"),
        (3, None, "flow(", "flow('eeg', 'cls')", "unimodal().at(layers=99)", "import os"),
    ),
    "class_names": (([],), (["a"], 3, None, "abc", [None] * 3, ["a", "a", "a"])),
}
MLP = SIGNALS | {
    "d_hidden": ((4,), NOT_COUNT),
    "d_fused": ((4,), NOT_COUNT),
    "dropout": ((0.0, 0.5), NOT_FRACTION),
}

CALLS = {
    "EncoderConfig": Call(encoder, ENCODER | {"readout": (("cls", "mean"), NOT_CHOICE)}),
    "build_model isonet": Call(partial(registered, "isonet"), ENCODER),
    "build_model multimodal-mlp": Call(partial(registered, "multimodal-mlp"), MLP),
    "build_model": Call(build_model, SIGNALS | {"name": (("isonet", "multimodal-mlp"), ("isonett", "", None))}),
    "TokenLayout.channels": call(
        TokenLayout.channels,
        modalities=(({"emg": 3}, {"emg": 3, "acc": 1}), NOT_MODALITIES),
        cls=((True, False), NOT_SWITCH),
    ),
    "TokenLayout.patches": call(
        TokenLayout.patches, modalities=(({"emg": 3},), NOT_MODALITIES), n_patches=((1, 4), NOT_COUNT)
    ),
    "TokenLayout.groups": call(
        TokenLayout.groups,
        groups=(
            ({"a": [0, 1]}, {}, {"a": range(2)}),
            (
                None,
                [("a", [0])],
                {"a": 5},
                {"a": ["x"]},
                {"a": [0.5]},
                {"a": [math.nan]},
                {"a": [True]},
                {"a": [-1]},
                {"a": [99]},
                {"a": []},
                {"a": None},
                {"a": "01"},
                {"a": range(10**12)},
                {"a": [0], "b": [0]},
                {"": [0]},
                {1: [0]},
            ),
        ),
        n_tokens=((4,), (0, -1, 2.5, "x", None, math.nan, 10**12)),
    ),
}
