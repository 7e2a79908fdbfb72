"""Gestures in a stream under each condition: which are still detected, at a fixed and at a matched threshold."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Protocol, cast

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.data.pulses import labels_of
from emg_lens.decoding.event_metrics import joined_stream
from emg_lens.decoding.thresholds import EventComparison, score_event_conditions
from emg_lens.plotting.curves import draw_curve
from emg_lens.plotting.matrices import draw_fractions
from emg_lens.plotting.panels import new_figure, plain_text
from emg_lens.plotting.style import CATEGORIES, PAGE, category_colour
from emg_lens.scoring.detection import by_gesture
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.report.view import View, by_title
from emg_lens.studies.report.wording import (
    EMPTY,
    listed_names,
    number,
    removal_conditions,
    single_conditions,
    value,
)
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.sweeps.conditions import BASELINE

MOST_CONDITIONS = 12
"""Conditions in the tables: the single ones and removed sensors, in the order of the study."""
EVENT_LOCKED = "event-locked"
FAMILIES = {"past": "Sources cut before this time (s)", "late": "Sources cut from this time on (s)"}
"""Family of cuts, and the label of its axis."""
MATCHED_NOTE = (
    "Matched: for each condition the threshold with the most right detections, among those with no more false alarms"
    " than the unmasked model at the fixed threshold (or 1 % of the number of labels). A cut that only lowers all"
    " outputs then shows no drop."
)


class StreamOutputs(Protocol):
    """A finished study with saved outputs at every step."""

    def outputs(self, condition: str) -> Mapping[str, tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
        """Return trials, outputs and targets of each fit."""
        ...


LARGE_DROP = 0.1
"""A drop of a gesture's detected fraction that the first screen reports."""
MOST_NAMED = 3
"""Gestures that a sentence names."""


def past_answers(cell: Cell) -> Iterator[str]:
    """Say which gestures need which past, and until when later samples matter, from the analysis `event-locked`."""
    counts = _event_locked_counts(cell)
    if counts is None:
        return
    fractions = _fractions(counts)
    base, by_family = fractions.xs(BASELINE, level="family").iloc[0], fractions.xs
    past, late = by_family("past", level="family").sort_index(), by_family("late", level="family").sort_index()
    needing = past[(base - past > LARGE_DROP).any(axis=1)]
    if len(needing):
        time = float(needing.index[0])
        drops = (base - past.loc[time]).sort_values(ascending=False, kind="stable")
        large = drops[drops > LARGE_DROP].index
        rest = drops.drop(large).abs().max() if len(large) < len(drops) else None
        others = "" if rest is None else f" Every other gesture changes by at most {100 * rest:.1f} pp."
        right = [(value(past.loc[time, gesture]), value(base[gesture])) for gesture in large[:MOST_NAMED]]
        named = [f"{g} in {now} of its labels ({once} before)" for g, (now, once) in zip(large, right, strict=False)]
        more = [f"{len(large) - MOST_NAMED} more"] if len(large) > MOST_NAMED else []
        before, after = (int(counts.loc[row, "false"].sum()) for row in ((BASELINE,), ("past", time)))
        yield (
            f"With attention to more than {-1000 * time:.0f} ms before each event cut, fewer labels are detected under"
            f" their own name: {listed_names([*named, *more])}.{others} False alarms: {after} ({before} before)."
        )
    else:
        largest = 100 * float((base - past).to_numpy().max())
        yield (
            f"No gesture needs attention to more than {-1000 * past.index[-1]:.0f} ms before its event: the largest"
            f" drop is {largest:.1f} pp."
        )
    enough = late[(base - late <= LARGE_DROP).all(axis=1)]
    if len(enough):
        yield (
            f"Attention to samples later than {1000 * enough.index[0]:.0f} ms after the event is not needed: without"
            f" it, the largest drop of a gesture is {100 * float((base - enough.iloc[0]).max()):.1f} pp."
        )


class Gestures(View):
    """Detected gestures by condition, and the curves of the analysis `event-locked`."""

    name, order = "gestures", 14
    answers = {"Which past does a detection need?": past_answers}
    captions = {
        "gestures": "Fraction of the labels of each gesture that are detected under their own name, at the matched"
        " threshold; pooled over subjects and seeds.",
        "event-locked": "Only edges near each event are cut. Left: all sources earlier than a time before the event."
        " Right: all sources later than a time relative to it.",
    }

    def shows(self, findings: Findings) -> bool:
        """Whether the models detect events."""
        return METRICS[findings.metric].kind == "events"

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """For each `Cell`, the scores of every condition, and the detected fraction of every gesture."""
        compared = _compared(findings)
        scores = by_title("Events by condition", {label: layout_events(one) for label, one in compared.items()})
        gestures = by_title("By gesture", {label: layout_gestures(one) for label, one in compared.items()})
        return {**scores, **gestures}

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """For each `Cell`, a map of gestures and conditions, and the event-locked curves if there are any."""
        maps = {label: figure_gestures(one) for label, one in _compared(findings).items()}
        curves = {cell.label: figure_event_locked(cell) for cell in findings.cells if len(cell.analysis(EVENT_LOCKED))}
        return {**by_title("gestures", maps), **by_title("event-locked", curves)}


GESTURES = Gestures()


