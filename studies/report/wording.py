"""Names of modes, edges, layers and metrics in tables and figures, and the format of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.plotting.words import NULL, cut_in_words, layer_name  # noqa: F401
from emg_lens.studies.results.control_effects import cuts_every_layer
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.spec.condition_spec import CLS_PATH_CLOSED, SUPERSET
from emg_lens.studies.spec.removal_spec import REMOVAL
from emg_lens.sweeps.conditions import BASELINE

MODE_NAMES = {"individual": "Individual", "from_beginning": "RFB", "from_end": "RFE"}
EDGE_NAMES = {"unimodal": "Uni", "cross_modal": "Cross"}
TEST_NAMES = {
    "mann-whitney": "two-sided Mann–Whitney U (unpaired, as in the paper)",
    "wilcoxon": "two-sided Wilcoxon signed-rank (paired)",
    "sign-flip": "two-sided sign-flip permutation of the mean difference (paired)",
}
CORRECTION_NAMES = {"bonferroni": "Bonferroni", "holm": "Holm", "fdr_bh": "Benjamini–Hochberg"}
METRIC_WORDS = {
    "macro_f1": "macro F1",
    "log_prob": "log-probability",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson r",
    "event_f1": "event F1",
    "cler": "CLER",
    "false_per_hour": "false alarms per hour",
}
COLUMN_NAMES = {
    "accuracy": "Acc.",
    "balanced_accuracy": "Bal. acc.",
    "log_prob": "Log-prob.",
    "reconstruction_error": "Rec. error",
}
UNIT_WORDS = {"pp": "pp", "nat": "nat"}
"""Units that are printed; a target's unit differs between data sets and is left out."""
SAME = "‡"
EMPTY = "–"
SIGNIFICANCE = "Sig."
NOT_SIGNIFICANT = "ns"
PAPER = "Paper"
"""Heading of published numbers."""
SIZE_MATCHED = (
    "A size-matched random cut removes the same number of edges in every layer and head, chosen at random. It matches"
    " the cut within each kind of edge (read by CLS, reading CLS, self-edges, others). Only edges with a path to"
    " the readout count, for the cut and for the random cut. Cuts of single heads share the random cuts of their layer,"
    " with edges from all heads."
)
"""Explanation of size-matched random cuts for the reader of a report."""


def listed_names(names: Sequence[str]) -> str:
    """Join names: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def layer_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """Conditions that cut one edge type by layer in one of the paper's masking modes."""
    if not {"mode", "layer"} <= set(tests.columns):
        return tests.iloc[:0]
    return tests[tests["mode"].isin(list(MODE_NAMES)) & tests["layer"].notna()]


def head_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """Conditions that cut one head of one layer."""
    if not {"layer", "head"} <= set(tests.columns):
        return tests.iloc[:0]
    return tests[tests["head"].notna() & tests["layer"].notna()]


def single_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """Conditions that belong neither to the layer sweep nor to the head sweep, and remove no sensor."""
    others = (layer_conditions(tests), head_conditions(tests), removal_conditions(tests))
    return tests.drop(index=[name for part in others for name in part.index])


def removal_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """Conditions that remove a sensor, or keep only one."""
    return tests[tests["mode"] == REMOVAL] if "mode" in tests else tests.iloc[:0]


def edge_name(kind: str) -> str:
    """Short name of an edge type as the papers print it: `"Uni"` for `"unimodal"`; other names are unchanged."""
    return EDGE_NAMES.get(kind, str(kind))


def cut_names(cell: Cell) -> dict[str, str]:
    """Names of cuts and controls in tables: `"Cross L1"`, `"Cross, every layer"`; single conditions are unchanged."""
    names = {}
    for row in cell.tests.to_dict("records"):
        names[row["condition"]] = row["condition"]
        if row.get("mode") in MODE_NAMES and not np.isnan(row.get("layer", np.nan)):
            mode = "" if row["mode"] == "individual" else f" {MODE_NAMES[row['mode']]}"
            place = ", every layer" if cuts_every_layer(cell, row) else f"{mode} {layer_name(row['layer'])}"
            names[row["condition"]] = f"{edge_name(row['edges'])}{place}"
        elif not np.isnan(row.get("head", np.nan)):
            names[row["condition"]] = f"{edge_name(row['edges'])} {layer_name(row['layer'])}H{int(row['head'])}"
    kinds = layer_conditions(cell.tests)["edges"].unique() if len(layer_conditions(cell.tests)) else ()
    for row in cell.controls.to_dict("records") if len(cell.controls) else ():
        if row["control"] == SUPERSET:
            names[row["condition"]] = f"{' and '.join(map(edge_name, kinds))}, every layer"
        elif row["control"] == CLS_PATH_CLOSED:
            names[row["condition"]] = f"{edge_name(row['of'])}, every layer; path through CLS closed"
    return names


