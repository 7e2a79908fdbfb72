"""A pre-training from its file: the folder it leaves, what continues, and what is refused."""

import io
import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from toy_pretraining import LOSSES

from emg_lens.data import DataError
from emg_lens.io.checksums import DamagedFileError
from emg_lens.io.locking import BusyError, exclusive_lock
from emg_lens.io.run_folder import RunFolderError
from emg_lens.training import PretrainingError, PretrainingSpec, run_pretraining
from emg_lens.training.pretraining import run_folder
from emg_lens.training.pretraining.spec import shipped_pretrainings

SPEC = """
name: toy
corpus:
  folders: [shards]
  modalities: {emg: 4}
held_out: {by: subject, fraction: 0.3}
model: {architecture: tinymyo, d_model: 16, n_heads: 2, n_layers: 1, d_mlp: 16, patch_samples: 10, dropout: 0.0,
        hidden_dropout: 0.0, drop_path: 0.0}
recipe: {like: tinymyo-released, epochs: 2, batch_size: 8, micro_batch: 4, lr: 0.003, warmup_epochs: 1}
log_steps: 1
"""


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "shards"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(4):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["data"] = rng.normal(size=(10, 3, 40)).astype("f4")
            file.attrs.update(subject=f"toy/{i}", modalities=json.dumps({"emg": 3}), fs=200.0)
    return tmp_path / "data"


@pytest.fixture
def spec():
    return PretrainingSpec.parse(SPEC)


def run(spec, data, out, **options):
    return run_pretraining(spec, data, out, device="cpu", **options)


def test_a_run_writes_losses_a_record_and_a_model_that_loads(spec, data, tmp_path):
    result = run(spec, data, tmp_path / "runs")
    assert {f.name for f in result.folder.iterdir() if f.name[0] != "."} == {
        "spec.yaml", "environment.json", "data.json", "losses.csv", "checkpoint.safetensors", "checksums.json", "model",
    }  # fmt: skip
    assert PretrainingSpec.load(result.folder / "spec.yaml") == spec
    facts = json.loads((result.folder / "data.json").read_text())
    assert facts["n_windows"] == 30 and facts["held_out"] == list(result.validation.subjects)
    losses = pd.read_csv(result.folder / "losses.csv")
    assert [*losses.columns] == [*LOSSES, "windows_per_s"] and losses["step"].tolist() == [*range(1, 7)]
    assert losses["validation_masked"].notna().tolist() == [False, False, True] * 2
    x = torch.from_numpy(result.validation.read(np.arange(3)))
    again = type(result.model).from_pretrained(result.folder / "model")
    assert torch.equal(result.model(x), again(x)) and x.shape == (3, 4, 40)


def test_a_finished_run_is_not_repeated_and_a_stopped_one_is_resumed(spec, data, tmp_path, monkeypatch):
    expected = run(spec, data, tmp_path / "one")
    seen = []
    monkeypatch.setattr(run_folder, "pretrain", lambda *a, **k: seen.append(1))
    again = run(spec, data, tmp_path / "one")
    assert not seen and again.losses.equals(expected.losses)
    monkeypatch.undo()
    real = run_folder.pretrain

    def stopped(*args, **options):
        real(*args, **options, stop_after=4)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "pretrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(spec, data, tmp_path / "two")
    monkeypatch.undo()
    printed = io.StringIO()
    result = run(spec, data, tmp_path / "two", console=Console(file=printed, width=500))
    assert f"resuming {result.folder}" in printed.getvalue()
    pd.testing.assert_frame_equal(result.losses[LOSSES], expected.losses[LOSSES], check_exact=True)
    for one, other in zip(result.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text(file.read_text().replace("1,", "9,", 1)),
        lambda file: file.write_text(""),
        lambda file: file.unlink(),
    ],
)
def test_a_changed_table_of_a_finished_run_is_refused_and_named(spec, data, tmp_path, damage):
    damage(run(spec, data, tmp_path).folder / "losses.csv")
    with pytest.raises(DamagedFileError, match="losses.csv"):
        run(spec, data, tmp_path)


def test_another_configuration_has_another_folder_and_other_data_are_refused(spec, data, tmp_path):
    out = tmp_path / "runs"
    first = run(spec, data, out).folder
    other = PretrainingSpec.parse(SPEC.replace("lr: 0.003", "lr: 0.002"))
    assert run(other, data, out).folder != first
    assert PretrainingSpec.parse(SPEC + "title: in other words\n").digest() == spec.digest() != other.digest()
    with h5py.File(data / "shards" / "0.h5", "r+") as file:
        file["data"][0, 0, 0] += 1
    with pytest.raises(RunFolderError, match="made with other data"):
        run(spec, data, out)
    text = (first / "data.json").read_text()
    (first / "data.json").write_text(text.replace("n_windows", "n_window"))
    with pytest.raises(RunFolderError, match="delete"):
        run(spec, data, out)


def test_a_process_has_only_one_precision(spec, data, tmp_path):
    run(spec, data, tmp_path / "runs")
    with pytest.raises(PretrainingError, match="this process cannot compute with precision='bf16'"):
        run(spec, data, tmp_path / "others", precision="bf16")


