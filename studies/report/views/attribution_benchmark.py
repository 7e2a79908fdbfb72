"""How attribution methods compare: on encoders with known circuits, and on the models of the study."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from emg_lens.analysis.attribution.fit_trials import SEARCH_TRIALS
from emg_lens.analysis.ground_truth.benchmark_analysis import FITTED, KEPT, RANDOM, RANDOM_ORDERS
from emg_lens.studies.report.fit_values import attributed_metric, mean_heading, mean_with_interval, with_subjects
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import EMPTY, count, listed_names, number
from emg_lens.studies.results.findings import Cell, Findings

FINDS = 0.95
"""A method finds a known circuit if its average precision is at least this for every seed."""
SECTION = "docs/attribution.md"


def layout_known(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per method, the best first: worst average precision over the seeds for each known circuit."""
    worst = _worst(cell)
    if not len(worst):
        return None
    body = [[name, *(number(one, 2) for one in row)] for name, row in zip(worst.index, worst.to_numpy(), strict=True)]
    table = pd.DataFrame(body, columns=["Method", *worst.columns])
    passes = _of(cell, known=True).groupby("method")[["forward_passes", "backward_passes"]].mean().loc[worst.index]
    table["Forward passes"], table["Backward passes"] = ([f"{one:,.0f}" for one in passes[c]] for c in passes)
    table.attrs["notes"] = [
        *known_sentences(cell),
        f"Worst average precision of {count(_of(cell, known=True)['fit'].nunique(), 'encoder')} for each circuit: 1 ="
        f" all true edges rank first. Passes are those for each trial. The circuits are explained in {SECTION}, section"
        " 6. They show what a method cannot find; trained models are harder.",
    ]
    return table


def layout_fitted(cell: Cell) -> pd.DataFrame | None:
    """Lay out one row per method, the best first: how many top-ranked edges keep the metric of the fitted models."""
    needed = _needed(cell)
    if not len(needed.columns):
        return None
    confidence, random = cell.statistics.confidence, needed[RANDOM]
    columns = [mean_heading(confidence, len(needed)).replace("Mean", "Edges needed"), "Difference from random order"]
    rows = [
        [
            name,
            mean_with_interval(needed[name].to_numpy(), 0, confidence),
            EMPTY if name == RANDOM else mean_with_interval((needed[name] - random).to_numpy(), 0, confidence),
        ]
        for name in needed.mean().sort_values(kind="stable").index
    ]
    table = pd.DataFrame(rows, columns=["Method", *columns])
    candidates = _of(cell, known=False)["candidates"].mean()
    table.attrs["notes"] = [
        *fitted_sentences(cell),
        f"Edges needed: number of top-ranked edges between channels, of {candidates:,.4g}, that keep {100 * KEPT:.0f} %"
        f" of the range of the {attributed_metric(cell)} on test trials when all other candidate edges are cut. Ranked"
        f" on at most {SEARCH_TRIALS} training trials. {RANDOM.capitalize()}: mean over {RANDOM_ORDERS} orders for each"
        " model, other ones in each model. Few edges needed do not mean that the ranking has found what the model uses:"
        " of two routes that replace each other, one is enough.",
    ]
    return table


def known_sentences(cell: Cell) -> Iterator[str]:
    """Say which methods find how many of the known circuits, and which circuits the best ones miss."""
    worst = _worst(cell)
    if not len(worst):
        return
    found = worst >= FINDS
    most = found.sum(axis=1).max()
    best = [name for name in worst.index if found.loc[name].sum() == most]
    missed = [variant for variant in worst if not found.loc[best, variant].any()]
    without = f" ({listed_names(missed)} {'is' if len(missed) == 1 else 'are'} missed)" if missed else ""
    yield (
        f"Of {len(worst.columns)} known circuits, {listed_names(best)} {'finds' if len(best) == 1 else 'find'} {most}"
        f"{without}: average precision of at least {FINDS:g} for every encoder."
    )
    blind = [name for name in worst.index if not found.loc[name].any() and name != RANDOM]
    if blind:
        yield f"{listed_names(blind)} {'finds' if len(blind) == 1 else 'find'} none of them."


def fitted_sentences(cell: Cell) -> Iterator[str]:
    """Say which ranking needs the fewest edges in the fitted models."""
    needed = _needed(cell)
    if not len(needed.columns):
        return
    means, confidence = needed.mean(), cell.statistics.confidence
    best = means.drop(RANDOM).idxmin()
    yield (
        f"In the fitted models, the ranking of {best} needs the fewest edges:"
        f" {mean_with_interval(needed[best].to_numpy(), 0, confidence, name=True)}; a random order needs"
        f" {mean_with_interval(needed[RANDOM].to_numpy(), 0, confidence, name=True)}."
    )


def benchmark_answers(cell: Cell) -> Iterator[str]:
    """Say which methods can be believed."""
    yield from known_sentences(cell)
    yield from fitted_sentences(cell)


def _of(cell: Cell, known: bool) -> pd.DataFrame:
    table = with_subjects(cell, "attribution-benchmark")
    return table[(table["variant"] != FITTED) == known] if len(table) else table


def _worst(cell: Cell) -> pd.DataFrame:
    """Worst average precision, one row per method (the best first) and one column per circuit."""
    table = _of(cell, known=True)
    if not len(table):
        return table
    worst = table.groupby(["method", "variant"], sort=False)["average_precision"].min().unstack("variant")
    worst = worst[list(dict.fromkeys(table["variant"]))]
    order = np.lexsort((-worst.mean(axis=1).to_numpy(), -(worst >= FINDS).sum(axis=1).to_numpy()))
    return worst.iloc[order]


def _needed(cell: Cell) -> pd.DataFrame:
    """Edges needed, one row per subject (mean over its fits) and one column per method."""
    table = _of(cell, known=False)
    if not len(table):
        return pd.DataFrame()
    return table.groupby(["subject", "method"], sort=False)["edges_needed"].mean().unstack("method")


class AttributionBenchmarkView(View):
    """Attribution methods on encoders with known circuits, and on the models of the study."""

    name, order = "attribution-benchmark", 35
    answers = {"Which attribution method can be believed?": benchmark_answers}
    cell_tables = {
        "Attribution methods on known circuits": layout_known,
        "Attribution methods on the fitted models": layout_fitted,
    }

    def shows(self, findings: Findings) -> bool:
        """Whether the methods were compared."""
        return any(len(cell.analysis("attribution-benchmark")) for cell in findings.cells)


ATTRIBUTION_BENCHMARK = AttributionBenchmarkView()
