"""Tests run with the array shapes checked that annotations promise."""

import os
import tempfile

import jaxtyping

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="emg-lens-tests-")  # what tests remember is not the user's

CHECKED = ["emg_lens.lens", "emg_lens.models", "emg_lens.training"]

jaxtyping.install_import_hook(CHECKED, "shape_checks.check_shapes")
