"""The main figure and the table of verdicts: every distinct ablation with its interval and its controls.

A study without ablations has a main figure of its models: their scores next to the simple reference and to chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emg_lens.plotting.panels import new_figure, place_legend, plain_text, wrapped_text
from emg_lens.plotting.style import DARK, DOTTED
from emg_lens.studies.report.ablation_colours import EXPECTED, RANDOM_CONTROL, UNMASKED, ablation_colour
from emg_lens.studies.report.answers import (
    ELECTRODES,
    OTHERS,
    PLACES,
    SENSORS,
    ablations_by_question,
    named_in_answers,
)
from emg_lens.studies.report.verdict_sentences import OBJECTIONS, harm, is_all_but_one, what_was_done, with_interval_of
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import UNIT_WORDS, metric_name, metric_words, p_limit, p_value, value
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.quality import quality_of
from emg_lens.studies.results.verdicts import MARGIN, Verdict, enough_random, verdicts_of
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.sweeps.conditions import BASELINE

NARROW = 4.4
"""Width of the main figure in inches: it stays legible on a phone."""
LABEL = 32
"""Letters of a row's name before it is wrapped."""
MOST_ROWS = {PLACES: 6, OTHERS: 6, SENSORS: 6, ELECTRODES: 6}
"""The figure of one cell shows the largest drops of each question; the table has all of them."""
MOST_CELLS = 6
"""Cells of one figure; of several cells it shows half as many rows each."""
CIRCLES: dict[str, Any] = {"marker": "o", "ms": 3, "mfc": "none", "mec": RANDOM_CONTROL, "mew": 0.6, "ls": "none"}


