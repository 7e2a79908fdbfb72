"""Pre-training: it learns, and gives the same numbers whoever reads, stops, kills or shares it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_pretraining import LOSSES, N_TRAINING, RECIPE, make_corpora, make_model, run

from emg_lens.data import DataError, TrialSet
from emg_lens.data.corpus import Corpus, HeldOut
from emg_lens.io import checkpoint
from emg_lens.io.checkpoint import CheckpointError
from emg_lens.models import build_model
from emg_lens.training import FitError
from emg_lens.training.pretraining.loop import pretrain
from emg_lens.training.pretraining.masking import masked_and_visible_errors, token_errors
from emg_lens.training.pretraining.window_batches import WindowBatches, read_batches

SCRIPT = Path(__file__).parents[1] / "toy_pretraining.py"
STEPS = RECIPE.epochs * (N_TRAINING // RECIPE.batch_size)


@pytest.fixture(autouse=True)
def _save_at_every_row(monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e6)


def assert_same(result, expected) -> None:
    pd.testing.assert_frame_equal(result[1][LOSSES], expected[1][LOSSES], check_exact=True)
    for (name, one), other in zip(result[0].named_parameters(), expected[0].parameters(), strict=True):
        assert torch.equal(one, other), name


# --- what is learned --------------------------------------------------------------------------------------


def test_it_learns_to_reconstruct_sines_and_returns_the_losses():
    model, state = make_model(), torch.get_rng_state()
    _, table = run(model=model, recipe=RECIPE.model_copy(update={"epochs": 40, "warmup_epochs": 4, "lr": 2e-2}))
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    at_ends = table["validation_masked"].notna()
    assert at_ends.sum() == 40 and table.loc[at_ends, "epoch"].tolist() == list(range(1, 41))
    assert table["step"].iloc[-1] == 240 and (table["windows_per_s"] > 0).all()
    first, last = (table.loc[at_ends, "validation_masked"].iloc[i] for i in (0, -1))
    assert last < 0.5 * first


def test_a_step_is_adamw_on_the_documented_loss():
    recipe = RECIPE.model_copy(update={"epochs": 1, "warmup_epochs": 0.0, "clip_norm": None})
    model, table = run(recipe=recipe, stop_after=1)
    plain, (windows, _) = make_model(), make_corpora()
    (batch,) = read_batches(WindowBatches(windows, recipe, 4, 0), [(0, 16)], 0)
    out = plain(batch.x, masked=batch.masked)
    masked, visible = masked_and_visible_errors(token_errors(out, batch.x, 4, 1.0), batch.masked, batch.real)
    assert (batch.masked.sum(1) == 6).all()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=3e-3, betas=(0.9, 0.999), weight_decay=0.01)
    (masked + 0.1 * visible).mean().backward()
    optimizer.step()
    assert table["train_masked"][0] == pytest.approx(masked.mean().item(), abs=1e-6)
    assert table["train_visible"][0] == pytest.approx(visible.mean().item(), abs=1e-6)
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name


def test_micro_batches_and_readers_do_not_change_the_result():
    expected = run()
    for options in ({"workers": 2}, {"recipe": RECIPE.model_copy(update={"micro_batch": 5})}):
        model, table = run(**options)
        assert np.allclose(table[LOSSES], expected[1][LOSSES], atol=1e-5, equal_nan=True), options
    assert_same(run(workers=1), expected)


def test_masks_differ_between_epochs_and_are_the_same_in_every_validation():
    windows, _ = make_corpora()

    def masks(epoch):
        (batch,) = read_batches(WindowBatches(windows, RECIPE, 4, epoch), [(0, 100)], 0)
        return batch.masked

    assert not torch.equal(masks(0), masks(1))
    assert torch.equal(masks(None), masks(None)) and not torch.equal(masks(None), masks(0))


# --- stopped, killed, shared ------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [(1, 5, 6, 11), (STEPS,)])
def test_stopped_within_an_epoch_and_resumed_it_gives_the_same_bits(tmp_path, stops):
    expected, path = run(dropout=0.2), tmp_path / "c.safetensors"
    for stop in stops:
        _, table = run(path, dropout=0.2, stop_after=stop)
        assert table["step"].iloc[-1] == stop
    result = run(path, dropout=0.2)
    # A stop between two rows of the table is one row more.
    same = result[1].merge(expected[1][["step"]], on="step")
    columns = [name for name in LOSSES if not name.startswith("train") or stops == (STEPS,)]
    pd.testing.assert_frame_equal(same[columns], expected[1][columns], check_exact=True)
    for one, other in zip(result[0].parameters(), expected[0].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_killed_within_an_epoch_and_resumed_it_gives_the_same_bits(tmp_path):
    expected, path, table = run(dropout=0.2), tmp_path / "c.safetensors", tmp_path / "t.csv"
    code = f"""
