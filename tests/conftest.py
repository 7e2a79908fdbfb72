"""Tests run with the array shapes checked that annotations promise."""

import os
import signal
import tempfile

import jaxtyping

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="emg-lens-tests-")  # what tests remember is not the user's

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it does not wait for
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = ["emg_lens.lens", "emg_lens.models", "emg_lens.training"]

jaxtyping.install_import_hook(CHECKED, "shape_checks.check_shapes")
