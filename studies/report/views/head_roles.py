"""Heads ranked by their unimodal and by their cross-modal edges, and how stable these rankings are."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata

from emg_lens.plotting.panels import new_figure, place_legend
from emg_lens.plotting.style import GREY, PAGE, category_colour
from emg_lens.studies.report.fit_values import attributed_metric, mean_heading, mean_with_interval, with_subjects
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import count, layer_name, value
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.statistics.intervals import mean_interval

KINDS = {"cross_modal": "cross-modal", "unimodal": "unimodal"}
STABLE = 0.7
"""A ranking is called stable from this mean rank correlation on."""
FEWEST_HEADS = 4
"""With fewer heads, one is the first in many subjects by chance, and a rank correlation is often 1 or −1 by chance."""
MOST_TOPS = 3
"""Most heads that a sentence names."""


def layout_head_roles(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per head, the largest cross-modal score first (with one modality: the largest unimodal score)."""
    scores = _first_models(cell)
    if not scores:
        return None
    confidence = cell.statistics.confidence
    heads = next(iter(scores.values())).mean().sort_values(ascending=False, kind="stable").index
    columns: dict[str, list[str]] = {"Head": [head_name(*head) for head in heads]}
    for kind, one in scores.items():
        word, ranks = KINDS[kind].capitalize(), rankdata(-one.to_numpy(), axis=1)
        mean_rank = pd.Series(ranks.mean(0), one.columns)
        heading = mean_heading(confidence, len(one)).replace("Mean", f"{word} score")
        columns[heading] = [mean_with_interval(one[head].to_numpy(), 3, confidence) for head in heads]
        columns[f"Mean rank, {KINDS[kind]}"] = [f"{mean_rank[head]:.1f}" for head in heads]
        top = pd.Series((ranks == 1).sum(0), one.columns)
        columns[f"First, {KINDS[kind]}"] = [f"{top[head]} of {len(one)}" for head in heads]
    table = pd.DataFrame(columns)
    table.attrs["notes"] = [
        *top_sentences(cell),
        "Score of a head: sum over its edges of this kind (integrated gradients of shared gates on test trials), in"
        f" units of the {attributed_metric(cell)}. Edges of CLS are in neither kind. Layers in which these edges have"
        " no path to the readout are left out.",
        *["Of several models of a subject, this table shows the first."] * _has_several_models(cell),
    ]
    return table


def top_sentences(cell: Cell) -> Iterator[str]:
    """Say which head is the first in how many subjects."""
    for kind, scores in _first_models(cell).items():
        if scores.shape[1] < FEWEST_HEADS:
            continue
        first = scores.idxmax(axis=1).value_counts()
        named = [f"{head_name(*head)} in {n}" for head, n in first.items()]  # pyright: ignore[reportGeneralTypeIssues]
        others = f" and others in {first[MOST_TOPS:].sum()}" * (len(first) > MOST_TOPS)
        judged = "no head is" if first.iloc[0] <= len(scores) / 2 else "one head is"
        yield (
            f"By {KINDS[kind]} edges: {judged} the first in more than half of the subjects"
            f" ({', '.join(named[:MOST_TOPS])}{others} of {count(len(scores), 'subject')})."
        )


def layout_stability(cell: Cell) -> pd.DataFrame | None:
    """Lay out the rank correlations between subjects, between models of a subject, and between halves of the trials."""
    rows, notes = [], []
    for kind, scores in _scores(cell, "score").items():
        halves = (_scores(cell, half)[kind] for half in ("first_half", "second_half"))
        pairs = {
            "two subjects": _pairs(scores, False),
            "two models of a subject": _pairs(scores, True),
            "two halves of the test trials": [*zip(*(half.to_numpy() for half in halves), strict=True)],
        }
        means = {}
        for name, both in pairs.items():
            every = [one for a, b in both if not np.isnan(one := _correlation(a, b))]
            within = [one for a, b in both for one in _within_layers(a, b, scores.columns)]
            if every:
                means[name] = float(np.mean(every)), float(np.mean(within)) if within else np.nan
                rows.append([KINDS[kind], name, *map(value, means[name]), str(len(every))])
        notes += _judged(KINDS[kind], means, scores.shape[1])
    if not rows:
        return None
    columns = ["Ranking by", "Between", "All heads", "Heads of one layer", "Pairs"]
    table = pd.DataFrame(rows, columns=columns)
    table.attrs["notes"] = [
        *notes,
        f"Mean Spearman correlation of the scores; a ranking is called stable from {STABLE:g} on. The correlation over"
        " all heads is also high if only the layers differ. The one within layers compares heads of the same layer."
        " Halves of the test trials (every second trial) belong to the same model. They measure the noise of the"
        " trials. Models with different seeds have no common order of heads.",
    ]
    return table