def test_two_runs_in_one_folder_at_a_time_are_refused(spec, data, tmp_path):
    folder = tmp_path / "runs" / spec.name / spec.digest()
    folder.mkdir(parents=True)
    with exclusive_lock(folder / ".lock"), pytest.raises(BusyError, match="another --out"):
        run(spec, data, tmp_path / "runs")


def test_shards_of_data_sets_are_written_once_and_shared(tmp_path):
    text = SPEC.replace("  folders: [shards]\n  modalities: {emg: 4}\n", """
  parts: {toy: {dataset: simulated, folder: null, recipe: {fs: 100}, window_s: 0.4, subjects: [1, 2]}}
""").replace("batch_size: 8", "batch_size: 64").replace("log_steps: 1", "log_steps: 50")  # fmt: skip
    result = run(PretrainingSpec.parse(text), None, tmp_path)
    shards = {f: f.stat().st_mtime_ns for f in (tmp_path / "corpora").rglob("*.h5")}
    assert shards and set(result.windows.modalities) == {"emg", "acc"}
    other = PretrainingSpec.parse(text.replace("lr: 0.003", "lr: 0.002"))
    run(other, None, tmp_path)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "corpora").rglob("*.h5")} == shards


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: toy", "nam: toy"), "name is missing; nam is not a known key; did you mean 'name'"),
        (("folders: [shards]", "folders: []"), "either parts .* or folders"),
        (("fraction: 0.3", "fraction: 1.5"), "held_out.fraction"),
        (
            ("corpus:", "cohort: {dataset: simulated}\ncorpse:"),
            "is a study, not a pre-training; run it with emg-lens run",
        ),
        (("like: tinymyo-released", "like: mae"), "known: tinymyo-released"),
        (("{emg: 4}", "{emg: -1}"), "modalities"),
    ],
)
def test_a_wrong_specification_is_an_error_of_one_line(change, message):
    with pytest.raises(PretrainingError, match=message):
        PretrainingSpec.parse(SPEC.replace(*change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("architecture: tinymyo", "architecture: tiny"), KeyError, "unknown model 'tiny'"),
        (("d_mlp: 16", "d_mpl: 16"), ValueError, "no setting 'd_mpl'"),
        (("{emg: 4}", "{emg: 2}"), DataError, "has 3 channels of emg, more than the corpus has"),
        (("folders: [shards]", "folders: [shard]"), DataError, "does not exist"),
        (("batch_size: 8", "batch_size: 64"), RuntimeError, "fewer than one step needs"),
    ],
)
def test_a_specification_that_does_not_fit_the_data_is_an_error_of_one_line(data, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        run(PretrainingSpec.parse(SPEC.replace(*change)), data, tmp_path / "runs")


def test_a_model_that_cannot_reconstruct_is_refused(data, tmp_path):
    text = SPEC.replace("tinymyo, ", "isonet, ").replace(" patch_samples: 10,", "")
    text = text.replace("dropout: 0.0,", "", 1).replace("hidden_dropout: 0.0, drop_path: 0.0", "")
    with pytest.raises(PretrainingError, match="'isonet' cannot reconstruct masked tokens .*; use tinymyo"):
        run(PretrainingSpec.parse(text), data, tmp_path / "runs")


def test_a_folder_is_needed_and_a_tracker_must_be_installed(spec, data, tmp_path, monkeypatch):
    with pytest.raises(PretrainingError, match="give their parent folder with --data"):
        run(spec, None, tmp_path)
    monkeypatch.setitem(run_folder.INSTALLED, "tensorboard", lambda: False)
    with pytest.raises(PretrainingError, match="tensorboard is not installed"):
        run(spec, data, tmp_path, log_to="tensorboard")
    with pytest.raises(RunFolderError, match="cannot write"):
        (tmp_path / "file").write_text("")
        run(spec, data, tmp_path / "file")


def test_shipped_specifications_are_valid():
    assert "pretrain-myo" in shipped_pretrainings()
    for name in shipped_pretrainings():
        shipped = PretrainingSpec.load(name)
        assert shipped.name == name and shipped.title and PretrainingSpec.parse(shipped.to_yaml()) == shipped


def test_the_command_line_runs_it_and_prints_errors_in_one_line(data, tmp_path):
    (tmp_path / "toy.yaml").write_text(SPEC)

    def call(*words):
        command = [sys.executable, "-m", "emg_lens", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = call(
        "pretrain", tmp_path / "toy.yaml", "--data", data, "--out", tmp_path / "runs", "--device", "cpu", "--workers", 1
    )
    assert done.returncode == 0 and "masked loss after 6 steps: training" in done.stdout, done.stderr
    assert "validation (subjects toy/" in done.stdout
    done = call(
        "pretrain", tmp_path / "toy.yaml", "--data", data, "--out", tmp_path / "runs", "--device", "cpu",
        "--precision", "bf16",
    )  # fmt: skip
    assert done.returncode == 2 and "was made with --precision no, not bf16" in done.stderr.replace("\n", " ")
    shutil.rmtree(data)
    done = call("pretrain", tmp_path / "toy.yaml", "--data", data, "--out", tmp_path / "runs", "--device", "cpu")
    assert done.returncode == 2 and done.stderr.startswith("error:") and done.stderr.count("\n") == 1
    done = call("corpus", tmp_path / "toy.yaml", "--out", tmp_path / "c")
    assert done.returncode == 2 and "at least one part" in done.stderr
