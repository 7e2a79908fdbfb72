"""The words and numbers of tables and figures: names of modes, edges, layers, metrics, and how values print."""

import numpy as np
import pandas as pd

from emg_lens.studies.findings import Cell

MODE_NAMES = {"individual": "Individual", "from_beginning": "RFB", "from_end": "RFE"}
EDGE_NAMES = {"unimodal": "Uni", "cross_modal": "Cross"}
TEST_NAMES = {
    "mann-whitney": "two-sided Mann–Whitney U (unpaired, as in the paper)",
    "wilcoxon": "two-sided Wilcoxon signed-rank (paired)",
    "sign-flip": "two-sided sign-flip permutation of the mean difference (paired)",
}
CORRECTION_NAMES = {"bonferroni": "Bonferroni", "holm": "Holm", "fdr_bh": "Benjamini–Hochberg"}
METRIC_NAMES = {
    "accuracy": "Acc.",
    "balanced_accuracy": "Balanced acc.",
    "macro_f1": "Macro F1",
    "log_prob": "Log-prob.",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson r",
}
NULL, SAME = "†", "‡"
EMPTY = "–"
SIGNIFICANCE = "Sig."


def layer_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions of the layer-by-layer scheme: a mode of the paper, and a layer."""
    if not {"mode", "layer"} <= set(tests.columns):
        return tests.iloc[:0]
    return tests[tests["mode"].isin(list(MODE_NAMES)) & tests["layer"].notna()]


def head_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions that cut one head."""
    return tests[tests["head"].notna()] if "head" in tests else tests.iloc[:0]


def single_conditions(tests: pd.DataFrame) -> pd.DataFrame:
    """The conditions outside every family."""
    return tests.drop(index=[*layer_conditions(tests).index, *head_conditions(tests).index])


def layer_name(layer: float) -> str:
    """The papers' name of a 0-based layer: `"L1"` for 0."""
    return f"L{int(layer) + 1}"


def edge_name(kind: str) -> str:
    """The papers' name of an edge type: `"Uni"` for `"unimodal"`; other names stay as they are."""
    return EDGE_NAMES.get(kind, str(kind))


def metric_name(metric: str) -> str:
    """A metric's heading: `"Acc."` for `"accuracy"`; other names stay as they are."""
    return METRIC_NAMES.get(metric, metric)


def change_name(cell: Cell) -> str:
    """Heading of relative changes: for shares of trials the paper's drop, positive where the share fell."""
    return "Drop %" if cell.is_share else "Change %"


def relative_change(cell: Cell, delta_percent: float) -> str:
    """A relative change under `change_name`: of shares, the paper prints what is lost."""
    return number(-delta_percent if cell.is_share else delta_percent)


def value(x: float) -> str:
    """A metric, three decimals."""
    return EMPTY if np.isnan(x) else f"{x:.3f}".replace("-", "−")


def number(x: float, decimals: int = 1) -> str:
    """So many decimals, a true minus sign, and no negative zero."""
    return EMPTY if np.isnan(x) else f"{round(x, decimals) + 0.0:.{decimals}f}".replace("-", "−")


def with_interval(row: object) -> str:
    """`"−3.1 [−4.0, −2.0]"`, in the metric's unit; shares in percentage points."""
    decimals = 1 if row.unit == "pp" else 3  # pyright: ignore[reportAttributeAccessIssue]
    change, low, high = (number(getattr(row, name), decimals) for name in ("difference", "ci_low", "ci_high"))
    return f"{change} [{low}, {high}]" if low != EMPTY else change
