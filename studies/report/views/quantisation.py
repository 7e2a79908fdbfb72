"""Quantised copies of the fitted models: their scores, the effect of cuts on them, and their ranking of heads."""

import textwrap
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emg_lens.analysis.quantisation.variant_analysis import EDGES, FLOAT, INTEGER, UNSCALED
from emg_lens.plotting.panels import new_figure, place_legend
from emg_lens.plotting.style import GREY, PAGE, category_colour
from emg_lens.studies.report.fit_values import mean_heading, mean_with_interval
from emg_lens.studies.report.quantised_values import (
    NAME,
    TOP,
    cut_drops,
    fine_metric,
    head_rank_correlations,
    in_unit,
    mean_change,
    part_of,
    removed_fractions,
    scored_metric,
    unit_of,
    variant_scores,
    words_of_change,
)
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import EMPTY, cut_names, layer_name, metric_words, number, value
from emg_lens.studies.results.control_effects import cuts_every_layer
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.statistics.intervals import FEWEST, mean_interval
from emg_lens.sweeps.conditions import BASELINE

SECTION = "docs/deployment.md"
MEANINGS = (
    "8 bit, 4 bit: weights only, with one scale per matrix, or per output of a matrix (per channel). Activations too: 8"
    " bits for weights and activations. Integer softmax: as on GAP9, in addition; it computes softmax(16 s) in steps of"
    f" 1/255. Unscaled: softmax(s) in the same steps. The models were fitted without rounding ({SECTION})."
)