@lru_cache(maxsize=1)  # tables and figures need it
def _compared(findings: Findings) -> dict[str, EventComparison]:
    """Score the conditions of each cell at the fixed and at the matched threshold."""
    facts = findings.facts.set_index("fit")
    compared = {}
    for cell in findings.cells:
        fits, recordings, probabilities = [*dict.fromkeys(cell.scores["fit"])], {}, {}
        names = list(facts.loc[fits[0], "outputs"])
        shown = pd.concat([single_conditions(cell.tests), removal_conditions(cell.tests)])["condition"].tolist()
        for condition in [BASELINE, *shown[:MOST_CONDITIONS]]:
            of_condition = cast(StreamOutputs, findings).outputs(condition)
            for fit in fits:
                trials, outputs, targets = of_condition[fit]
                for subject, rows in trials.groupby("subject", sort=False):
                    unit = f"{fit} {subject}"
                    of_streams = [part.index.to_numpy() for _, part in rows.groupby("repetition_id", sort=False)]
                    joined = [joined_stream(outputs[i], targets[i]) for i in of_streams]
                    probabilities.setdefault(condition, {})[unit] = [one for _, one, _ in joined]
                    if condition == BASELINE:
                        recordings[unit] = [
                            (labels_of(targets[i], names), times, duration_s)
                            for i, (times, _, duration_s) in zip(of_streams, joined, strict=True)
                        ]
        compared[cell.label] = score_event_conditions(
            recordings, probabilities, names, baseline=BASELINE, lone_releases=False
        )
    return compared


def layout_events(compared: EventComparison) -> pd.DataFrame:
    """Lay out the pooled scores of every condition."""
    fixed, matched = compared.fixed.to_frame(), compared.matched.to_frame()
    thresholds = compared.thresholds
    rows = []
    for name in compared.fixed.conditions:
        one = fixed.loc[name]
        rows.append(
            [
                *("unmasked" if name == BASELINE else name, value(one["right"]), value(one["cler"])),
                *(number(one["missed_per_hour"], 0), number(one["false_per_hour"], 0), number(one["latency_ms"], 0)),
                *(value(matched.loc[name, "right"]), value(thresholds.loc[name, "threshold"])),
            ]
        )
    columns = ["Condition", "Right", "CLER", "Missed / h", "False / h", "Latency (ms)", "Right, matched", "Threshold"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["notes"] = [
        "Right: fraction of labels detected under their own name. CLER counts only events that are matched to a label,"
        f" so that misses and false alarms do not change it. Pooled over subjects and seeds. {MATCHED_NOTE}"
    ]
    return table


def _right(compared: EventComparison) -> pd.DataFrame:
    """Fraction of the labels of each gesture (rows) that each condition detects under their name."""
    tables = {name: by_gesture(compared.matched.of(name)) for name in compared.fixed.conditions}
    return pd.DataFrame(
        {name: table["right"] / table["labels"].where(table["labels"] > 0) for name, table in tables.items()}
    )


def layout_gestures(compared: EventComparison) -> pd.DataFrame:
    """Lay out one row per gesture: number of labels, and the fraction that each condition detects."""
    right, labels = _right(compared), by_gesture(compared.fixed.of(BASELINE))["labels"]
    table = pd.DataFrame({"Gesture": right.index, "Labels": labels.astype(int).astype(str).to_numpy()})
    for name in right:
        texts = [EMPTY if np.isnan(one) else value(one) for one in right[name]]
        table["Unmasked" if name == BASELINE else name] = texts
    table.attrs["notes"] = [f"Fraction of labels detected under their own name. {MATCHED_NOTE}"]
    return table


def figure_gestures(compared: EventComparison) -> Figure:
    """Draw the fraction of each gesture (columns) that each condition (rows) detects."""
    right = _right(compared)
    with new_figure(PAGE * 0.8, 1.2 + 0.24 * right.shape[1]) as figure:
        axes = figure.subplots()
        names = ["unmasked" if name == BASELINE else str(name) for name in right]
        grid = np.ma.masked_invalid(right.to_numpy(float).T)
        draw_fractions(axes, grid, names, list(map(str, right.index)), "Detected under its name")
    return figure


def _event_locked_counts(cell: Cell) -> pd.DataFrame | None:
    """Numbers of labels, right ones and false alarms, by family and time of the cut, and gesture."""
    table = cell.analysis(EVENT_LOCKED)
    if not len(table):
        return None
    keys = ["family", "relative_s", "gesture"]
    return table.groupby(keys, sort=False, dropna=False)[["labels", "right", "false"]].sum()


def _fractions(counts: pd.DataFrame) -> pd.DataFrame:
    """Fraction of the labels of each gesture (columns) that are detected under their name, for each cut (rows)."""
    fraction = counts["right"] / counts["labels"].where(counts["labels"] > 0)
    return fraction.unstack("gesture")[list(dict.fromkeys(counts.index.get_level_values("gesture")))]


def figure_event_locked(cell: Cell) -> Figure:
    """Draw the detected fraction of each gesture against the time of the cut, relative to the event."""
    counts = _event_locked_counts(cell)
    assert counts is not None
    fractions = _fractions(counts)
    gestures, base = list(fractions), fractions.xs(BASELINE, level="family").iloc[0]
    with new_figure(PAGE, 2.6) as figure:
        for axes, (family, label) in zip(figure.subplots(1, 2, sharey=True), FAMILIES.items(), strict=True):
            for k, gesture in enumerate(gestures):
                line = fractions.xs(family, level="family")[gesture].sort_index()
                style = {"ls": "-" if k < len(CATEGORIES) else "--", "marker": "o", "label": plain_text(gesture)}
                draw_curve(axes, line.index, line, category_colour(k), **style)
                axes.axhline(base[gesture], color=category_colour(k), linewidth=0.4, linestyle=":")
            axes.set_xlabel(label)
            axes.locator_params(axis="x", nbins=5)
            axes.set_ylim(-0.03, 1.05)
        figure.axes[0].set_ylabel("Detected under its name")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure
