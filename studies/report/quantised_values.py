"""Scores of quantised copies by subject, variant and condition, for the view of quantisation."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import kendalltau

from emg_lens.analysis.quantisation.variant_analysis import EDGES, FLOAT, SCORE
from emg_lens.studies.report.fit_values import mean_with_interval, with_subjects
from emg_lens.studies.report.wording import head_conditions, number
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.statistics.intervals import FEWEST
from emg_lens.sweeps.conditions import BASELINE

NAME = "quantisation"
"""The analysis of quantised copies."""
TOP = 5
"""Number of first heads that two rankings are compared by."""


def part_of(cell: Cell, part: str) -> pd.DataFrame:
    """Return the rows of one part of the analysis, with the subject."""
    table = with_subjects(cell, NAME)
    return table[table["part"] == part] if len(table) else table


def scored_metric(cell: Cell) -> str:
    """Name the metric that tables show."""
    return "accuracy" if "accuracy" in cell.analysis(NAME) else "r2"


def fine_metric(cell: Cell) -> str:
    """Name the metric that ranks heads."""
    return "log_prob" if "log_prob" in cell.analysis(NAME) else "r2"


def unit_of(cell: Cell) -> float:
    """Return the factor of changes: 100 for percentage points."""
    return 100.0 if scored_metric(cell) == "accuracy" else 1.0


def in_unit(cell: Cell) -> str:
    """Return the end of a heading with the unit of changes."""
    return ", pp" if scored_metric(cell) == "accuracy" else ""


def mean_change(cell: Cell, changes: Float[np.ndarray, " subject"]) -> str:
    """Format changes: the mean with its interval, or with few subjects each of them."""
    decimals = 1 if unit_of(cell) == 100 else 3
    if len(changes) < FEWEST:
        return "; ".join(number(one, decimals) for one in changes)
    return mean_with_interval(changes, decimals, cell.statistics.confidence)


def words_of_change(cell: Cell, changes: Float[np.ndarray, " subject"]) -> str:
    """Format changes for a sentence."""
    decimals, unit = (1, " pp") if unit_of(cell) == 100 else (3, "")
    if len(changes) < FEWEST:
        return f"{mean_change(cell, changes)}{unit} (each subject)"
    return mean_with_interval(changes, decimals, cell.statistics.confidence, unit, name=True)


def variant_scores(cell: Cell) -> pd.DataFrame:
    """One row per subject (mean over its fits), one column per variant and condition, in their order."""
    table = part_of(cell, SCORE)
    if not len(table):
        return pd.DataFrame()
    keys = ["variant", "condition"]
    values = table.groupby(["subject", *keys], sort=False)[scored_metric(cell)].mean().unstack(keys)
    return values[list(dict.fromkeys(zip(table["variant"], table["condition"], strict=True)))]


def cut_drops(cell: Cell) -> pd.DataFrame:
    """Drop by every condition except cuts of single heads, in units of the tables.

    Of conditions that cut the same live edges, the last one stands for all; those without live edges are left out.
    """
    values = variant_scores(cell)
    if not len(values):
        return values
    tests = cell.tests.drop(index=head_conditions(cell.tests).index)
    distinct = set(
        tests[~tests["structural_null"].astype(bool)].drop_duplicates("equivalent_to", keep="last")["condition"]
    )
    kept = values.loc[:, [key in distinct - {BASELINE} for key in values.columns.get_level_values("condition")]]
    intact = values.xs(BASELINE, axis=1, level="condition")
    return kept.rsub(intact.reindex(columns=kept.columns, level="variant")) * unit_of(cell)


def head_rank_correlations(cell: Cell) -> pd.DataFrame:
    """One row per subject; columns: variant, and `tau` or `top` (first heads in common)."""
    table, heads = part_of(cell, SCORE), set(head_conditions(cell.tests)["condition"])
    if not len(table) or len(heads) < 2:
        return pd.DataFrame()
    fine, rows = fine_metric(cell), []
    for (subject, fit), of in table.groupby(["subject", "fit"], sort=False):
        drops = {}
        for variant, some in of.groupby("variant", sort=False):
            by_name = some.set_index("condition")[[fine, "first_half", "second_half"]]
            drops[variant] = by_name.loc[BASELINE] - by_name[by_name.index.isin(heads)]
        pairs = {name: (drops[FLOAT][fine], drop[fine]) for name, drop in drops.items() if name != FLOAT}
        pairs["float, two halves of the trials"] = (drops[FLOAT]["first_half"], drops[FLOAT]["second_half"])
        for name, (one, other) in pairs.items():
            top = len(set(one.nlargest(TOP).index) & set(other.nlargest(TOP).index))
            rows.append((subject, fit, name, kendalltau(one, other.loc[one.index]).statistic, top))
    columns = ["subject", "fit", "variant", "tau", "top"]
    means = pd.DataFrame(rows, columns=columns).groupby(["subject", "variant"], sort=False)[["tau", "top"]].mean()
    names = dict.fromkeys(row[2] for row in rows)
    return means.unstack("variant").swaplevel(axis=1)[[(name, column) for name in names for column in columns[3:]]]


def removed_fractions(cell: Cell) -> pd.Series:
    """Fraction of all edges that a variant rounds to zero, mean over subjects."""
    table = part_of(cell, EDGES)
    if not len(table):
        return pd.Series(dtype=float)
    zero = (table["rounded_to_zero"] * table["n_edges"]).groupby(table["variant"], sort=False).sum()
    return zero / table.groupby("variant", sort=False)["n_edges"].sum()
