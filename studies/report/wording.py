"""The words and numbers of tables and figures: names of modes, edges, layers, metrics, and how values print."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.results.control_effects import is_everywhere
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.spec.condition_spec import DETOUR, SUPERSET
from emg_lens.sweeps.conditions import BASELINE

MODE_NAMES = {"individual": "Individual", "from_beginning": "RFB", "from_end": "RFE"}
EDGE_NAMES = {"unimodal": "Uni", "cross_modal": "Cross"}
CUTS_IN_WORDS = {"unimodal": "unimodal edges cut", "cross_modal": "cross-modal edges cut"}
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
}
COLUMN_NAMES = {
    "accuracy": "Acc.",
    "balanced_accuracy": "Bal. acc.",
    "log_prob": "Log-prob.",
    "reconstruction_error": "Rec. error",
}
UNIT_WORDS = {"pp": "pp", "nat": "nat"}
"""Units that are written out; those of targets are as many as there are data sets."""
NULL, SAME = "†", "‡"
EMPTY = "–"
SIGNIFICANCE = "Sig."
NOT_SIGNIFICANT = "ns"
PAPER = "Paper"
"""Heading of published numbers."""


def layer_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions of the layer-by-layer scheme: a mode of the paper, and a layer."""
    if not {"mode", "layer"} <= set(tests.columns):
        return tests.iloc[:0]
    return tests[tests["mode"].isin(list(MODE_NAMES)) & tests["layer"].notna()]


def head_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions that cut one head of one layer."""
    if not {"layer", "head"} <= set(tests.columns):
        return tests.iloc[:0]
    return tests[tests["head"].notna() & tests["layer"].notna()]


def single_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions outside every family."""
    return tests.drop(index=[*layer_conditions(tests).index, *head_conditions(tests).index])


def layer_name(layer: float) -> str:
    """The papers' name of a 0-based layer: `"L1"` for 0."""
    return f"L{int(layer) + 1}"


def edge_name(kind: str) -> str:
    """The papers' name of an edge type: `"Uni"` for `"unimodal"`; other names stay as they are."""
    return EDGE_NAMES.get(kind, str(kind))


def cut_names(cell: Cell) -> dict[str, str]:
    """Cuts and controls as a table names them: `"Cross L1"`, `"Cross, every layer"`; single conditions as they are."""
    found = {}
    for row in cell.tests.to_dict("records"):
        found[row["condition"]] = row["condition"]
        if row.get("mode") in MODE_NAMES and not np.isnan(row.get("layer", np.nan)):
            mode = "" if row["mode"] == "individual" else f" {MODE_NAMES[row['mode']]}"
            place = ", every layer" if is_everywhere(cell, row) else f"{mode} {layer_name(row['layer'])}"
            found[row["condition"]] = f"{edge_name(row['edges'])}{place}"
    kinds = layer_conditions(cell.tests)["edges"].unique() if len(layer_conditions(cell.tests)) else ()
    for row in cell.controls.to_dict("records") if len(cell.controls) else ():
        if row["control"] == SUPERSET:
            found[row["condition"]] = f"{' and '.join(map(edge_name, kinds))}, every layer"
        elif row["control"] == DETOUR:
            found[row["condition"]] = f"{edge_name(row['of'])}, every layer, and CLS unread"
    return found


def cut_in_words(kind: str) -> str:
    """What was done to an edge type: `"cross-modal edges cut"`; other names stay as they are."""
    return CUTS_IN_WORDS.get(kind, f"{kind} cut")


def metric_words(metric: str) -> str:
    """A metric in a sentence: `"balanced accuracy"`, `"R²"`."""
    return METRIC_WORDS.get(metric, metric.replace("_", " "))


def metric_name(metric: str) -> str:
    """A metric as a heading or an axis: `"Balanced accuracy"`, `"R²"`."""
    words = metric_words(metric)
    return words[:1].upper() + words[1:]


def column_name(metric: str) -> str:
    """A metric's heading in a table of many columns: `"Acc."` as in the IsoNet paper."""
    return COLUMN_NAMES.get(metric, metric_name(metric))


def change_name(cell: Cell) -> str:
    """Heading of relative changes: for shares of trials the paper's drop, positive where the share fell."""
    return "Drop %" if cell.is_fraction else "Change %"


def interval_heading(rows: pd.DataFrame, confidence: float, word: str = "Change") -> str:
    """Heading of a column of `with_interval`: `"Change, pp [95 % CI]"`."""
    unit = UNIT_WORDS.get(rows["unit"].iloc[0], "")
    interval = f" [{100 * confidence:g} % CI]" if rows["ci_low"].notna().any() else ""
    return f"{word}{', ' * bool(unit)}{unit}{interval}"


def value(x: float) -> str:
    """A metric, three decimals."""
    return number(x, 3)


def number(x: float, decimals: int = 1) -> str:
    """So many decimals, a true minus sign, and no negative zero."""
    return EMPTY if np.isnan(x) else f"{round(x, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def with_interval(row: Mapping[str, Any]) -> str:
    """`"−3.1 [−4.0, −2.0]"`, in the metric's unit; shares in percentage points."""
    decimals = 1 if row["unit"] == "pp" else 3
    change, low, high = (number(row[name], decimals) for name in ("difference", "ci_low", "ci_high"))
    return f"{change} [{low}, {high}]" if low != EMPTY else change


def marked_stars(row: Mapping[str, Any]) -> str:
    """Significance of a condition, with the mark of what holds by the structure of the model."""
    same = row["equivalent_to"] not in (row["condition"], BASELINE)
    return f"{row['stars']}{NULL if row['structural_null'] else SAME if same else ''}"


def condition_cells(cell: Cell, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Metric, significance with its mark, and relative change of one condition: of shares, what is lost."""
    sign = -1 if cell.is_fraction else 1
    return value(row["mean"]), marked_stars(row), number(sign * row["delta_percent"])
