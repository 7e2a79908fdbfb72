"""The attribution methods, one file each. Importing this package registers them."""

from emg_lens.analysis.attribution.method import METHODS  # noqa: F401
from emg_lens.analysis.attribution.methods import (  # noqa: F401
    attention,
    chefer,
    contexts,
    first_order,
    gate_gradient,
    input_gradients,
    relp,
    rollout,
    shapley,
    shared_gates,
    single_cuts,
    value_norm,
)
