"""Configurations: what means nothing is refused in one line, what is meant is kept."""

import json
import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emg_lens.errors import EmgLensError
from emg_lens.hooks import EdgeError, flow, none
from emg_lens.lens.config import EncoderConfig, SignalConfig
from emg_lens.models.encoder import HookedBiosignalEncoder
from emg_lens.models.isonet import IsoNet, IsoNetConfig

SIZES = {"modalities": {"emg": 4, "acc": 3}, "n_samples": 8, "n_classes": 3}


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("positions", "lerned", "'none', 'learned', 'sinusoidal', 'rotary', 'rotary_time' or 'relative'"),
        ("norm", "Post", "'pre' or 'post'"),
        ("readout", "CLS", "'cls', 'mean', 'each' or 'none'"),
        ("embedding", "dedicate", "'dedicated' or 'shared'"),
        ("act_fn", "tanh", "'gelu' or 'relu'"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(field, value, choices):
    with pytest.raises(ValueError, match=f"{field}='{value}'; expected {choices}") as error:
        EncoderConfig(**SIZES, **{field: value})
    assert "\n" not in str(error.value)


def test_choices_of_a_configuration_of_ones_own_are_checked_too():
    @dataclass
    class Own(SignalConfig):
        fusion: Literal["early", "late"] = "late"

    assert Own(**SIZES, fusion="early").fusion == "early"
    with pytest.raises(ValueError, match="fusion='middle'; expected 'early' or 'late'"):
        Own(**SIZES, fusion="middle")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_samples": 0}, "n_samples=0; expected a number greater than 0"),
        ({"n_classes": 0}, "n_classes=0; expected at least 1"),
        ({"class_names": ["a"]}, "1 class_names; expected n_classes=3"),
        ({"modalities": {}}, "at least one modality"),
        ({"modalities": {"emg": 0}}, "'emg' has 0 channels; expected at least one"),
        ({"modality_order": ["emg"]}, "expected an order of"),
    ],
)
def test_signals_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SignalConfig(**{**SIZES, **changes})


def test_what_every_model_says_of_its_signals():
    cfg = SignalConfig(**SIZES)
    assert cfg.class_names == ["0", "1", "2"] and cfg.n_channels == 7 and (cfg.n_layers, cfg.n_heads) == (0, 0)
    assert not cfg.layout.has_cls and len(cfg.layout) == 7
    assert EncoderConfig(**SIZES).n_layers == 4


def test_masked_edges_are_read_once_and_saved_as_text(tmp_path):
    cfg = EncoderConfig(**SIZES, masked_edges="flow('acc', 'cls')", d_model=16, n_layers=2)
    assert cfg.permanent_mask == flow("acc", "cls") and EncoderConfig(**SIZES).permanent_mask == none()
    model = HookedBiosignalEncoder(cfg)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["masked_edges"] == "flow('acc', 'cls')"
    again = HookedBiosignalEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.permanent_mask(), model.permanent_mask()) and again.cfg == cfg
    with pytest.raises(EdgeError, match="edge expression"):
        EncoderConfig(**SIZES, masked_edges="flow('acc', ")


SAVED_BEFORE = {  # as the first version of the package wrote it
    "act_fn": "gelu", "class_names": ["a", "b", "c"], "cls_token": True, "d_mlp": 8, "d_model": 16,
    "drop_path": 0.0, "dropout": 0.1, "embedding": "dedicated", "eps": 1e-05, "modalities": {"acc": 3, "zeta": 4},
    "modality_order": ["zeta", "acc"], "n_classes": 3, "n_heads": 2, "n_layers": 1, "n_samples": 8, "norm": "post",
    "patch_samples": None, "positions": "learned", "qkv_bias": True, "readout": "cls", "rotary_base": 10000.0,
    "masked_edges": "flow('acc', 'cls')", "shared_head": False,
}  # fmt: skip


def test_a_model_saved_by_the_first_version_still_loads(tmp_path):
    model = IsoNet(IsoNetConfig(**SAVED_BEFORE))
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SAVED_BEFORE, sort_keys=True))
    again = IsoNet.from_pretrained(tmp_path)
    x = model.example_input(2)
    assert torch.equal(again(x), model.eval()(x)) and again.layout.modalities == ("zeta", "acc")


def saved(folder):
    model = IsoNet(IsoNetConfig(**{**SIZES, "d_model": 16, "n_layers": 1, "n_heads": 2, "d_mlp": 8}))
    model.save_pretrained(folder)
    return model


