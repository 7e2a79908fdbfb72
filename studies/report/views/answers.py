"""The main figure and the table of verdicts: every distinct ablation with its interval and its controls."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emg_lens.studies.report.answers import FUSION, OTHERS, PLACES, SENSORS, ablations_by_question
from emg_lens.studies.report.figures import DARK, GREY, WIDTH, new_figure, place_legend, wrapped_text
from emg_lens.studies.report.verdict_sentences import harm, what_was_done, with_interval_of
from emg_lens.studies.report.view import View, in_each_cell
from emg_lens.studies.report.wording import UNIT_WORDS, metric_words, p_value
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import Verdict, verdicts_of

COLOUR_OF = {SENSORS: "#009E73", FUSION: "#0072B2", PLACES: "#0072B2", OTHERS: "#CC79A7"}
MOST_ROWS = {PLACES: 6, OTHERS: 6, SENSORS: 8}
"""The figure shows the largest drops of each question; the table has all of them."""


def layout_verdicts(cell: Cell, verdicts: Sequence[Verdict]) -> pd.DataFrame | None:
    """Lay out one row per distinct ablation, the largest drop first."""
    if not verdicts:
        return None
    unit = UNIT_WORDS.get(verdicts[0].row["unit"], "")
    interval = f" [{100 * cell.statistics.confidence:g} % CI]"
    word = f"{harm(cell).capitalize()}{', ' * bool(unit)}{unit}{interval}"
    rows = [
        [
            what_was_done(one.row, cell),
            with_interval_of(one),
            f"{one.n_worse} of {len(one.changes)}",
            f"{one.cut.n_random_hurt_less} of {len(one.cut.random)}" if one.cut.random else "–",
            "–" if np.isnan(one.p_random) else p_value(one.p_random).removeprefix("p = "),
            one.verdict,
        ]
        for one in sorted(verdicts, key=lambda one: -one.drop)
    ]
    columns = ["Ablation", word, "Subjects worse", "Random controls that hurt less", "p", "Verdict"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["notes"] = [
        "Shown: the interval excludes zero, the ablation hurts more than its random controls (p, corrected for all"
        f" {max(one.n_screened for one in verdicts)} ablations with random controls), and no superset ablation hurts"
        " less. No control: no or too few random controls. No interval: fewer than five subjects, or all changed alike."
    ]
    return table


def figure_answers(cell: Cell, verdicts: Sequence[Verdict]) -> Figure | None:
    """Draw the drop under every ablation with its interval and its random controls, grouped by question."""
    groups = ablations_by_question(cell, verdicts)
    groups = {question: some[: MOST_ROWS.get(question, len(some))] for question, some in groups.items()}
    rows = [(question, one) for question, some in groups.items() for one in some]
    if not rows:
        return None
    metric, unit = metric_words(cell.metric), UNIT_WORDS.get(rows[0][1].row["unit"], "")
    with new_figure(WIDTH, 0.8 + 0.22 * (len(rows) + len(groups))) as figure:
        axes, drawn, at, ticks = figure.subplots(), {}, 0.0, {}
        axes.axvline(0, color=DARK, linewidth=0.8, zorder=1)
        for (before, _), (question, one) in pairwise([("", None), *rows]):
            if question != before:
                axes.text(0.0, at, question, transform=axes.get_yaxis_transform(), fontweight="bold", va="center")
                at += 1
            ticks[at] = wrapped_text(what_was_done(one.row, cell), 44)
            drawn |= _draw_row(axes, at, one, cell, COLOUR_OF.get(question, COLOUR_OF[FUSION]))
            at += 1
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_ylim(at - 0.4, -0.6)
        axes.set_xlabel(f"{harm(cell).capitalize()} in {metric}{f' ({unit})' * bool(unit)}")
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", length=2.5)
        place_legend(figure, drawn, n_columns=4)
    return figure


def _draw_row(axes: Axes, at: float, one: Verdict, cell: Cell, colour: str) -> Mapping[str, object]:
    """Draw one ablation; return the legend's entries."""
    scale = (100 if cell.is_fraction else 1) * (-1 if cell.lower_is_better else 1)
    base, drawn = cell.baseline, {}
    if one.cut.random:
        (drawn["random control"],) = axes.plot(
            scale * (base - np.array(one.cut.random)),
            [at] * len(one.cut.random),
            "o",
            ms=3,
            mfc="none",
            mec=GREY,
            mew=0.6,
        )
    axes.hlines(at, *one.interval, color=colour, linewidth=1.6, zorder=3)
    shown = one.verdict == "shown"
    (line,) = axes.plot(one.drop, at, "o", ms=5, mec=colour, mfc=colour if shown else "white", zorder=4)
    drawn["shown" if shown else "not shown"] = line
    if not np.isnan(one.cut.cls_path_closed):
        closed = scale * (base - one.cut.cls_path_closed)
        (drawn["path through CLS closed as well"],) = axes.plot(closed, at, "x", ms=5, color=colour, zorder=4)
    return drawn


class Answers(View):
    """The verdicts of a study in one figure and one table."""

    name, order = "answers", 0
    captions = {
        "answers": "Mean drop over subjects under each ablation, with its confidence interval (bar) and its random"
        " controls (small circles). Filled: the effect is shown. Hollow: it is not. Right of zero: worse than the"
        " unmasked models."
    }

    def shows(self, findings: Findings) -> bool:
        """Whether the study has ablations."""
        return any(len(cell.tests) for cell in findings.cells)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The table of verdicts of every cell."""
        judged = dict(verdicts_of(findings))
        return in_each_cell(findings, "Verdicts", lambda cell: layout_verdicts(cell, judged[cell]))

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """The main figure of every cell."""
        judged = dict(verdicts_of(findings))
        return in_each_cell(findings, "answers", lambda cell: figure_answers(cell, judged[cell]))


ANSWERS = Answers()