def layout_scores(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per variant: the metric, its change from the float model, and how many subjects are worse."""
    values = variant_scores(cell)
    if not len(values):
        return None
    bounds = (0.0, 1.0) if scored_metric(cell) == "accuracy" else (-np.inf, 1.0)
    confidence, intact = cell.statistics.confidence, values.xs(BASELINE, axis=1, level="condition")
    rows = []
    for variant in intact:
        change = unit_of(cell) * (intact[variant] - intact[FLOAT]).to_numpy()
        changes = (
            [EMPTY, EMPTY]
            if variant == FLOAT
            else [mean_change(cell, change), f"{(change < 0).sum()} of {len(change)}"]
        )
        rows.append([variant, mean_with_interval(intact[variant].to_numpy(), 3, confidence, bounds=bounds), *changes])
    metric = metric_words(scored_metric(cell))
    heading = mean_heading(confidence, len(values))
    columns = ["Variant", heading.replace("Mean", metric.capitalize()), f"Change{in_unit(cell)}", "Subjects worse"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["notes"] = [*score_sentences(cell), MEANINGS]
    return table


def layout_interactions(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per cut: its drop in the float model, and by how much it is larger in every variant."""
    drops = cut_drops(cell)
    if not len(drops.columns):
        return None
    names, rows = cut_names(cell), []
    for condition in drops.columns.unique("condition"):
        of = drops.xs(condition, axis=1, level="condition")
        differences = [mean_change(cell, (of[v] - of[FLOAT]).to_numpy()) for v in of if v != FLOAT]
        rows.append([names.get(condition, condition), mean_change(cell, of[FLOAT].to_numpy()), *differences])
    variants = [v for v in drops.columns.unique("variant") if v != FLOAT]
    table = pd.DataFrame(rows, columns=["Cut", "Drop, float", *variants])
    interval = (
        f"{100 * cell.statistics.confidence:g} % CI of the mean, paired by subject, not corrected for their number"
    )
    table.attrs["notes"] = [
        *interaction_sentences(cell),
        f"Drop: {metric_words(scored_metric(cell))} of the intact model minus that with the cut{in_unit(cell)}. The"
        " other columns: drop in the quantised model minus drop in the float model (positive: the cut hurts the"
        f" quantised model more). Brackets: {interval}."
        + " With fewer than five subjects, the value of each subject is shown instead."
        * (len(drops) < FEWEST),
    ]
    return table


def layout_head_rankings(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per variant: the rank correlation of its heads with those of the float model."""
    taus = head_rank_correlations(cell)
    if not len(taus.columns):
        return None
    confidence = cell.statistics.confidence
    rows = [
        [
            name,
            mean_with_interval(taus[name, "tau"].to_numpy(), 2, confidence, bounds=(-1.0, 1.0)),
            f"{taus[name, 'top'].mean():.1f} of {TOP}",
        ]
        for name in taus.columns.unique(0)
    ]
    heading = mean_heading(confidence, len(taus)).replace("Mean", "Kendall's τ")
    table = pd.DataFrame(rows, columns=["Ranking, compared with float", heading, f"First {TOP} heads in common"])
    table.attrs["notes"] = [
        *ranking_sentences(cell),
        f"Heads are ranked by the drop in {metric_words(fine_metric(cell))} when all their edges are cut. Last row:"
        " the float model on every second trial, and on the others; it measures the noise of the trials. Copies run"
        " on the same trials as the float model, so this noise does not lower their τ.",
    ]
    return table


def layout_removed_edges(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per variant with integer softmax and layer: edges rounded to zero, attention lost, empty rows."""
    table = part_of(cell, EDGES)
    if not len(table):
        return None
    keys = ["variant", "layer", *(["stage"] if "stage" in table else [])]
    means = table.groupby(keys, sort=False)[list(_EDGE_COLUMNS)].mean().reset_index()
    cells = {"Softmax": means["variant"], "Layer": [layer_name(layer) for layer in means["layer"]]}
    cells |= {"Stage": means["stage"]} if "stage" in means else {}
    cells |= {title: [number(100 * one) for one in means[name]] for name, title in _EDGE_COLUMNS.items()}
    laid_out = pd.DataFrame(cells)
    laid_out.attrs["notes"] = [
        *edge_sentences(cell),
        "Means over subjects, in % of the edges or rows. An edge that is rounded to zero is cut: its source cannot"
        " change its destination in this layer. Distance: total variation between the attention and softmax(s) of the"
        " same scores (0 equal, 100 nothing in common).",
    ]
    return laid_out


_EDGE_COLUMNS = {
    "rounded_to_zero": "Edges rounded to 0",
    "attention_lost": "Attention lost",
    "rows_emptied": "Rows emptied",
    "distance": "Distance to softmax",
}


def figure_quantised(cell: Cell) -> Figure | None:
    """Draw the metric of every variant, intact and with the edges of a kind cut in every layer."""
    values = variant_scores(cell)
    if not len(values):
        return None
    names = cut_names(cell)
    rows = [row for row in cell.tests.to_dict("records") if cuts_every_layer(cell, row)]
    shown = {BASELINE: "intact"} | {row["condition"]: f"{names[row['condition']]}, cut" for row in rows}
    shown = {condition: text for condition, text in shown.items() if condition in values.columns.unique("condition")}
    variants = list(values.columns.unique("variant"))
    with new_figure(PAGE * 0.75, 2.6) as figure:
        axes, dots = figure.subplots(), {}
        for k, (condition, text) in enumerate(shown.items()):
            x = np.arange(len(variants)) + 0.16 * (k - (len(shown) - 1) / 2)
            of = [values[variant, condition].to_numpy() for variant in variants]
            for at, one in zip(x, of, strict=True):
                axes.plot([at, at], mean_interval(one, cell.statistics.confidence), color=GREY, lw=0.8, zorder=1)
            dots[text] = axes.scatter(x, [one.mean() for one in of], s=14, color=category_colour(k), zorder=3)
        if cell.chance is not None:
            axes.axhline(cell.chance, color=GREY, lw=0.6, ls=(0, (3, 3)))
        labels = [textwrap.fill(name, 11) for name in variants]
        axes.set_xticks(range(len(variants)), labels)
        axes.set_ylabel(metric_words(scored_metric(cell)).capitalize())
        place_legend(figure, dots, len(dots))
    return figure


# --- sentences --------------------------------------------------------------------------------------------


def score_sentences(cell: Cell) -> Iterator[str]:
    """Say how rounding changes the metric of the intact models."""
    values = variant_scores(cell)
    if not len(values):
        return
    intact = values.xs(BASELINE, axis=1, level="condition")
    metric = metric_words(scored_metric(cell))
    parts = [
        f"{variant} {words_of_change(cell, (intact[variant] - intact[FLOAT]).to_numpy() * unit_of(cell))}"
        for variant in intact
        if variant not in (FLOAT, INTEGER, UNSCALED)
    ]
    start = f"Rounding changes the {metric} of the float model ({value(float(intact[FLOAT].mean()))}) by:"
    yield f"{start} {'; '.join(parts)}."
    removed = removed_fractions(cell)
    for variant, text in (
        (INTEGER, "The integer softmax of GAP9"),
        (UNSCALED, "Without its factor 16 on the scores, it"),
    ):
        if variant in intact and variant in removed.index:
            change = words_of_change(cell, (intact[variant] - intact[FLOAT]).to_numpy() * unit_of(cell))
            edges = f"rounds {number(100 * removed[variant], 0)} % of the attention edges to zero"
            yield f"{text} {edges}; with 8-bit weights and activations, the change is {change}."


def interaction_sentences(cell: Cell) -> Iterator[str]:
    """Say whether cuts have another effect on the quantised models."""
    drops = cut_drops(cell)
    if not len(drops.columns) or len(drops) < FEWEST:
        return
    confidence = cell.statistics.confidence
    differences = {key: (drops[key] - drops[FLOAT, key[1]]).to_numpy() for key in drops if key[0] != FLOAT}
    ends = [mean_interval(one, confidence) for one in differences.values()]
    by_chance = number((1 - confidence) * len(ends), 0)
    found, n = sum(low > 0 or high < 0 for low, high in ends), len(differences)
    yield (
        f"In {found} of {n} combinations of a cut and a way of rounding, the drop differs from the drop in the float"
        f" model (the interval of the difference excludes zero); about {by_chance} of {n} would by chance."
    )
    variant, condition = max(differences, key=lambda key: abs(differences[key].mean()))
    name = cut_names(cell).get(condition, condition)
    largest = words_of_change(cell, differences[variant, condition])
    yield f"The largest mean difference, {largest}, is for {name} with {variant}."


def ranking_sentences(cell: Cell) -> Iterator[str]:
    """Say how much the ranking of heads changes."""
    taus = head_rank_correlations(cell)
    if not len(taus.columns):
        return
    means = [f"{name} {number(taus[name, 'tau'].mean(), 2)}" for name in taus.columns.unique(0)]
    yield f"Rank correlation (Kendall's τ) of the heads with those of the float model: {'; '.join(means)}."


def edge_sentences(cell: Cell) -> Iterator[str]:
    """Say how many edges integer softmax removes."""
    for variant, fraction in removed_fractions(cell).items():
        yield f"With {variant}, {number(100 * fraction, 0)} % of the attention edges are rounded to zero."


def quantisation_answers(cell: Cell) -> Iterator[str]:
    """Say whether the quantised models keep their scores, the effects of cuts, and the ranking of heads."""
    scores, cuts = [*score_sentences(cell)], [*interaction_sentences(cell)]
    yield from (*scores[:2], *cuts[:1], *ranking_sentences(cell), *scores[2:], *cuts[1:])


class QuantisationView(View):
    """Quantised copies of the models, intact and with edges cut."""

    name, order = NAME, 33
    answers = {"Does the quantised model keep its accuracy, and do cuts show the same?": quantisation_answers}
    captions = {
        "quantised": "Score of the float model and of quantised copies, intact and with all edges of a kind cut in"
        " every layer. Mean over subjects; lines: confidence intervals of the mean. Dashed: chance."
    }
    cell_tables = {
        "Scores after rounding": layout_scores,
        "Effect of cuts after rounding": layout_interactions,
        "Ranking of heads after rounding": layout_head_rankings,
        "Attention edges that integer softmax removes": layout_removed_edges,
    }
    cell_figures = {"quantised": figure_quantised}

    def shows(self, findings: Findings) -> bool:
        """Whether quantised copies were measured."""
        return any(len(cell.analysis(NAME)) for cell in findings.cells)


QUANTISED_COPIES = QuantisationView()
