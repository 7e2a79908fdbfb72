"""ONNX files: run by an interpreter that the export does not use, and refused if they compute something else."""

import os
import re

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from emg_lens.analysis import export_onnx, quantised
from emg_lens.analysis.onnx_files import ExportError
from emg_lens.cli import app
from emg_lens.io.files import NotAFileError
from emg_lens.models.registry import build_model
from emg_lens.validation import ArgumentError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SIZES = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_mlp": 8}


def built(name="isonet", **settings):
    torch.manual_seed(0)
    settings = SIZES | settings
    return build_model(name, modalities={"emg": 3, "acc": 2}, n_samples=40, n_classes=3, **settings).eval()


@pytest.mark.parametrize(
    "model",
    [
        built(),
        pytest.param(built("tinymyo", patch_samples=10), marks=pytest.mark.slow),
        pytest.param(built("hierarchical", patch_samples=20, n_layers=2, n_fusion_layers=1), marks=pytest.mark.slow),
        quantised(built(), 8, activations=8, softmax="integer", calibration=built().example_input(16)),
    ],
    ids=["isonet", "tinymyo", "hierarchical", "integer softmax"],
)
def test_the_reference_interpreter_of_onnx_gives_the_models_outputs(model, tmp_path):
    done = export_onnx(model, tmp_path / "model.onnx", batch=2)
    assert done.size == (tmp_path / "model.onnx").stat().st_size and done.shape == (2, 5, 40)
    assert done.largest_difference < 1e-5 < done.largest_output
    assert done.latency_ms > 0 and done.latency_iqr_ms >= 0 and done.model_latency_ms > 0
    x = model.example_input(2, seed=7)
    evaluator = onnx.reference.ReferenceEvaluator(str(done.file))
    (theirs,) = evaluator.run(None, {"signals": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(theirs, model(x).numpy(), atol=1e-4)


class Drifting(nn.Module):
    """Adds the number of its calls, which a file cannot follow."""

    def __init__(self):
        super().__init__()
        self.map, self.calls = nn.Linear(3, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.map(x) + self.calls


class Branching(nn.Module):
    """Chooses by its input."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_file_that_computes_something_else_is_not_written(tmp_path):
    with pytest.raises(ExportError, match="outputs differ from the model's by .*; nothing was written"):
        export_onnx(Drifting(), tmp_path / "model.onnx", torch.randn(1, 3))
    with pytest.raises(ExportError, match="torch cannot export Branching to ONNX: ") as error:
        export_onnx(Branching(), tmp_path / "model.onnx", torch.randn(1, 3))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_hooks_and_models_without_input_are_refused(tmp_path):
    model = built()
    model.add_hook("hook_embed", lambda value, hook: value * 0)
    with pytest.raises(ArgumentError, match="the model has hooks, which a file cannot contain"):
        export_onnx(model, tmp_path / "model.onnx")
    with pytest.raises(ArgumentError, match="cannot make an input for Linear; pass x="):
        export_onnx(nn.Linear(2, 2), tmp_path / "model.onnx")


class Named(nn.Linear):
    part = "logits"

    def forward(self, x):
        return {self.part: super().forward(x), "features": x}


class OtherNames(Named):
    part = "scores"


@pytest.mark.parametrize(
    ("kind", "output"), [(Named, None), (OtherNames, lambda o: o["scores"]), (OtherNames, lambda o: o["scores"].exp())]
)
def test_one_output_of_several_is_exported(kind, output, tmp_path):
    model, x = kind(3, 2).eval(), torch.randn(4, 3)
    done = export_onnx(model, tmp_path / "model.onnx", x, output=output)
    (theirs,) = onnx.reference.ReferenceEvaluator(str(done.file)).run(None, {"signals": x.numpy()})
    expected = model(x)["logits"] if output is None else output(model(x))
    np.testing.assert_allclose(theirs, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: export_onnx(nn.LSTM(3, 2), f, torch.randn(1, 5, 3)),
            r"LSTM returns a tuple with .*, output=lambda o: o\[0\]",
        ),
        (lambda f: export_onnx(OtherNames(3, 2), f, torch.randn(1, 3)), r"OtherNames returns a dict .*o\['scores'\]$"),
        (
            lambda f: export_onnx(OtherNames(3, 2), f, torch.randn(1, 3), output=lambda o: o[0]),
            "raises KeyError .*; OtherNames returns a dict with",
        ),
        (lambda f: export_onnx(nn.Linear(3, 2), f, torch.randn(0, 3)), r"x has shape \[0, 3\]; expected at least one"),
        (lambda f: export_onnx(nn.Linear(3, 2), f, torch.randn(1, 4)), r"Linear does not run on x of shape \[1, 4\]"),
        (lambda f: export_onnx(built(), f, torch.randn(1, 2, 40)), r"input has shape \[1, 2, 40\] .*5 channels"),
        (lambda f: export_onnx(nn.Linear(3, 2), "", torch.randn(1, 3)), "file=''; expected a file in a folder"),
        (lambda f: export_onnx(nn.Linear(3, 2), f.parent, torch.randn(1, 3)), "expected a file in a folder that"),
        (lambda f: export_onnx(nn.Linear(3, 2), f / "m", torch.randn(1, 3)), "there is no folder '.*model.onnx'"),
    ],
)
def test_what_cannot_be_exported_is_one_line(call, message, tmp_path):
    with pytest.raises(ArgumentError, match=message) as error:
        call(tmp_path / "model.onnx")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emg_lens.analysis.onnx_files.write_bytes", full)
    with pytest.raises(ExportError, match="cannot write '.*model.onnx': No space left on device"):
        export_onnx(nn.Linear(3, 2), tmp_path / "model.onnx", torch.randn(1, 3))


def test_a_pipe_is_refused_before_the_export_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(NotAFileError, match="is a pipe or a device"):
        export_onnx(nn.Linear(3, 2), pipe, torch.randn(1, 3))
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_the_given_input_is_not_changed(tmp_path):
    class Centres(nn.Linear):
        def forward(self, x):
            x.sub_(x.mean())
            return super().forward(x)

    x = torch.randn(1, 3)
    kept = x.clone()
    assert export_onnx(Centres(3, 2), tmp_path / "model.onnx", x).largest_difference < 1e-5
    assert torch.equal(x, kept)


def test_an_input_that_needs_gradients_is_taken(tmp_path):
    x = torch.randn(1, 3, requires_grad=True)
    assert export_onnx(nn.Linear(3, 2), tmp_path / "m.onnx", x).largest_difference < 1e-5


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ExportError, match=r"onnx and onnxscript and onnxruntime not installed; pip install 'emg-lens\["
    ):
        export_onnx(built(), tmp_path / "model.onnx")


def test_the_command_writes_the_file_and_prints_what_was_measured(tmp_path):
    built().save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved.onnx"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "saved"), "--onnx", str(file), "--bits", "8"])
    assert done.exit_code == 0, done.output
    printed = " ".join(done.output.split())  # a long path is wrapped
    assert re.match(r"file .* weights in float32\) input .* difference .* time ", printed) and file.stat().st_size > 0
    assert "1 x 5 x 40" in printed


def test_a_model_without_some_edges_is_exported_without_them(tmp_path):
    model = built(masked_edges="flow('emg', 'emg') | flow('acc', 'emg') | flow('cls', 'emg')")
    assert model.blocks[0].attn.has_empty_rows
    assert export_onnx(model, tmp_path / "model.onnx").largest_difference < 1e-5
