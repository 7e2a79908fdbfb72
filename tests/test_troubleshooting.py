"""Every message of docs/troubleshooting.md is one that a user gets today."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emg_lens import EmgLensError, IsoNet, IsoNetConfig, TokenLayout, TrialSet, adapt, cross_modal, cut, cutting
from emg_lens.cli import app

PAGE = Path(__file__).parents[1] / "docs/troubleshooting.md"
MESSAGES = re.findall(r"^```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
STUDY = """
name: mine
title: A small study
cohort: {dataset: trials}
split: {by: repetition, test: [2, 4]}
model: {architecture: isonet, d_model: 16, n_heads: 2, n_layers: 2, d_mlp: 16}
training: {epochs: 1, anneal_epochs: 1}
conditions: {layer_masks: null, removals: null, controls: null, extra: [{name: a, edges: cross_modal()}]}
"""


class Mixed(torch.nn.Module):
    """A model in which a convolution mixes tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(16, 16, 3, padding=1)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.conv(x.transpose(1, 2)).transpose(1, 2))


def save(path: Path, repetitions: list[int], seed: int = 0) -> Path:
    subject, y, repetition = (axis.ravel() for axis in np.meshgrid(["A", "B"], [0, 1], repetitions, indexing="ij"))
    x = np.random.default_rng(seed).normal(size=(len(y), 7, 40))
    channels = {"emg": 4, "acc": 3}
    trials = TrialSet.from_arrays(x, y=y, subject=subject, repetition=repetition, channels=channels, fs=200.0)
    trials.save(path)
    return path


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list[str]:
    """The messages of one mistake after another."""
    folder, messages = tmp_path_factory.mktemp("mistakes"), []

    def command(*arguments: object, study: str = STUDY) -> None:
        (folder / "mine.yaml").write_text(study, encoding="utf-8")
        name, *options = map(str, arguments)
        error = CliRunner().invoke(app, [name, str(folder / "mine.yaml"), *options]).exception
        if error is not None:
            assert isinstance(error, EmgLensError), error
            messages.append(str(error))

    def refused(call, *arguments, **options) -> None:
        with pytest.raises(EmgLensError) as error:
            call(*arguments, **options)
        messages.append(str(error.value))

    trials, others = save(folder / "mine.h5", [1, 2, 3, 4]), save(folder / "other.h5", [1, 2, 3, 4], seed=1)
    command("check", study=STUDY.replace("epochs: 1,", "epoch: 1,"))
    command("check", "--data", trials, study=STUDY.replace("n_heads: 2", "n_heads: 3"))
    command("check", "--data", folder, study=STUDY.replace("trials", "folder"))
    command("check", "--data", trials, study=STUDY.replace("test: [2, 4]", "test: [2, 9]"))
    command("check", "--data", save(folder / "odd.h5", [1, 3]))
    command("run", "--data", trials, "--out", folder / "runs", "--jobs", "1")
    command("run", "--data", others, "--out", folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emg_lens.studies.fits.plugin_check.plugin_versions", lambda names: {"my-lab": "0.2"})  # noqa: ARG005
        command("run", "--data", trials, "--out", folder / "runs", "--jobs", "1")
    damaged = next((folder / "runs").rglob("input_statistics.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"zz")
    command("run", "--data", trials, "--out", folder / "runs", "--jobs", "1")
    if not torch.cuda.is_available():
        command("run", "--data", trials, "--out", folder / "runs", "--device", "cuda")
    else:
        messages.append("device 'cuda' cannot be used here (no GPU); expected cpu, cuda or mps")

    about = {"y": [0, 1], "subject": ["A", "A"], "repetition": [1, 2], "channels": {"emg": 3}, "fs": 200.0}
    refused(TrialSet.from_arrays, [np.zeros((3, 10)), np.zeros((3, 12))], **about)
    eight = {"y": [0, 1] * 4, "subject": ["A"] * 8, "repetition": range(8)}
    refused(TrialSet.from_arrays, np.random.default_rng(0).normal(size=(8, 10, 3)), **about | eight)

    x, layout = torch.randn(4, 11, 16), TokenLayout.groups({"emg": range(8), "acc": range(8, 11)}, n_tokens=11)
    larger = TokenLayout.groups({"emg": range(8), "acc": range(8, 12)}, n_tokens=12)
    mixed = Mixed().eval()

    def cut_all(model: torch.nn.Module, layout: TokenLayout | None, runs: bool = True) -> None:
        with cutting(adapt(model, x), cross_modal(), layout=layout):
            _ = model(x) if runs else None

    refused(cut_all, torch.nn.Sequential(torch.nn.Linear(16, 16)).eval(), layout)
    refused(cut_all, mixed, layout)
    refused(cut_all, mixed.encoder, None)
    refused(cut_all, mixed.encoder, larger)
    refused(cut_all, mixed.encoder, layout, runs=False)
    small = IsoNetConfig(modalities={"emg": 4, "acc": 3}, n_samples=20, n_classes=2, d_model=16, n_layers=2)
    refused(cut, IsoNet(small).eval(), cross_modal().at(layers=5))
    return messages


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_a_message_of_the_page_is_given(message, said):
    pattern = re.sub(r"([\[\]?*])", r"[\1]", message).replace("…", "*")
    assert any(fnmatchcase(one, pattern) for one in said), "\n".join(said)
