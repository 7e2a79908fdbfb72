"""The unmasked models at every combination of factor levels, and comparisons between levels."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emg_lens.plotting.boxes import metric_limits, offset_in_group
from emg_lens.plotting.panels import new_figure, place_legend, plain_text, wrapped_text
from emg_lens.plotting.style import PAGE, category_colour
from emg_lens.studies.report.notes import interval_notes, order_notes
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import (
    CORRECTION_NAMES,
    EMPTY,
    PAPER,
    SIGNIFICANCE,
    TEST_NAMES,
    interval_heading,
    metric_name,
    value,
    with_interval,
)
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.spec.factors import ELECTRODE_SET, SEED
from emg_lens.studies.statistics.comparison import is_fraction
from emg_lens.sweeps.conditions import BASELINE

LETTERS_PER_FIGURE = 100
"""Letters of tick labels that fit next to each other in a figure of full width."""


class Grid(View):
    """The metric of unmasked models at every combination of levels."""

    name, order = "grid", 5
    captions = {"grid": "Models at every combination of levels: subjects (dots), mean and standard deviation."}

    def shows(self, findings: Findings) -> bool:
        """Whether a study has factors to compare."""
        return bool(findings.factors)

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """The first factor in rows, the others in columns; then the comparisons that the study asks for."""
        tables = {f"{metric_name(findings.metric)} by {' × '.join(findings.factors)}": layout_grid(findings)}
        if len(findings.level_tests):
            tables["Comparison of levels"] = layout_levels(findings)
        return tables

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure: every subject at every combination of levels."""
        return {"grid": figure_grid(findings)}


GRID = Grid()


def subject_means(findings: Findings) -> pd.DataFrame:
    """Metric of the unmasked models, one row per subject and combination of levels; seeds and folds are averaged."""
    rows = findings.scores[findings.scores["condition"] == BASELINE]
    return rows.groupby([*findings.factors, "subject"], sort=False)[findings.metric].mean().reset_index()


def layout_grid(findings: Findings) -> pd.DataFrame:
    """Lay out mean ± standard deviation over subjects: the first factor in rows, the others in columns."""
    down, across = _levels(findings)
    values = _values(findings)
    published = _published(findings)
    columns = {}
    for rest in across:
        heading = ", ".join(rest) or metric_name(findings.metric)
        columns[heading] = [_mean_and_sd(values.get((level, *rest))) for level in down]
        if any((level, *rest) in published for level in down):
            paper = f"{heading}: {PAPER}" if any(rest) else PAPER
            columns[paper] = [value(published.get((level, *rest), np.nan)) for level in down]
    table = pd.DataFrame(columns, index=pd.Index(down, name=findings.factors[0]))
    counts = sorted({len(some) for some in values.values()})
    n = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    factors, words = findings.study.factors, {ELECTRODE_SET: "electrode sets", SEED: "seeds"}
    parts = [f"{len(factors[name])} {word}" for name, word in words.items() if len(factors.get(name, ())) > 1]
    averaged = f"; each subject is the mean over {' × '.join(parts)}" if parts else ""
    table.attrs["notes"] = [
        f"{metric_name(findings.metric)}: mean ± standard deviation over subjects (n = {n}){averaged}.",
        f"Parameters per model: {_parameters(findings)}.",
    ]
    return table


def layout_levels(findings: Findings) -> pd.DataFrame:
    """Lay out the comparison of each level with its reference level, paired by subject."""
    rows, spec = findings.level_tests, findings.study.statistics
    body = []
    for row in rows.to_dict("records"):
        where = [f"{name}: {row[name]}" for name in findings.factors if name != row["factor"]]
        means = [value(row["mean"]), value(row["baseline_mean"])]
        body.append([", ".join(where), row["level"], row["to"], *means, with_interval(row), row["stars"]])
    difference = interval_heading(rows, spec.confidence, "Difference")
    columns = ["Other levels", "Level", "Reference", "Mean", "Mean of the reference", difference, SIGNIFICANCE]
    table = pd.DataFrame(body, columns=columns)
    sizes = rows["family_size"].unique()
    table.attrs["notes"] = [
        f"Differences are paired by subject. {SIGNIFICANCE}: {TEST_NAMES[spec.test]},"
        f" {CORRECTION_NAMES[spec.correction]} over"
        f" {' or '.join(map(str, sizes))} {'comparison' if list(sizes) == [1] else 'comparisons'} per factor.",
        *interval_notes(rows),
        *dict.fromkeys(note for cell in findings.cells if cell.leakage for note in order_notes(cell.leakage)),
    ]
    return table if (table["Other levels"] != "").any() else table.drop(columns="Other levels")


