"""Draws of electrodes: how the mean over subjects of unmasked models varies from draw to draw (IsoNet, Figure 2)."""

from collections.abc import Mapping

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from emg_lens.studies.report.figures import COLOURS, DPI, STYLE, WIDTH, draw_box, metric_limits, wrapped_text
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import metric_name, metric_words, value
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.spec.factors import DRAW
from emg_lens.studies.statistics.comparison import is_fraction
from emg_lens.sweeps.conditions import BASELINE


class DrawSpread(View):
    """The spread over draws, which is no spread over subjects."""

    name, order = "electrode-sets", 6

    def shows(self, findings: Findings) -> bool:
        """Where electrodes are drawn more than once."""
        return len(findings.study.factors.get(DRAW, ())) > 1

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One row a combination of levels."""
        return {f"{metric_name(findings.metric)} from draw to draw": layout_draws(findings)}

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One box a combination of levels."""
        return {"electrode-sets": figure_draws(findings)}

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {"electrode-sets": "Unmasked models: each dot is one draw of electrodes, its mean over subjects."}


ELECTRODE_SETS = DrawSpread()


def draw_means(findings: Findings) -> dict[str, Float[np.ndarray, " draw"]]:
    """The metric of unmasked models at every combination of levels: one mean over subjects (and seeds) a draw."""
    rows = findings.scores[findings.scores["condition"] == BASELINE]
    found: dict[str, Float[np.ndarray, " draw"]] = {}
    for levels, part in rows.groupby(list(findings.factors), sort=False) if findings.factors else [((), rows)]:
        names = levels if isinstance(levels, tuple) else (levels,)
        by_subject = part.groupby([DRAW, "subject"])[findings.metric].mean()
        label = ", ".join(map(str, names)) or metric_name(findings.metric)
        found[label] = by_subject.groupby(level=0, sort=False).mean().to_numpy()
    return found


def layout_draws(findings: Findings) -> pd.DataFrame:
    """Mean, median, quartiles and extremes over draws of the mean over subjects."""
    body, means = [], draw_means(findings)
    for values in means.values():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        body.append([values.mean(), middle, low, high, values.min(), values.max()])
    columns = ["Mean", "Median", "Lower quartile", "Upper quartile", "Least", "Most"]
    index = pd.Index(list(means), name=", ".join(findings.factors) or "models")
    table = pd.DataFrame([[value(x) for x in row] for row in body], index=index, columns=columns)
    n = len(next(iter(means.values())))
    table.attrs["notes"] = [
        f"{metric_name(findings.metric)} of unmasked models, {n} draws of electrodes, each a mean over subjects.",
        f"A draw is no subject: tests and intervals elsewhere take each subject's mean {metric_words(findings.metric)}"
        " over the draws.",
    ]
    return table


def figure_draws(findings: Findings) -> Figure:
    """The draws of each combination of levels, side by side."""
    means = draw_means(findings)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 0.95 + 0.27 * (len(means) + 1)), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for at, values in enumerate(means.values()):
            draw_box(axes, at, pd.Series(values), COLOURS[at % len(COLOURS)], 0.6, vertical=False)
        axes.set_yticks(range(len(means)), [wrapped_text(name, 36) for name in means])
        axes.set_ylim(len(means) - 0.4, -0.6)
        axes.set_xlim(*metric_limits(np.concatenate(list(means.values())), is_fraction(findings.metric)))
        axes.set_xlabel(f"{metric_name(findings.metric)}, mean over subjects")
    return figure
