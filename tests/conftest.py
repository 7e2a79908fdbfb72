"""Tests run with the array shapes checked that annotations promise. This file also says which tests are slow."""

import os
import signal
import tempfile
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores; torch reads this when it is imported

settings.register_profile("fast", max_examples=20, deadline=None)
settings.register_profile("full", max_examples=100, deadline=None)
settings.load_profile("fast")

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="emg-lens-tests-")  # what tests remember is not the user's

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it does not wait for
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = ["emg_lens.decoding", "emg_lens.lens", "emg_lens.models", "emg_lens.scoring", "emg_lens.training"]

jaxtyping.install_import_hook(CHECKED, "shape_checks.check_shapes")

SLOW = {
    "analysis/test_attention_view_browser.py",
    "bench",
    "compat/test_random_cuts.py",
    "compat/test_resumed_sweep.py",
    "data/test_memory.py",
    "fuzz",
    "models/tinymyo/test_rope_detection.py",
    "studies/test_dask.py",
    "studies/test_fine_tuning_studies.py",
    "studies/test_long_recordings.py",
    "studies/test_names.py",
    "studies/test_paper_studies.py",
    "studies/test_planted_route.py",
    "studies/test_real_studies.py",
    "studies/test_tinymyo_studies.py",
    "studies/test_transfer_study.py",
    "sweeps/test_memory_of_sweeps.py",
    "training/pretraining/test_pretraining_run.py",
    "training/test_cohort.py",
    "training/test_resumed_fit.py",
}
"""Files and folders whose tests `make test` leaves out; single slow tests carry the mark themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    tests = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(tests) if item.path.is_relative_to(tests) else item.path
        if SLOW & {path.as_posix(), path.parts[0]}:
            item.add_marker("slow")
