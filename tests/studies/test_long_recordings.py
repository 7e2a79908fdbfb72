"""Large data are read by one process at a time and not kept, and give the numbers of small ones."""

import json
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from tiny import TINY, all_fits

from emg_lens.io.locking import one_at_a_time
from emg_lens.studies.fits.fit_execution import run_fit
from emg_lens.studies.fits.fit_trials import load_fit
from emg_lens.studies.runs.execution import run_study
from emg_lens.studies.spec.study_spec import StudySpec


@pytest.fixture(scope="module")
def study():
    return StudySpec.parse(TINY)


def test_samples_standardised_in_place_are_the_same_samples(study):
    trials = load_fit(all_fits(study)[0], None)
    kept = {name: trials.x(getattr(trials, name)) for name in ("train", "test")}
    assert not np.array_equal(trials.train.x, kept["train"])
    for name, expected in kept.items():
        part = getattr(trials, name)
        found = trials.x(part, in_place=True)
        np.testing.assert_array_equal(found, expected)
        assert np.shares_memory(found.numpy(), part.x)


def test_large_data_take_turns_and_give_the_numbers_of_small_ones(study, tmp_path, monkeypatch):
    expected, turns = run_study(study, out=tmp_path / "small", jobs=1), []
    for module in ("fits", "turns"):
        monkeypatch.setattr(f"emg_lens.studies.{module}.TURN_BYTES", -1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def counted(path, **options):
        turns.append((path.parent, options))
        return one_at_a_time(path, **options)

    monkeypatch.setattr("emg_lens.studies.runs.memory_lock.one_at_a_time", counted)
    found = run_study(study, out=tmp_path / "large", jobs=1)
    pd.testing.assert_frame_equal(found.scores, expected.scores, check_exact=True)
    for name in ("leakage.json", "shift.csv", "logits.safetensors"):
        one, other = (run.folder / "fits" / "02" / name for run in (found, expected))
        assert one.read_bytes() == other.read_bytes()
    assert len(turns) == 3 * 5 and set(map(str, turns)) == {
        str((tmp_path, {"wait": 600.0}))
    }  # read: thrice; compare; write


def test_the_time_in_line_is_not_counted_as_a_fits(study, tmp_path, monkeypatch):
    turns = []

    @contextmanager
    def slowly(cohort, data):
        turns.append(data)
        time.sleep(1.5)
        yield

    monkeypatch.setattr("emg_lens.studies.fits.fit_execution.taking_turns", slowly)
    fit, folder, started = all_fits(study)[0], tmp_path / "fit", time.perf_counter()
    run_fit(fit, None, folder, "cpu", lambda done: None)
    seconds = json.loads((folder / "fit.json").read_text())["seconds"]
    assert len(turns) >= 4 and 0 < seconds < time.perf_counter() - started - 1.5 * len(turns)


@pytest.mark.parametrize("most", [-1, 1 << 26])
def test_what_draws_is_imported_early_only_where_there_is_memory(study, tmp_path, monkeypatch, most):
    imported = []
    monkeypatch.setattr("emg_lens.studies.runs.memory_lock.TURN_BYTES", most)
    monkeypatch.setattr("emg_lens.studies.runs.execution._import_for_the_end", lambda: imported.append(True))
    run_study(study, out=tmp_path, jobs=2)
    assert bool(imported) == (most > 0)
