"""The answers of a comparison as sentences: the models first, then the ablations, then what was paired."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from emg_lens.studies.comparison.comparison_tables import ComparisonTables
from emg_lens.studies.report.wording import UNIT_WORDS, count, listed_names, metric_words, number, p_value, value
from emg_lens.studies.statistics.intervals import FEWEST

MOST = 3
"""Ablations and settings that a sentence names."""


def answers_of(comparison: ComparisonTables) -> list[str]:
    """Write the answers: for each run and level the models, the ablations, what was paired, and what differs."""
    lines = []
    for row in comparison.models.to_dict("records"):
        at = f"{row['level']}: " if row["level"] else ""
        rows = comparison.ablations
        own = rows[(rows["run"] == row["run"]) & (rows["level"] == row["level"])]
        lines += [f"{at}{model_sentence(row, comparison)}", *(f"{at}{text}" for text in _ablations(own, comparison))]
        lines += [f"{at}{text}" for text in comparison.notes[row["run"], row["level"]]]
    return [*lines, *_settings(comparison)]


def model_sentence(row: Mapping[str, Any], comparison: ComparisonTables) -> str:
    """Say which models are better: finding, difference with interval, number of subjects."""
    run, reference = row["run"], comparison.reference
    metric, n = metric_words(comparison.metric), row["n_subjects"]
    gain = -row["difference"] if comparison.lower_is_better else row["difference"]
    means = f"{metric} {value(row['other'])} and {value(row['reference'])}"
    paired = n == n
    if paired and row["smallest"] == row["largest"]:
        if row["difference"] == 0:
            return (
                f"No difference between {run} and {reference}: {_all(n)} {_have(n)} the same {metric} in both (mean"
                f" {value(row['other'])})."
            )
        how = "better" if gain > 0 else "worse"
        return (
            f"The models of {run} are {how} than those of {reference} by {_change(row, comparison, abs(gain))} in"
            f" {_all(n)} ({means}). All changes are equal, so there is no interval."
        )
    subjects = f"; {row['n_better']:.0f} of {n:.0f} subjects have better models in {run}" if paired else ""
    change = _change(row, comparison, abs(gain), -1 if row["difference"] < 0 else 1)
    if pd.isna(row["ci_low"]):
        fewest = n if paired else min(row["n_reference"], row["n_other"])
        why = f"an interval needs {FEWEST} subjects" if fewest < FEWEST else "all subjects of a run have the same value"
        how = "better" if gain > 0 else "worse"
        ends = (
            f" (changes from {_number(row['smallest'], comparison)} to {_number(row['largest'], comparison)})" * paired
        )
        return (
            f"No clear answer, because {why}. On average, the models of {run} are {how} than those of {reference} by"
            f" {change}{ends}: {means}{subjects}."
        )
    among = f" ({p_value(row['p_corrected'])}, corrected for {row['family_size']} comparisons)"
    among *= row["family_size"] > 1
    if row["clear"]:
        how = "better" if gain > 0 else "worse"
        return f"The models of {run} are {how} than those of {reference} by {change}{among}: {means}{subjects}."
    signed = _change(row, comparison, row["difference"])
    return f"No clear difference between {run} and {reference}: {means}, a change of {signed}{among}{subjects}."


def _ablations(rows: pd.DataFrame, comparison: ComparisonTables) -> Iterator[str]:
    if not len(rows):
        yield "The runs share no ablation."
        return
    word = "increase" if comparison.lower_is_better else "drop"
    if not rows["ci_low"].notna().any():
        yield f"{count(len(rows), 'ablation')}: no interval of the difference in {word}s (see the table)."
        return
    clear = rows[rows["clear"] & ~rows["structural_null"]]
    clear = clear.iloc[np.argsort(-clear["difference"].abs().to_numpy(), kind="stable")]
    named = [
        f"{row['condition']} ({'larger' if row['difference'] > 0 else 'smaller'} by"
        f" {_change(row, comparison, abs(row['difference']), -1 if row['difference'] < 0 else 1)})"
        for row in clear[:MOST].to_dict("records")
    ]
    more = [f"{len(clear) - MOST} more"] if len(clear) > MOST else []
    verb = "has" if len(clear) == 1 else "have"
    start = f"{len(clear)} of {count(len(rows), 'ablation')} {verb} a clearly different {word} in {rows['run'].iloc[0]}"
    yield f"{start}{': ' * bool(named)}{listed_names([*named, *more]) if named else ''}."


def _settings(comparison: ComparisonTables) -> Iterator[str]:
    for run, rows in comparison.settings.groupby("run", sort=False):
        named = [f"{one.setting} ({_short(one.reference)} and {_short(one.other)})" for one in rows.itertuples()]
        more = [f"{len(named) - MOST} more"] if len(named) > MOST else []
        yield f"Settings of {comparison.reference} and {run} that differ: {listed_names([*named[:MOST], *more])}."


def _change(row: Mapping[str, Any], comparison: ComparisonTables, change: float, sign: int = 1) -> str:
    """Format a difference with its interval: `"3.2 pp (95 % CI [1.0, 5.4])"`; `sign` -1 turns the interval around."""
    unit = UNIT_WORDS.get(comparison.unit, "")
    text = f"{_number(change, comparison)}{' ' * bool(unit)}{unit}"
    if pd.isna(row["ci_low"]):
        return text
    low, high = sorted((sign * row["ci_low"], sign * row["ci_high"]))
    ends = f"[{_number(low, comparison)}, {_number(high, comparison)}]"
    return f"{text} ({100 * comparison.statistics.confidence:g} % CI {ends})"


def _number(x: float, comparison: ComparisonTables) -> str:
    return number(x, 1 if comparison.unit == "pp" else 3)


def _all(n: float) -> str:
    return f"all {n:.0f} subjects" if n > 1 else "the only subject"


def _have(n: float) -> str:
    return "have" if n > 1 else "has"


def _short(text: str) -> str:
    most = 40
    return text or "none" if len(text) <= most else f"{text[:most]}..."
