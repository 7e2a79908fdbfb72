"""The attribution methods, one file each. Importing this package registers them."""

from emg_lens.analysis.attribution.methods import first_order, shared_gates, single_cuts  # noqa: F401
