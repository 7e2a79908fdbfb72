"""Tests run with the array shapes checked that annotations promise."""

import os
import signal
import tempfile

import jaxtyping
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores; torch reads this when it is imported

settings.register_profile("fast", max_examples=20, deadline=None)
settings.register_profile("full", max_examples=100, deadline=None)
settings.load_profile("fast")

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="emg-lens-tests-")  # what tests remember is not the user's

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it does not wait for
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = ["emg_lens.lens", "emg_lens.models", "emg_lens.scoring", "emg_lens.training"]

jaxtyping.install_import_hook(CHECKED, "shape_checks.check_shapes")