def figure_roles(cell: Cell) -> Figure | None:
    """Draw the heads by their unimodal and cross-modal score, means over subjects with intervals."""
    scores = _first_models(cell)
    if len(scores) < len(KINDS):
        return None
    cross, uni = scores["cross_modal"], scores["unimodal"]
    layers = cross.columns.get_level_values("layer")
    with new_figure(PAGE / 2, 3.0) as figure:
        axes, dots = figure.subplots(), {}
        axes.axhline(0, color=GREY, lw=0.5)
        axes.axvline(0, color=GREY, lw=0.5)
        for k, layer in enumerate(layers.unique()):
            x, y = uni[layer], cross[layer]
            for head in x:
                ends = [mean_interval(one[head].to_numpy(), cell.statistics.confidence) for one in (x, y)]
                axes.plot(ends[0], [y[head].mean()] * 2, [x[head].mean()] * 2, ends[1], color=GREY, lw=0.6, alpha=0.6)
            dots[layer_name(layer)] = axes.scatter(x.mean(), y.mean(), s=14, color=category_colour(k), zorder=3)
        axes.axline((0, 0), slope=1, color=GREY, lw=0.5, ls=(0, (3, 3)), zorder=0)
        axes.set_xlabel(f"Unimodal score ({attributed_metric(cell)})")
        axes.set_ylabel(f"Cross-modal score ({attributed_metric(cell)})")
        place_legend(figure, dots, len(dots))
    return figure


def head_name(layer: float, head: float) -> str:
    """Name of a head: `"L1H0"`."""
    return f"{layer_name(layer)}H{int(head)}"


def _scores(cell: Cell, column: str) -> dict[str, pd.DataFrame]:
    """By kind of edge: one row per subject and fit, one column per layer and head."""
    table = with_subjects(cell, "head-roles")
    if not len(table):
        return {}
    return {
        kind: rows.pivot(index=["subject", "fit"], columns=["layer", "head"], values=column)
        for kind in KINDS
        if len(rows := table[table["kind"] == kind])
    }


def _first_models(cell: Cell) -> dict[str, pd.DataFrame]:
    """By kind of edge: one row per subject, of the first model; heads of several models have no common order."""
    return {kind: scores.groupby(level="subject").first() for kind, scores in _scores(cell, "score").items()}


def _pairs(scores: pd.DataFrame, same_subject: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of pairs of fits, of the same subject or of two subjects."""
    rows = zip(scores.index.get_level_values("subject"), scores.to_numpy(), strict=True)
    return [(a, b) for (one, a), (two, b) in combinations(rows, 2) if (one == two) == same_subject]


def _within_layers(a: np.ndarray, b: np.ndarray, heads: pd.MultiIndex) -> list[float]:
    """Rank correlation within each layer of at least `FEWEST_HEADS` heads."""
    layers = heads.get_level_values("layer")
    here = [layers == layer for layer, n in layers.value_counts().items() if n >= FEWEST_HEADS]
    values = [_correlation(a[one], b[one]) for one in here]
    return [one for one in values if not np.isnan(one)]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman correlation; NaN if it is undefined."""
    a, b = rankdata(a, nan_policy="propagate"), rankdata(b, nan_policy="propagate")
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else np.nan


def _judged(word: str, means: dict[str, tuple[float, float]], n_heads: int) -> Iterator[str]:
    if n_heads < FEWEST_HEADS:
        yield f"The stability of the {word} ranking is not judged: fewer than {FEWEST_HEADS} heads."
        return
    for name, (every, within) in means.items():
        judged = "stable" if every >= STABLE else "not stable"
        if every >= STABLE > within:
            judged = "stable only in that layers differ; within a layer, the order of heads is not stable"
        inside = f"not judged, fewer than {FEWEST_HEADS} heads" if np.isnan(within) else value(within)
        numbers = f"mean rank correlation {value(every)}, within layers {inside}"
        yield f"The {word} ranking between {name}: {judged} ({numbers})."


def _has_several_models(cell: Cell) -> bool:
    fits = with_subjects(cell, "head-roles").drop_duplicates("fit")
    return bool(fits["subject"].duplicated().any())


class HeadRoles(View):
    """Heads ranked by unimodal and by cross-modal score."""

    name, order = "head-roles", 34
    captions = {
        "head-roles": "Each dot is one head: how much its edges within a modality (horizontal) and between modalities"
        " (vertical) contribute to the decision. Mean over subjects, coloured by layer; lines: confidence intervals."
        " Heads above the dashed line contribute more between modalities."
    }
    cell_tables = {"Heads by kind of edge": layout_head_roles, "Stability of the ranking of heads": layout_stability}
    cell_figures = {"head-roles": figure_roles}

    def shows(self, findings: Findings) -> bool:
        """Whether the roles of heads were measured."""
        return any(len(cell.analysis("head-roles")) for cell in findings.cells)


HEAD_ROLES = HeadRoles()