def layout_verdicts(cell: Cell, verdicts: Sequence[Verdict]) -> pd.DataFrame | None:
    """Lay out one row per distinct ablation, the largest drop first; removals of all sensors but one come last."""
    if not verdicts:
        return None
    unit = UNIT_WORDS.get(verdicts[0].row["unit"], "")
    has_interval = any(not np.isnan(one.interval[0]) for one in verdicts)
    interval = f" [{100 * cell.statistics.confidence:g} % CI]" * has_interval
    word = f"{harm(cell).capitalize()}{', ' * bool(unit)}{unit}{interval}"
    judged = sorted(verdicts, key=lambda one: (is_all_but_one(one.row), -one.drop))
    rows = [
        [
            what_was_done(one.row, cell),
            with_interval_of(one),
            f"{one.n_worse} of {len(one.changes)}",
            f"{one.cut.n_random_hurt_less} of {len(one.cut.random)}" if one.cut.random else "–",
            "–" if np.isnan(one.p_random) else p_value(one.p_random).removeprefix("p = "),
            one.verdict,
            OBJECTIONS.get(one.reason, ""),
        ]
        for one in judged
    ]
    columns = ["Ablation", word, "Subjects worse", "Random controls that hurt less", "p", "Verdict", "Why"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["optional"] = ["Why", "Subjects worse", "p", "Random controls that hurt less"]
    at = {one.cut.condition: position for position, one in enumerate(judged)}
    table.attrs["kept"] = [at[name] for name in named_in_answers(cell, verdicts)]
    table.attrs["notes"] = [" ".join(_legend(cell, verdicts))]
    return table


def _legend(cell: Cell, verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Say what the verdicts of a table mean, and what p is."""
    used, alpha = {one.verdict for one in verdicts}, cell.statistics.alpha
    yield (
        "Shown: four checks hold, in this order. (1) The interval excludes zero. (2) There are at least"
        f" {enough_random(alpha)} random controls. (3) p ≤ {p_limit(alpha)}. (4) No superset ablation hurts clearly"
        f" less, or less by {100 * MARGIN:g} % of the {harm(cell)} or more on average."
    )
    meanings = {
        "not shown": "check 1, 3 or 4 fails (the report names it)",
        "no control": "check 2 fails, so it is open whether the effect is specific",
        "no interval": "fewer than five subjects, or all changed alike",
    }
    yield from (f"{word.capitalize()}: {meaning}." for word, meaning in meanings.items() if word in used)
    sizes = {one.cut.shares_random: one.n_screened for one in verdicts if one.is_screened}
    families = {False: "ablations with random controls", True: "cuts of single heads"}
    several = [f"all {sizes[shares]} {name}" for shares, name in families.items() if sizes.get(shares, 0) > 1]
    if sizes:
        corrected = f", corrected for {' or '.join(several)}" * bool(several)
        yield f"p is from the random controls{corrected}. Stars and ns in other tables are from tests over subjects."


def figure_answers(judged: Sequence[tuple[Cell, Sequence[Verdict]]]) -> Figure | None:
    """Draw the drop under every ablation with its interval and its random controls, grouped by question."""
    rows_of = [(cell, _rows(cell, verdicts, len(judged) > 1)) for cell, verdicts in judged]
    rows_of = [(cell, rows) for cell, rows in rows_of if rows][:MOST_CELLS]
    if not rows_of:
        return None
    heights = [sum(_height(label) for label, _ in rows) + 1.5 for _, rows in rows_of]
    with new_figure(NARROW, 0.7 + 0.2 * sum(heights)) as figure:
        panels = figure.subplots(len(rows_of), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        drawn: dict[str, Any] = {}
        for axes, (cell, rows) in zip(panels, rows_of, strict=True):
            drawn |= _draw_panel(axes, cell, rows)
        for axes, (cell, _) in zip(panels, rows_of, strict=True):
            at_chance = np.nan if cell.chance is None else _drop_at(cell, cell.chance)
            if at_chance < axes.get_xlim()[1]:
                drawn["chance"] = axes.axvline(at_chance, **DOTTED, zorder=0)
        cell, unit = rows_of[0][0], UNIT_WORDS.get(rows_of[0][0].tests["unit"].iloc[0], "")
        panels[-1].set_xlabel(f"{harm(cell).capitalize()} in {metric_words(cell.metric)}{f' ({unit})' * bool(unit)}")
        place_legend(figure, drawn, n_columns=3)
    return figure


def _rows(cell: Cell, verdicts: Sequence[Verdict], is_one_of_many: bool) -> list[tuple[str, Verdict | None]]:
    """Labels and verdicts in the order of the figure; a heading has no verdict."""
    rows: list[tuple[str, Verdict | None]] = []
    for question, some in ablations_by_question(cell, verdicts).items():
        if question in (SENSORS, ELECTRODES):  # with the means as well, the figure would show each of them twice
            some = [one for one in some if one.row.get("by") != "mean"] or some
        most = MOST_ROWS.get(question, len(some))
        some = some[: most // 2 if is_one_of_many else most]
        rows += [
            (plain_text(question), None),
            *((wrapped_text(what_was_done(one.row, cell), LABEL), one) for one in some),
        ]
    return rows


def _height(label: str) -> float:
    """Height of a row in units of a row of one line."""
    return max(1.0, 0.75 * (1 + label.count("\n")))


def _draw_panel(axes: Axes, cell: Cell, rows: Sequence[tuple[str, Verdict | None]]) -> dict[str, Any]:
    """Draw the ablations of one cell; return the legend's entries."""
    axes.axvline(0, color=DARK, linewidth=0.8, zorder=1)
    drawn, at, places = {}, 0.0, []
    for (before, _), (label, one) in pairwise([("", None), *rows]):
        at += (_height(before) + _height(label)) / 2
        places.append(at)
        if one is not None:
            drawn |= _draw_row(axes, at, one, cell)
    axes.set_yticks(places, [label for label, _ in rows])
    for tick, (_, one) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if one is None else "normal")
    axes.set_ylim(at + 0.7, 0.3)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=2.5)
    chance = "" if cell.chance is None else f", chance {value(cell.chance)}"
    about = f"Unmasked models: {metric_words(cell.metric)} {value(cell.baseline)}{chance}"
    axes.set_title(plain_text(f"{cell.label}\n{about}" if cell.label else about), fontsize=7.5, loc="right")
    return drawn


