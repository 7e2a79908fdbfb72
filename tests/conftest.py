"""Tests run with the array shapes checked that annotations promise."""

import jaxtyping

CHECKED = ["emg_lens.lens", "emg_lens.models", "emg_lens.training"]

jaxtyping.install_import_hook(CHECKED, "shape_checks.check_shapes")