import runpy, sys, time
import torch
torch.set_num_threads({torch.get_num_threads()})  # the bits depend on it
from emg_lens.io.checkpoint import CheckpointFile
save = CheckpointFile.save
def slow(self, tensors, facts):
    save(self, tensors, facts)
    if int(tensors["done"]) == 8:
        print("saved", flush=True)
        time.sleep(600)
CheckpointFile.save = slow
sys.argv = [{str(SCRIPT)!r}, {str(path)!r}, {str(table)!r}, "0.2"]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "saved\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not table.exists()
    assert_same(run(path, dropout=0.2), expected)


def test_a_checkpoint_of_another_pre_training_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    run(path, stop_after=2)
    with pytest.raises(CheckpointError, match="belongs to another pre-training .*recipe"):
        run(path, recipe=RECIPE.model_copy(update={"lr": 1e-3}))
    with pytest.raises(CheckpointError, match="weights"):
        other = make_model()
        with torch.no_grad():
            next(other.parameters()).add_(1)
        run(path, model=other)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="damaged"):
        run(path)


# --- what is refused --------------------------------------------------------------------------------------


def test_unusable_windows_and_models_are_errors_of_one_line():
    windows, _ = make_corpora()
    with pytest.raises(FitError, match="fewer than one step needs"):
        pretrain(make_model(), windows, RECIPE.model_copy(update={"batch_size": 101}))
    with pytest.raises(FitError, match=r"windows have 3 channels and 40 samples"):
        pretrain(make_model(samples=80), windows, RECIPE)
    with pytest.raises(FitError, match=r"validation have 2 channels"):
        pretrain(make_model(), windows, RECIPE, validation=make_corpora(channels=2)[1])
    with pytest.raises(ValueError, match="patches of channels"):
        other = build_model("isonet", modalities={"emg": 3}, n_samples=40, n_classes=2, d_model=8, n_heads=2)
        pretrain(other, windows, RECIPE)
    with pytest.raises(FitError, match="no parameter"):
        pretrain(make_model().requires_grad_(False), windows, RECIPE)
    still, subject = np.ones((160, 3, 40), np.float32), ["a"] * 80
    still[:80] = np.random.default_rng(0).normal(size=(80, 3, 40))
    parts = [TrialSet.from_arrays(x, [0] * 80, subject, [0] * 80, {"emg": 3}, 200.0) for x in np.split(still, 2)]
    moving, constant = Corpus.of_trials(parts).divide(HeldOut(by="file", fraction=0.5))
    if moving.file_of(0).name == "trials 1":
        moving, constant = constant, moving
    with pytest.raises(FitError, match=r"all 80 windows are constant \(the first is from trials 1\)"):
        pretrain(make_model(), constant, RECIPE, validation=moving)
    with pytest.raises(FitError, match="all 80 windows are constant"):
        pretrain(make_model(), moving, RECIPE, validation=constant)
    with pytest.raises(FitError, match="loss became nan|loss became inf"):
        recipe = RECIPE.model_copy(update={"lr": 1e3, "clip_norm": None, "warmup_epochs": 0.0, "epochs": 20})
        model = make_model()
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
        pretrain(model, windows, recipe)


def test_mostly_constant_windows_are_accepted():
    still = np.ones((200, 3, 40), np.float32)
    still[5] = np.random.default_rng(0).normal(size=(3, 40))  # not one of those from all over
    windows = Corpus.of_trials(TrialSet.from_arrays(still, [0] * 200, ["a"] * 200, [0] * 200, {"emg": 3}, 200.0))
    assert len(pretrain(make_model(), windows, RECIPE, stop_after=1)) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_nan_in_a_file_is_reported_once_from_any_reader(tmp_path, workers):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        values = np.random.default_rng(0).normal(size=(64, 3, 40))
        values[40, 2, 3] = np.nan
        file["data"] = values
    with pytest.raises(DataError, match=r"a\.h5: window 40, channel 2 holds NaN") as error:
        pretrain(make_model(), Corpus.open([tmp_path]), RECIPE, workers=workers)
    assert "Traceback" not in str(error.value)
