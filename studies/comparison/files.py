"""Tables and the figure of a comparison, for the terminal and as files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emg_lens.io.csv_tables import to_csv
from emg_lens.io.files import write_text
from emg_lens.plotting.panels import new_figure, place_legend, plain_text
from emg_lens.plotting.saving import save_figures
from emg_lens.plotting.style import DOTTED, PAGE, category_colour
from emg_lens.studies.comparison.comparison_tables import ComparisonTables
from emg_lens.studies.comparison.pairing import ComparisonError
from emg_lens.studies.report.wording import UNIT_WORDS, interval_heading, metric_name, metric_words, number, p_value
from emg_lens.sweeps.conditions import BASELINE

MOST_ROWS = 24
"""Ablations in the figure: those with the largest differences."""
FIGURE = "comparison"


def write_comparison(comparison: ComparisonTables, folder: Path) -> list[Path]:
    """Write tables, answers and figure into a folder, and return the paths.

    Raises:
        ComparisonError: The folder cannot be written.
    """
    texts = {
        "models.csv": to_csv(comparison.models),
        "ablations.csv": to_csv(comparison.ablations),
        "subjects.csv": to_csv(comparison.subjects),
        "answers.txt": f"{comparison}\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
        save_figures({FIGURE: comparison_figure(comparison)}, folder)
    except OSError as error:
        raise ComparisonError(f"cannot write to {str(folder)!r}: {error.strerror}; give another --out") from None
    return [folder / name for name in (*texts, *(f"{FIGURE}.{kind}" for kind in ("svg", "png", "pdf")))]


def drop_table(comparison: ComparisonTables) -> pd.DataFrame:
    """Arrange the ablations as a table of text, the largest differences first."""
    rows = comparison.ablations.copy()
    rows = rows.iloc[np.argsort(-rows["difference"].abs().to_numpy(), kind="stable")]
    rows["unit"] = comparison.unit
    scale, decimals = (100, 1) if comparison.unit == "pp" else (1, 3)
    word = "Increase" if comparison.lower_is_better else "Drop"
    heading = interval_heading(rows, comparison.statistics.confidence, "Difference")
    own = (comparison.models["run"].unique(), comparison.models["level"].unique())
    table = {
        **({"Run": rows["run"]} if len(own[0]) > 1 else {}),
        **({"Level": rows["level"]} if len(own[1]) > 1 else {}),
        "Ablation": rows["condition"],
        f"{word}, {comparison.reference}": [number(scale * x, decimals) for x in rows["reference"]],
        f"{word}, {own[0][0] if len(own[0]) == 1 else 'run'}": [number(scale * x, decimals) for x in rows["other"]],
        heading: [_with_interval(row, decimals) for row in rows.to_dict("records")],
        "p, corrected": ["–" if pd.isna(p) else p_value(p).removeprefix("p = ") for p in rows["p_corrected"]],
        "Clear": np.where(rows["clear"], "yes", "–"),
    }
    shown, n = pd.DataFrame(table), rows["family_size"].max()
    shown.attrs["notes"] = [
        f"Clear: a t test that is corrected for the number of ablations ({n:.0f} at most) finds a difference. The"
        " intervals are not corrected.",
        f"p: {' and '.join(rows['test'].unique())} test, corrected ({comparison.statistics.correction}).",
    ]
    return shown


def _with_interval(row: dict[Any, Any], decimals: int) -> str:
    change, low, high = (number(row[name], decimals) for name in ("difference", "ci_low", "ci_high"))
    return change if pd.isna(row["ci_low"]) else f"{change} [{low}, {high}]"


def comparison_figure(comparison: ComparisonTables) -> Figure:
    """Draw the metric of every subject in each run, and the differences of the drops with their intervals."""
    rows = _drawn(comparison)
    n_lines = len(dict.fromkeys(rows["condition"]))
    with new_figure(PAGE, max(2.4, 0.9 + 0.17 * n_lines)) as figure:
        ratio = [1, 1.5] if n_lines else [1, 0.01]
        left, right = figure.subplots(1, 2, width_ratios=ratio)
        _draw_subjects(left, comparison)
        entries = _draw_drops(right, rows, comparison)
        if len(entries) > 1:
            place_legend(figure, entries, n_columns=3)
        if not n_lines:
            right.set_axis_off()
    return figure


def _drawn(comparison: ComparisonTables) -> pd.DataFrame:
    rows = comparison.ablations[~comparison.ablations["structural_null"].astype(bool)]
    largest = rows.groupby("condition", sort=False)["difference"].agg(lambda d: d.abs().max())
    kept = set(largest.sort_values(ascending=False, kind="stable").index[:MOST_ROWS])
    return rows[rows["condition"].isin(kept)]


def _draw_subjects(axes: Axes, comparison: ComparisonTables) -> None:
    rows = comparison.subjects[comparison.subjects["condition"] == BASELINE]
    places = list(dict.fromkeys(zip(rows["level"], rows["run"], strict=True)))
    wide = rows.pivot(index="subject", columns=["level", "run"], values="value")[places]
    for level in dict.fromkeys(level for level, _ in places):
        at = [k for k, (own, _) in enumerate(places) if own == level]
        axes.plot(at, wide.iloc[:, at].to_numpy().T, color=DOTTED["color"], linewidth=0.5, alpha=0.7)
        axes.plot(at, wide.iloc[:, at].mean(), color="black", linewidth=1.4, marker="o", markersize=4)
    several = len({level for level, _ in places}) > 1
    axes.set_xticks(range(len(places)), [plain_text(f"{level}\n{run}" if several else run) for level, run in places])
    axes.tick_params(axis="x", rotation=20 if len(places) > 1 else 0)
    axes.set_xlim(-0.4, len(places) - 0.6)
    axes.set_ylabel(metric_name(comparison.metric))
    axes.set_title("Subjects (grey) and mean")


def _draw_drops(axes: Axes, rows: pd.DataFrame, comparison: ComparisonTables) -> dict[str, Any]:
    names, entries = list(dict.fromkeys(rows["condition"])), {}
    series = list(rows.groupby(["run", "level"], sort=False))
    axes.axvline(0, **DOTTED)
    for k, ((run, level), own) in enumerate(series):
        y = np.array([names.index(name) for name in own["condition"]]) + 0.6 * ((k + 0.5) / len(series) - 0.5)
        colour, x = category_colour(k), own["difference"].to_numpy()
        axes.hlines(y, own["ci_low"], own["ci_high"], color=colour, linewidth=1.2)
        clear = own["clear"].to_numpy(bool)
        (entries[plain_text(", ".join(filter(None, (run, level))))],) = axes.plot(
            x[clear], y[clear], "o", color=colour, markersize=3.6
        )
        axes.plot(x[~clear], y[~clear], "o", markerfacecolor="white", markeredgecolor=colour, markersize=3.6)
    unit, word = UNIT_WORDS.get(comparison.unit, ""), "increase" if comparison.lower_is_better else "drop"
    axes.set_yticks(range(len(names)), [plain_text(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(f"difference of the {word} in {metric_words(comparison.metric)}{', ' * bool(unit)}{unit}")
    axes.set_title(plain_text(f"Ablations, compared with {comparison.reference} (filled: clear)"))
    return entries