def metric_words(metric: str) -> str:
    """Name of a metric in a sentence: `"balanced accuracy"`, `"R²"`."""
    return METRIC_WORDS.get(metric, metric.replace("_", " "))


def metric_name(metric: str) -> str:
    """Name of a metric as a heading or an axis label: `"Balanced accuracy"`, `"R²"`."""
    words = metric_words(metric)
    return words[:1].upper() + words[1:]


def column_name(metric: str) -> str:
    """Short heading of a metric in a table with many columns: `"Acc."` as in the IsoNet paper."""
    return COLUMN_NAMES.get(metric, metric_name(metric))


def change_name(cell: Cell) -> str:
    """Heading of relative changes: the paper's drop for fractions of trials (positive = fell), else the change."""
    return "Drop %" if cell.is_fraction else "Change %"


def interval_heading(rows: pd.DataFrame, confidence: float, word: str = "Change") -> str:
    """Heading of a column of `with_interval`: `"Change, pp [95 % CI]"`."""
    unit = UNIT_WORDS.get(rows["unit"].iloc[0], "")
    interval = f" [{100 * confidence:g} % CI]" if rows["ci_low"].notna().any() else ""
    return f"{word}{', ' * bool(unit)}{unit}{interval}"


def value(x: float) -> str:
    """Format a metric's value with three decimals."""
    return number(x, 3)


def number(x: float, decimals: int = 1) -> str:
    """Format a number with these decimals, a true minus sign, and no negative zero; "–" for NaN."""
    return EMPTY if np.isnan(x) else f"{round(x, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def with_interval(row: Mapping[str, Any]) -> str:
    """Format a change with its interval: `"−3.1 [−4.0, −2.0]"`, in the metric's unit (fractions: percentage points)."""
    decimals = 1 if row["unit"] == "pp" else 3
    change, low, high = (number(row[name], decimals) for name in ("difference", "ci_low", "ci_high"))
    return f"{change} [{low}, {high}]" if low != EMPTY else change


def change_in_words(row: Mapping[str, Any], confidence: float) -> str:
    """Format a change for a sentence: `"−3.1 pp (95 % CI [−4.0, −2.0])"`; no bracket where there is no interval."""
    change, _, interval = with_interval(row).partition(" ")
    sign, unit = "+" * (row["difference"] > 0), UNIT_WORDS.get(row["unit"], "")
    ends = f" ({100 * confidence:g} % CI {interval})" if interval else ""
    return f"{sign}{change}{' ' * bool(unit)}{unit}{ends}"


def count(n: int, noun: str) -> str:
    """Format a number of things: `"1 subject"`, `"5 subjects"`."""
    return f"{n} {noun}{'s' * (n != 1)}"


def p_value(p: float) -> str:
    """Format a p value without the leading zero: `"p = .048"`, `"p < .001"`."""
    return "p < .001" if p < 0.001 else f"p = {f'{p:.3f}'.lstrip('0')}"


def p_limit(p: float) -> str:
    """Format a limit of p without the leading zero: `".05"`."""
    return f"{p:g}".lstrip("0") if p >= 1e-3 else f"{p:f}".strip("0")


def marked_stars(row: Mapping[str, Any]) -> str:
    """Significance of a condition, with † for a structural null and ‡ for a cut equal to an earlier one."""
    same = row["equivalent_to"] not in (row["condition"], BASELINE)
    return f"{row['stars']}{NULL if row['structural_null'] else SAME if same else ''}"


def condition_cells(cell: Cell, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Text of three cells: metric, significance with its mark, and relative change (fractions: the drop)."""
    sign = -1 if cell.is_fraction else 1
    return value(row["mean"]), marked_stars(row), number(sign * row["delta_percent"])
