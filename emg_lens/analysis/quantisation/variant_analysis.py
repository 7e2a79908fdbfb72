"""A study's analysis of quantised copies: the scores of every condition, and the edges that integer softmax removes."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from emg_lens.analysis.fit_analysis import AnalysisError, FitAnalysis
from emg_lens.analysis.quantisation.edge_audit import quantised_edges
from emg_lens.analysis.quantisation.integer_softmax import IntegerSoftmax
from emg_lens.analysis.quantisation.quantised_model import quantised
from emg_lens.data.batch import Batch
from emg_lens.models.attention import Attention
from emg_lens.scoring.metrics import measure
from emg_lens.sweeps.conditions import Condition
from emg_lens.sweeps.engine import sweep
from emg_lens.sweeps.settings import reproducible_executor

FLOAT, INTEGER, UNSCALED = "float", "integer softmax", "integer softmax, unscaled"
"""Names of three variants, which tables and sentences of a report mention."""
ON_CHIP = {"bits": 8, "activations": 8}
VARIANTS: dict[str, dict[str, Any]] = {
    FLOAT: {},
    "8 bit": {"bits": 8},
    "4 bit": {"bits": 4},
    "4 bit per channel": {"bits": 4, "per": "channel"},
    "8 bit, activations too": ON_CHIP,
    INTEGER: {**ON_CHIP, "softmax": "integer"},
    UNSCALED: {**ON_CHIP, "softmax": IntegerSoftmax(sharpness=1)},
}
"""Name of a variant and the arguments of `quantised`. The last one approximates softmax(s), not softmax(16 s)."""
SCORE, EDGES = "score", "edges"
"""Values of the column `part`."""
HALVES = {"first_half": slice(None, None, 2), "second_half": slice(1, None, 2)}


class QuantisationAnalysis(FitAnalysis):
    """Every condition on the model and on quantised copies of it (`VARIANTS`), on test trials.

    The copies of a model without our attention have rounded weights only. The table has two parts (column `part`):

    * `score`: one row per variant and condition without random cuts: `variant`, `condition`, `accuracy` and `log_prob`
      (models of values: `r2`), and the last of these on every second trial, `first_half` and `second_half`;
    * `edges`: one row per variant with integer softmax, and layer: the columns of `quantised_edges`.
    """

    def run(self, model: Any, batch: Batch, conditions: Sequence[Condition]) -> pd.DataFrame:
        """Return the table."""
        if batch.targets is None or batch.reference is None:
            raise AnalysisError(
                "quantisation needs targets and training trials: Batch(x, targets=y, reference=x_train)"
            )
        planned = [one for one in conditions if "random_cut" not in one.tags]
        attends = any(isinstance(part, Attention) for part in model.modules())
        tables = []
        for name, settings in VARIANTS.items():
            if not attends and "activations" in settings:
                continue
            calibration = batch.reference if "activations" in settings else None
            made = quantised(model, calibration=calibration, **settings) if settings else model
            result = sweep(made, batch.x, planned, reference=batch.reference, executor=reproducible_executor(made))
            rows = [{"condition": key} | _scores(out, batch) for key, out in result.logits.items()]
            tables.append(pd.DataFrame(rows).assign(part=SCORE, variant=name))
            if "softmax" in settings:
                tables.append(quantised_edges(made, batch.x).assign(part=EDGES, variant=name))
        table = pd.concat(tables, ignore_index=True)
        first = ["part", "variant", "condition"]
        # The number of edges has another name, because tables read a column `edges` as text.
        return table[[*first, *table.columns.difference(first, sort=False)]].rename(columns={"edges": "n_edges"})


def _scores(outputs: Tensor, batch: Batch) -> dict[str, float]:
    """Return the metrics of a condition, and the last one on each half of the trials."""
    assert batch.targets is not None
    names = ["r2"] if batch.targets.is_floating_point() else ["accuracy", "log_prob"]
    out, targets = (values.cpu().numpy() for values in (outputs, batch.targets))
    ids = None if batch.repetition_id is None else batch.repetition_id.cpu().numpy()
    scores = measure(names, out, targets, ids)
    for half, some in HALVES.items():
        if len(out) > 1:
            scores[half] = measure(names[-1:], out[some], targets[some], None if ids is None else ids[some])[names[-1]]
    return scores


QUANTISATION = QuantisationAnalysis()
