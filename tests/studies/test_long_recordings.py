"""Large recordings: one process at a time is in a large step, and the numbers are those of small recordings."""

import json
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from tiny import TINY, all_fits

from emg_lens.io.locking import exclusive_lock
from emg_lens.studies.fits.fit_execution import run_fit
from emg_lens.studies.fits.fit_memory import FitMemory
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.fits.prepared_fit import prepare_fit
from emg_lens.studies.runner import run_study
from emg_lens.studies.spec.study_spec import StudySpec


@pytest.fixture(scope="module")
def study():
    return StudySpec.parse(TINY)


def test_samples_that_are_taken_are_standardized_in_place_and_gone_from_the_trials(study):
    trials = load_fit(all_fits(study)[0], None)
    expected = {name: trials.x(getattr(trials, name)) for name in ("train", "test")}
    assert not np.array_equal(trials.train.x, expected["train"])
    for name, x in expected.items():
        part = getattr(trials, name)
        samples = part.x
        taken = trials.take_x(part)
        np.testing.assert_array_equal(taken, x)
        assert np.shares_memory(taken.numpy(), samples)
        assert np.isnan(part.x).all(), "nobody can use overwritten samples by mistake"


def test_trials_of_the_next_fit_are_not_changed_by_a_fit_that_standardizes_in_place(study):
    first = all_fits(study)[0]
    before = load_fit(first, None).train.x.copy()
    prepare_fit(first, None, "cpu")
    np.testing.assert_array_equal(load_fit(first, None).train.x, before)


def test_the_training_trials_are_released(study):
    prepared = prepare_fit(all_fits(study)[0], None, "cpu")
    assert len(prepared.train) and prepared.test.reference is prepared.train.x
    prepared.release_training()
    assert not len(prepared.train) and prepared.test.reference is None
    assert prepared.train.x.untyped_storage().nbytes() == 0


def test_large_recordings_are_handled_one_at_a_time_and_give_the_numbers_of_small_ones(study, tmp_path, monkeypatch):
    expected, turns = run_study(study, out=tmp_path / "small", jobs=1), []
    for module in ("fit_memory", "fit_trials"):
        monkeypatch.setattr(f"emg_lens.studies.fits.{module}.LARGE_BYTES", -1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def counted(path, **options):
        turns.append((path.parent, options))
        return exclusive_lock(path, **options)

    monkeypatch.setattr("emg_lens.studies.fits.fit_memory.exclusive_lock", counted)
    result = run_study(study, out=tmp_path / "large", jobs=1)
    pd.testing.assert_frame_equal(result.scores, expected.scores, check_exact=True)
    for name in ("leakage.json", "analyses/shift.csv", "logits.safetensors"):
        one, other = (run.folder / "fits" / "02" / name for run in (result, expected))
        assert one.read_bytes() == other.read_bytes()
    assert len(turns) == 3 * 4, "check, prepare, analyse, write"
    assert set(map(str, turns)) == {str((tmp_path, {"wait": 600.0}))}


def test_waiting_for_other_processes_does_not_count_as_time_of_a_fit(study, tmp_path, monkeypatch):
    turns = []

    @contextmanager
    def slowly(memory):
        turns.append(memory)
        time.sleep(1.5)
        yield

    monkeypatch.setattr(FitMemory, "large_step", slowly)
    fit, folder, started = all_fits(study)[0], tmp_path / "fit", time.perf_counter()
    run_fit(fit, None, folder, "cpu", lambda done: None)
    seconds = json.loads((folder / "fit.json").read_text())["seconds"]
    assert len(turns) == 3 and 0 < seconds < time.perf_counter() - started - 1.5 * len(turns)


@pytest.mark.parametrize("most", [-1, 1 << 26])
def test_report_modules_are_imported_early_only_if_there_is_memory(study, tmp_path, monkeypatch, most):
    imported = []
    monkeypatch.setattr("emg_lens.studies.fits.fit_memory.LARGE_BYTES", most)
    monkeypatch.setattr("emg_lens.studies.runs.fit_workers._import_report_modules", lambda: imported.append(True))
    run_study(study, out=tmp_path, jobs=2)
    assert bool(imported) == (most > 0)