def changed(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without_a_checksum(folder, **weights):
    path = folder / "model.safetensors"
    save_file({**load_file(path), **weights}, path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: (folder / "config.json").write_text('{"d_model": 16'), "cannot be loaded as IsoNet"),
        (lambda folder: (folder / "config.json").write_text("[1, 2]"), "cannot be loaded as IsoNet"),
        (lambda folder: changed(folder, d_model="wide"), "cannot be loaded as IsoNet|d_model"),
        (lambda folder: changed(folder, dropout=0.5), "dropout is 0.5, and the weights were saved with 0.0"),
        (lambda folder: changed(folder, class_names=["b", "a", "c"]), "class_names is .* saved with"),
        (lambda folder: changed(folder, no_such=1), "IsoNet has no setting 'no_such'"),
        (lambda folder: without_a_checksum(folder, W=torch.zeros(2)), "cannot be loaded as IsoNet .*W"),
        (
            lambda folder: without_a_checksum(folder, **{"unembed.b_U": torch.full((3,), torch.nan)}),
            "the weights unembed.b_U contain NaN, infinity or numbers beyond 1e",
        ),
        (  # its square is infinite: outputs would be NaN
            lambda folder: without_a_checksum(folder, **{"embed.b_E": torch.full((7, 16), -2.5e30)}),
            "the weights embed.b_E contain NaN, infinity or numbers beyond 1e",
        ),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(tmp_path, damage, message):
    saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(EmgLensError, match=message) as error:
        IsoNet.from_pretrained(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_one_changed_byte_of_the_weights_is_refused(tmp_path):
    model, path = saved(tmp_path), tmp_path / "model.safetensors"
    content = path.read_bytes()
    for at in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :])
        try:
            again = IsoNet.from_pretrained(tmp_path)
        except EmgLensError:
            continue
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True)), at
        assert again.cfg == model.cfg


def test_changed_weights_are_refused_also_where_the_mark_of_the_checksum_was_changed(tmp_path):
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes().replace(b"emg-lens-sha256:", b"emg-lens-sha255:"))
    content[-1] ^= 8
    path.write_bytes(content)
    with pytest.raises(EmgLensError, match="its checksum is missing"):
        IsoNet.from_pretrained(tmp_path)


def test_another_configuration_can_be_given_in_place_of_the_saved_one(tmp_path):
    model = saved(tmp_path)
    cfg = replace(model.cfg, dropout=0.3)
    assert IsoNet.from_pretrained(tmp_path, config=cfg).cfg.dropout == 0.3


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(EmgLensError, match="there is no such folder"):
        IsoNet.from_pretrained(tmp_path / "none" / "model")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in ("d_model", "n_heads", "n_layers", "d_mlp", "patch_samples")
            for value in (2.5, True, "4", math.nan, 0)
        ),
        *(("n_samples", value) for value in (2.5, True, "8", math.inf)),
        *(("n_classes", value) for value in (2.5, True, "3", -1, 10**9)),
        *(("dropout", value) for value in (math.nan, -0.1, 1, "0.1", True)),
        *(("eps", value) for value in (math.nan, 0.0, math.inf, "small")),
        *((field, value) for field in ("cls_token", "qkv_bias") for value in ("no", 2, None)),
        ("n_layers", 10**9),
        ("modalities", ["emg"]),
        ("modalities", {"emg": 2.5}),
        ("modalities", {"emg": True}),
        ("modalities", {"emg": 10**9}),
        ("modalities", {3: 2}),
        ("class_names", "abc"),
        ("class_names", [None, "a", "b"]),
        ("masked_edges", 3),
    ],
)
def test_a_field_of_another_type_or_range_is_refused_in_one_line(field, value):
    with pytest.raises(EmgLensError) as error:
        EncoderConfig(**{**SIZES, field: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_numbers_of_numpy_are_taken_as_pythons():
    config = EncoderConfig(**{**SIZES, "n_classes": np.int64(3)}, dropout=np.float32(0.5))
    assert type(config.n_classes) is int and type(config.dropout) is float


@pytest.mark.parametrize(
    "size", [{"d_model": 2**40}, {"d_mlp": 10**12}, {"n_samples": 10**12}, {"n_layers": 10**4, "d_mlp": 10**8}]
)
def test_a_model_beyond_memory_is_refused_before_it_is_built(size):
    config = EncoderConfig(**{**SIZES, **size})
    with pytest.raises(EmgLensError, match=r"HookedBiosignalEncoder with .* GiB of memory, but .* are free"):
        HookedBiosignalEncoder(config)


@pytest.mark.parametrize("config", [None, 3, {"n_samples": 4}, SignalConfig(**SIZES)])
def test_a_model_takes_the_configuration_of_its_kind(config):
    with pytest.raises(EmgLensError, match="HookedBiosignalEncoder: config=.*expected an EncoderConfig"):
        HookedBiosignalEncoder(config)


@pytest.mark.parametrize("name, value", [("d_model", 0), ("n_heads", -1), ("n_layers", 10**9), ("d_mlp", True)])
def test_a_class_that_declares_a_field_anew_keeps_its_bounds(name, value):
    with pytest.raises(EmgLensError, match=f"{name}={value}; expected"):
        IsoNetConfig(**SIZES, **{name: value})
