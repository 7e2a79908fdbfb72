"""Variation of the unmasked models between random electrode sets (IsoNet paper, Figure 2)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

from emg_lens.plotting.boxes import metric_limits, plot_boxes
from emg_lens.plotting.panels import new_figure
from emg_lens.plotting.style import PAGE, category_colour
from emg_lens.studies.report.view import View
from emg_lens.studies.report.wording import metric_name, metric_words, value
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.spec.factors import ELECTRODE_SET
from emg_lens.studies.statistics.comparison import is_fraction
from emg_lens.sweeps.conditions import BASELINE


class ElectrodeSetSpread(View):
    """Spread over random electrode sets (not over subjects)."""

    name, order = "electrode-sets", 6
    captions = {"electrode-sets": "Each dot is the mean over subjects for one random electrode set."}

    def shows(self, findings: Findings) -> bool:
        """Whether a study has more than one random electrode set."""
        return len(findings.study.factors.get(ELECTRODE_SET, ())) > 1

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One row per combination of levels."""
        return {f"{metric_name(findings.metric)} by electrode set": layout_electrode_sets(findings)}

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One box per combination of levels."""
        return {"electrode-sets": figure_electrode_sets(findings)}


ELECTRODE_SETS = ElectrodeSetSpread()


def electrode_set_means(findings: Findings) -> dict[str, Float[np.ndarray, " electrode_set"]]:
    """Metric of the unmasked models by combination of levels: one mean over subjects and seeds per electrode set."""
    rows = findings.scores[findings.scores["condition"] == BASELINE]
    means: dict[str, Float[np.ndarray, " electrode_set"]] = {}
    for levels, part in rows.groupby(list(findings.factors), sort=False) if findings.factors else [((), rows)]:
        names = levels if isinstance(levels, tuple) else (levels,)
        by_subject = part.groupby([ELECTRODE_SET, "subject"])[findings.metric].mean()
        label = ", ".join(map(str, names)) or metric_name(findings.metric)
        means[label] = by_subject.groupby(level=0, sort=False).mean().to_numpy()
    return means


def layout_electrode_sets(findings: Findings) -> pd.DataFrame:
    """Lay out mean, median, quartiles and range over electrode sets of the mean over subjects."""
    body, means = [], electrode_set_means(findings)
    for values in means.values():
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        body.append([values.mean(), middle, low, high, values.min(), values.max()])
    columns = ["Mean", "Median", "Lower quartile", "Upper quartile", "Minimum", "Maximum"]
    index = pd.Index(list(means), name=", ".join(findings.factors) or "models")
    table = pd.DataFrame([[value(x) for x in row] for row in body], index=index, columns=columns)
    n = len(next(iter(means.values())))
    table.attrs["notes"] = [
        f"{n} random electrode sets; {metric_words(findings.metric)} is the mean over subjects for each set.",
        "Electrode sets are not subjects: all tests and intervals in this report first average each subject over the"
        " sets.",
    ]
    return table


def figure_electrode_sets(findings: Findings) -> Figure:
    """Draw one box over electrode sets for each combination of levels."""
    means = electrode_set_means(findings)
    with new_figure(PAGE * 0.72, 0.95 + 0.27 * (len(means) + 1)) as figure:
        plot_boxes(
            means, colours=[category_colour(k) for k in range(len(means))], ax=figure.subplots(),
            label=f"{metric_name(findings.metric)}, mean over subjects",
            limits=metric_limits(np.concatenate(list(means.values())), is_fraction(findings.metric)),
        )  # fmt: skip
    return figure
