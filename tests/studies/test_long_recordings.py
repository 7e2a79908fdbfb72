"""Large data are read by one process at a time and not kept, and give the numbers of small ones."""

import numpy as np
import pandas as pd
import pytest
from tiny import TINY, all_fits

from emg_lens.io.locking import one_at_a_time
from emg_lens.studies.fits import load_fit
from emg_lens.studies.run import run_study
from emg_lens.studies.spec import StudySpec


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
        monkeypatch.setattr(f"emg_lens.studies.{module}.LARGE_BYTES", -1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def counted(path, **options):
        turns.append((path.parent, options))
        return one_at_a_time(path, **options)

    monkeypatch.setattr("emg_lens.studies.turns.one_at_a_time", counted)
    found = run_study(study, out=tmp_path / "large", jobs=1)
    pd.testing.assert_frame_equal(found.scores, expected.scores, check_exact=True)
    for name in ("leakage.json", "shift.csv", "logits.safetensors"):
        one, other = (run.folder / "fits" / "02" / name for run in (found, expected))
        assert one.read_bytes() == other.read_bytes()
    assert len(turns) == 3 * 5 and set(map(str, turns)) == {
        str((tmp_path, {"wait": 600.0}))
    }  # read: thrice; compare; write
