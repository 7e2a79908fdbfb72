"""`emg-lens probe`: one line a check, exit code 0, 1 or 2."""

import pytest
import torch
from test_cli import call, one_line, own_signals  # noqa: F401 - fixtures

from emg_lens import build_model
from emg_lens.analysis import MODEL_CHECKS
from emg_lens.models.saved_models import saved_model

SMALL = ["--set", "d_model=24", "--set", "n_layers=1", "--set", "d_mlp=16", "--samples", 121]


def test_a_sound_model_exits_with_0_and_has_one_line_a_check(call):  # noqa: F811
    code, out, err = call("probe", "tinymyo-gestures", *SMALL, width=60)
    lines = out.splitlines()
    assert code == 0 and not err.strip()
    assert lines[0] == "TinyMyoGestures, x [4, 8, 121]: 12 checks, none failed"
    assert [name for name in MODEL_CHECKS.names() if not any(f"  {name} " in line for line in lines)] == []
    assert len(lines) == 1 + len(MODEL_CHECKS.names())
    assert any(line.startswith("  pass  causal ") for line in lines)


@pytest.mark.parametrize("place", ["saved", "saved/model"])
def test_a_saved_model_with_a_fault_exits_with_1(call, tmp_path, monkeypatch, place):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    edges = "flow('acc', 'cls') | flow('acc', 'emg')"
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 8}
    data = {"modalities": {"emg": 3, "acc": 2}, "n_samples": 20, "n_classes": 3}
    model = build_model("isonet", masked_edges=edges, **data, **sizes).eval()
    model.save_pretrained(tmp_path / place)
    code, out, err = call("probe", "saved")
    assert code == 1 and not err.strip()
    assert "FAIL  inert input" in out and "2 of 5 channels (3, 4)" in out
    loaded = saved_model("saved")
    x = model.example_input(2)
    assert type(loaded) is type(model) and torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("name", ["isonet", "multimodal-transformer", "multimodal-mlp", "tinymyo", "lstm-gestures"])
def test_a_saved_model_needs_no_name(name, tmp_path):
    model = build_model(name, modalities={"emg": 2}, n_samples=80, n_classes=2).eval()
    model.save_pretrained(tmp_path)
    assert type(saved_model(tmp_path)) is type(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tinymio"], "did you mean 'tinymyo'?"),
        (["isonet", "--set", "d_modle=8"], "did you mean 'd_model'?"),
        (["./nowhere"], "expected a file of weights"),
        (["tinymyo-gestures", "--samples", 20], "n_samples=20 gives 0 time step"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_2(call, tmp_path, monkeypatch, arguments, message):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    code, out, err = call("probe", *arguments)
    assert code == 2 and not out and message in one_line(err)


def test_settings_of_a_saved_model_are_fixed(call, tmp_path):  # noqa: F811
    build_model("multimodal-mlp", modalities={"emg": 2}, n_samples=20, n_classes=2).save_pretrained(tmp_path)
    code, _, err = call("probe", tmp_path, "--channels", 4)
    assert code == 2 and "leave out --channels" in one_line(err)
    (tmp_path / "config.json").write_text("{}")
    code, _, err = call("probe", tmp_path)
    assert code == 2 and "no registered model has exactly the settings" in one_line(err)


def test_help_has_an_example(call):  # noqa: F811
    code, out, _ = call("probe", "--help")
    assert code == 0 and "Example: emg-lens probe tinymyo-gestures" in " ".join(out.split())