def _draw_row(axes: Axes, at: float, one: Verdict, cell: Cell) -> Mapping[str, Any]:
    """Draw one ablation; return the legend's entries."""
    drawn, colour = {}, ablation_colour(one.row)
    if one.cut.random:
        (drawn["random control"],) = axes.plot(
            _drop_at(cell, np.array(one.cut.random)), [at] * len(one.cut.random), **CIRCLES
        )
    axes.hlines(at, *one.interval, color=colour, linewidth=1.8, zorder=3)
    shown, is_judged = one.verdict == "shown", one.verdict in ("shown", "not shown")
    mark, size = ("o", 5.5) if is_judged else ("s", 4.5)
    axes.plot(one.drop, at, mark, ms=size, mec=colour, mfc=colour if shown else "white", mew=1.2, zorder=4)
    (drawn["effect shown" if shown else one.verdict],) = axes.plot(
        [], [], mark, ms=size, mec=DARK, mfc=DARK if shown else "white"
    )
    if not np.isnan(one.cut.cls_path_closed):
        axes.plot(_drop_at(cell, one.cut.cls_path_closed), at, "x", ms=5, mew=1.2, color=colour, zorder=4)
        (drawn["path through CLS closed too"],) = axes.plot([], [], "x", ms=5, mew=1.2, color=DARK)
    return drawn


def _drop_at(cell: Cell, values: Any) -> Any:
    """Drop of the metric where it has these values; positive = worse than the unmasked models."""
    scale = (100 if cell.is_fraction else 1) * (-1 if cell.lower_is_better else 1)
    return scale * (cell.baseline - values)


def figure_models(findings: Findings) -> Figure:
    """Draw the models of every cell: subjects, mean with interval, simple reference and chance."""
    cells = [cell for cell in findings.cells if len(cell.values)]
    with new_figure(NARROW, 0.9 + 0.32 * len(cells)) as figure:
        axes, drawn = figure.subplots(), {}
        for at, cell in enumerate(cells):
            values, quality = cell.values[BASELINE].to_numpy(), quality_of(cell)
            spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))
            (drawn["a subject"],) = axes.plot(values, at + spread, "o", ms=3, color=UNMASKED, alpha=0.4, mew=0)
            axes.hlines(
                at, *mean_interval(values, cell.statistics.confidence, cell.metric_range), color=UNMASKED, linewidth=1.8
            )
            (drawn["mean with interval"],) = axes.plot(values.mean(), at, "o", ms=5.5, color=UNMASKED)
            if quality is not None and quality.reference == quality.reference:
                (drawn["simple reference"],) = axes.plot(quality.reference, at, **EXPECTED)
            if cell.chance is not None:
                drawn["chance"] = axes.vlines(cell.chance, at - 0.4, at + 0.4, **DOTTED)
        names = [wrapped_text(", ".join(cell.levels.values()) or "models", LABEL) for cell in cells]
        axes.set_yticks(range(len(cells)), names)
        axes.set_ylim(len(cells) - 0.4, -0.6)
        axes.set_xlabel(metric_name(findings.metric))
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=2.5)
        place_legend(figure, drawn, n_columns=4)
    return figure


class Answers(View):
    """The main figure of a study, and its table of verdicts. Every report has it."""

    name, order = "answers", 0
    captions = {
        "answers": "Mean over subjects under each ablation (bar: confidence interval). Right of zero: worse.",
        "models": "Scores of the models on test trials.",
    }

    def shows(self, findings: Findings) -> bool:
        """Whether there are scores: always."""
        return len(findings.scores) > 0

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The table of verdicts of every cell."""
        judged = dict(verdicts_of(findings))
        return in_each_cell(findings, "Verdicts", lambda cell: layout_verdicts(cell, judged[cell]))

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """The main figure."""
        ablations = figure_answers(verdicts_of(findings))
        return {"models": figure_models(findings)} if ablations is None else {"answers": ablations}


ANSWERS = Answers()