def figure_grid(findings: Findings) -> Figure:
    """Draw one group per level of the first factor, one colour per combination of the others."""
    first, *others = findings.factors
    down, across = _levels(findings)
    values = _values(findings)
    width = 1 if len(down) * len(across) > 12 or len(down) > 4 else 0.72
    letters = int(width * LETTERS_PER_FIGURE / len(down)) - 1
    turned = max(map(len, down)) > 3 * letters
    with new_figure(width * PAGE, 2.6) as figure:
        axes = figure.subplots()
        for k, rest in enumerate(across):
            for group, level in enumerate(down):
                if (level, *rest) not in values:
                    continue
                some, at = values[(level, *rest)], group + offset_in_group(k, len(across))
                spread = np.random.default_rng(0).uniform(-0.16, 0.16, len(some)) / len(across)
                axes.scatter(at + spread, some, s=6, color=category_colour(k), alpha=0.45, linewidths=0)
                sd = some.std(ddof=1) if len(some) > 1 else 0
                axes.errorbar(at, some.mean(), sd, fmt="_", color=category_colour(k), markersize=9, capsize=2.5)
        style = {"rotation": 30, "ha": "right"} if turned else {}
        names = [plain_text(level) if turned else wrapped_text(level, letters) for level in down]
        axes.set_xticks(range(len(down)), names, **style)
        axes.set_xlim(-0.6, len(down) - 0.4)
        axes.set_xlabel(plain_text(first))
        axes.set_ylabel(metric_name(findings.metric))
        axes.set_ylim(*metric_limits(np.concatenate(list(values.values())), is_fraction(findings.metric)))
        if others:
            marks = {"marker": "o", "linestyle": "none", "markersize": 4}
            entries = {
                plain_text(", ".join(rest)): Line2D([], [], color=category_colour(k), **marks)
                for k, rest in enumerate(across)
            }
            place_legend(figure, entries, 4, plain_text(", ".join(others)))
    return figure


def _levels(findings: Findings) -> tuple[list[str], list[tuple[str, ...]]]:
    """Levels of the first factor, and combinations of the others, in the study's order."""
    every = list(_values(findings))
    return list(dict.fromkeys(levels[0] for levels in every)), list(dict.fromkeys(levels[1:] for levels in every))


def _values(findings: Findings) -> dict[tuple[str, ...], np.ndarray]:
    """The metric of every subject at each combination of levels."""
    groups = subject_means(findings).groupby(list(findings.factors), sort=False)[findings.metric]
    return {tuple(map(str, levels)): some.to_numpy() for levels, some in groups}  # pyright: ignore


def _published(findings: Findings) -> dict[tuple[str, ...], float]:
    """Published values of the metric for unmasked models, by combination of levels."""
    published, reference = {}, findings.reference
    for levels in _values(findings) if reference is not None else ():
        assert reference is not None
        at = dict(zip(findings.factors, levels, strict=True))
        numbers = reference.by_condition(findings.metric, at)
        published |= {levels: numbers[BASELINE]} if BASELINE in numbers else {}
    return published


def _mean_and_sd(values: np.ndarray | None) -> str:
    if values is None:
        return EMPTY
    return f"{value(values.mean())} ± {value(values.std(ddof=1))}" if len(values) > 1 else value(values.mean())


def _parameters(findings: Findings) -> str:
    """Number of parameters; one number per combination of levels if they differ."""
    counts = findings.facts.groupby(list(findings.factors), sort=False)["n_parameters"].first()
    if counts.nunique() == 1:
        return f"{int(counts.iloc[0]):,}"
    return "; ".join(f"{', '.join(map(str, k)) if isinstance(k, tuple) else k} {int(n):,}" for k, n in counts.items())
