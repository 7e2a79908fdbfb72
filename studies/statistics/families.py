"""Families of hypotheses: conditions that are corrected together, and conditions that count only once."""

import itertools

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.studies.statistics.corrections import CORRECTIONS, adjust, stars
from emg_lens.studies.statistics.rank_tests import TESTS
from emg_lens.studies.statistics.spec import StatisticsError, StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE

EXTRA = "extra"
"""Family, in the grouping "mode", of the conditions that belong to no mask mode."""
FAMILY_COLUMNS = ("family", "family_size", "p_corrected", "stars", "significant")
"""Columns that `with_families` adds, in addition to the corrected p values."""


def family_sizes(conditions: pd.DataFrame, family: str) -> dict[str, int]:
    """Count the hypotheses in each family.

    Args:
        conditions: Scores, or the result of `compare`: rows with `condition` and, if known, `mode`, `structural_null`
            and `equivalent_to`. The baseline is ignored.
        family: `"mode"`, `"all"` or `"distinct"`.
    """
    return _sizes(conditions[conditions["condition"] != BASELINE].drop_duplicates("condition"), family)


def _sizes(rows: pd.DataFrame, family: str) -> dict[str, int]:
    label = _family_labels(rows, family)
    once = _counted_once(rows, label, family)
    counted = [name for name, first in zip(label, once, strict=True) if name and first]
    return {name: counted.count(name) for name in dict.fromkeys(counted)}


def with_families(rows: pd.DataFrame, spec: StatisticsSpec) -> pd.DataFrame:
    """Add families, corrected p values and stars to the rows of a comparison."""
    label, sizes = _family_labels(rows, spec.family), _sizes(rows, spec.family)
    rows = rows.assign(family=label, family_size=[sizes.get(name or "", 0) for name in label])
    for test, correction in itertools.product(TESTS, CORRECTIONS):
        rows[f"p_{test}_{correction}"] = corrected_by_family(rows, f"p_{test}", spec.family, correction)
    rows["p_corrected"] = rows[spec.p_column]
    rows["stars"] = [stars(p) for p in rows["p_corrected"]]
    rows["significant"] = rows["p_corrected"] < spec.alpha
    return rows


def corrected_by_family(
    rows: pd.DataFrame, column: str, family: str, correction: str
) -> Float[np.ndarray, " condition"]:
    """Correct the p values of a column within each family; NaN for conditions that are no hypothesis."""
    label, hypothesis = _family_labels(rows, family), _hypothesis(rows, family)
    once, raw, corrected = _counted_once(rows, label, family), rows[column].to_numpy(dtype=float), {}
    for name in {name for name in label if name}:
        members = [i for i, of in enumerate(label) if of == name and once[i]]
        corrected |= zip([hypothesis[i] for i in members], adjust(raw[members], correction), strict=True)
    return np.array([corrected[h] if name else np.nan for h, name in zip(hypothesis, label, strict=True)])


def _family_labels(rows: pd.DataFrame, family: str) -> list[str | None]:
    """Family of each condition; None if the condition is not a hypothesis."""
    if family == "all":
        return ["all"] * len(rows)
    if family == "mode":
        return [mode or EXTRA for mode in rows["mode"].fillna("")] if "mode" in rows else [EXTRA] * len(rows)
    if family == "distinct":
        null = rows["structural_null"] if "structural_null" in rows else [False] * len(rows)
        return [None if is_null else "distinct" for is_null in null]
    raise StatisticsError(f"unknown family {family!r}; known: mode, all, distinct")


def _hypothesis(rows: pd.DataFrame, family: str) -> list[str]:
    """Name of each condition's hypothesis: in "distinct", conditions with the same live cut share one."""
    return list(rows["equivalent_to" if family == "distinct" and "equivalent_to" in rows else "condition"])


def _counted_once(rows: pd.DataFrame, label: list[str | None], family: str) -> list[bool]:
    """True for the first condition of each hypothesis."""
    tested = [h if name else None for h, name in zip(_hypothesis(rows, family), label, strict=True)]
    first = {h: i for i, h in reversed(list(enumerate(tested)))}
    return [h is not None and first[h] == i for i, h in enumerate(tested)]
