"""The analyses that every study runs: how far cuts move activations, and which ablations contain which."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from emg_lens.analysis.controls import superset_ablations
from emg_lens.analysis.fit_analysis import FitAnalysis
from emg_lens.analysis.shift import COLUMNS, activation_shift
from emg_lens.data.batch import Batch
from emg_lens.studies.fits.control_conditions import cuts_one_layer_or_all, is_random_cut
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import audit


class ShiftAnalysis(FitAnalysis):
    """`activation_shift` under the cuts of all layers, single conditions, the controls, and one random cut of each."""

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:
        """Return the columns of `activation_shift`; no rows for a model without hook points of a residual stream."""
        n_layers = model.cfg.n_layers
        if not any(name.endswith(".hook_resid_post") for name in model.hook_dict):
            return pd.DataFrame(columns=[*COLUMNS])
        planned = [c for c in conditions if not is_random_cut(c)]
        equal_to = audit(model, planned).set_index("condition")["equivalent_to"]
        chosen = [c for c in planned if c.interventions and cuts_one_layer_or_all(c, n_layers)]
        chosen = [c for c in chosen if c.tags.get("mode") != "individual"]
        chosen = list({equal_to[c.name]: c for c in reversed(chosen)}.values())[::-1]  # each computation once
        shown = {equal_to[c.name] for c in chosen}
        chosen += [c for c in conditions if c.tags.get("random_cut") == 1 and equal_to.get(c.tags["of"]) in shown]
        return activation_shift(model, batch.x, chosen, reference=batch.reference)


class SupersetAnalysis(FitAnalysis):
    """Pairs of a condition and a superset ablation of it, without random cuts."""

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:  # noqa: ARG002
        """Return the columns of `superset_ablations`."""
        return superset_ablations(model, [c for c in conditions if not is_random_cut(c)])


SHIFT = ShiftAnalysis()
SUPERSET_ABLATIONS = SupersetAnalysis()
