"""Conditions that must equal an earlier one by design, and the largest difference that was measured."""

import pandas as pd

from emg_lens.sweeps.conditions import BASELINE


def identities(scores: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """List the conditions that equal another one by the structure of the model.

    Returns:
        `condition`, `equal_to`, `reason`, and `max_abs_difference` of the metric over fits and subjects (0 if the
        computation is right). Empty if the scores have no audit columns.
    """
    rows = []
    if {"equivalent_to", "structural_null"} <= set(scores.columns):
        key = [c for c in ("fit", "subject") if c in scores]
        values = scores.groupby([*key, "condition"])[metric].mean().unstack("condition")
        for r in scores.drop_duplicates("condition").itertuples():
            other = BASELINE if r.structural_null else r.equivalent_to
            if r.condition in (other, BASELINE) or other not in values:
                continue
            reason = "no cut edge reaches the readout" if r.structural_null else "both cut the same live edges"
            difference = (values[r.condition] - values[other]).abs().max()
            rows.append((r.condition, other, reason, float(difference)))
    return pd.DataFrame(rows, columns=["condition", "equal_to", "reason", "max_abs_difference"])
