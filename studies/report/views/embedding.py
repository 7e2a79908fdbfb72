"""t-SNE maps of the readout vectors of the unmasked models, and the classes of each trial's nearest neighbours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emg_lens.plotting.panels import new_figure, plain_text
from emg_lens.plotting.style import CATEGORIES, PAGE
from emg_lens.studies.report.view import OutputsView, in_each_cell, outputs_of_fits, repetition_fractions
from emg_lens.studies.report.wording import value
from emg_lens.studies.results.findings import Cell, Findings

MOST_MAPPED = 1500
"""Most trials in one map; of more trials, an evenly spaced subset is shown."""
MOST_FITS = 3
"""Most fits in one figure."""
MOST_NAMED = 12
"""Up to this many colours have a legend."""
N_NEIGHBOURS = 10
LEGENDS: tuple[Any, ...] = ("outside right upper", "outside right lower")
"""Positions of the legends of classes and of subjects."""


class _Kept(Protocol):
    """A finished study with saved models."""

    folder: Path


class ReadoutMaps(OutputsView):
    """Readout vectors of test trials, if a study asks for this view.

    The first report computes them from the saved models and stores them in the run's folder.
    """

    name, order = "embedding", 62
    captions = {
        "embedding": "t-SNE of the readout vectors of test trials in the unmasked model: one map per fit, at most"
        f" {MOST_MAPPED} trials of each of the first {MOST_FITS} fits. Neighbouring trials are similar. Distances"
        " between clusters and their sizes and densities cannot be interpreted."
    }

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One table per `Cell`: fractions of nearest neighbours of the same class and of the same subject."""
        fits = embedded_fits(findings)
        return in_each_cell(
            findings, "Nearest neighbours in the readout", lambda cell: layout_neighbours(_of(cell, fits))
        )

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One figure per combination of factor levels (`Cell`): maps of its first fits."""
        fits = embedded_fits(findings)
        return in_each_cell(findings, "embedding", lambda cell: figure_maps(_of(cell, fits)[:MOST_FITS]))


EMBEDDING = ReadoutMaps()


class EmbeddedFit(NamedTuple):
    """Test trials of one fit with their readout vectors.

    Attributes:
        name: The fold, and the levels that are averaged.
        classes: Names of the classes, in order.
        trials: `subject`, `repetition_id` and `label` (name of the class), one row per trial.
        vectors: Readout vector of each trial: the input of the classification head.
    """

    name: str
    classes: list[str]
    trials: pd.DataFrame
    vectors: Float[np.ndarray, "trial value"]


def embedded_fits(findings: Findings) -> dict[str, EmbeddedFit]:
    """Readout vectors of every fit, by the name of the fit's folder.

    Raises:
        StudyError: As `saved_readouts`.
    """
    from emg_lens.studies.results.readouts import saved_readouts  # imports torch, which other reports do not need

    facts = {str(row["fit"]): row for row in findings.facts.to_dict("records")}
    vectors = saved_readouts(findings.study, cast(_Kept, findings).folder, facts)
    embedded = {}
    for fit, (some, outputs) in outputs_of_fits(findings).items():
        about = facts[fit]
        levels = [f"{name} {about[name]}" for name in findings.study.factors if name not in findings.factors]
        label = np.array(outputs)[some["target"].to_numpy(int)]
        trials = some[["subject", "repetition_id"]].assign(label=label).reset_index(drop=True)
        name = " · ".join([about["fold"], *levels])
        embedded[fit] = EmbeddedFit(name, outputs, trials, vectors[fit])
    return embedded


def _of(cell: Cell, fits: Mapping[str, EmbeddedFit]) -> list[EmbeddedFit]:
    return [fits[name] for name in dict.fromkeys(cell.scores["fit"])]


def layout_neighbours(fits: Sequence[EmbeddedFit]) -> pd.DataFrame | None:
    """Lay out one row per class, then the mean; repetitions have equal weight, and fits too.

    Returns None if a fit has a single test repetition.
    """
    from emg_lens.analysis.readout import neighbour_fractions

    sizes = [fit.trials.groupby(["subject", "repetition_id"]).size() for fit in fits]
    n = min(N_NEIGHBOURS, *(int(size.sum() - size.max()) for size in sizes))
    if not n:
        return None
    parts = []
    for k, fit in enumerate(fits):
        about = fit.trials
        repetition_id = about.groupby(["subject", "repetition_id"], sort=False).ngroup().to_numpy()
        part = about.assign(fit=k, weight=repetition_fractions(about))
        for name, labels in (("class", about["label"]), ("subject", about["subject"])):
            near, expected = neighbour_fractions(fit.vectors, labels.to_numpy(str), repetition_id, n_neighbours=n)
            part[name], part[f"{name}_expected"] = near, expected
        parts.append(part)
    every = pd.concat(parts, ignore_index=True)
    columns = {"class": "Same class", "class_expected": "Class by chance"}
    if every.groupby("fit")["subject"].nunique().max() > 1:
        columns |= {"subject": "Same subject", "subject_expected": "Subject by chance"}
    weighted = every[list(columns)].mul(every["weight"], axis=0).assign(label=every["label"], fit=every["fit"])
    weighted["weight"] = every["weight"]
    sums = weighted.groupby(["label", "fit"]).sum()
    means = sums[list(columns)].div(sums["weight"], axis=0).groupby("label").mean()
    counts = sums["weight"].groupby("label").sum()
    order = [name for name in dict.fromkeys(name for fit in fits for name in fit.classes) if name in counts]
    rows = [[name, str(round(counts[name])), *map(value, means.loc[name])] for name in order]
    rows.append(["Mean over classes", str(round(counts.sum())), *map(value, means.mean())])
    table = pd.DataFrame(rows, columns=["Class", "Repetitions", *columns.values()])
    table.attrs["notes"] = [
        f"Fraction of the {n} nearest test trials, by readout vector of the unmasked model, that have the same class,"
        " next to the fraction expected by chance. Windows of the same repetition are excluded. Means over"
        " repetitions, then over fits."
    ]
    return table


def figure_maps(fits: Sequence[EmbeddedFit]) -> Figure | None:
    """Draw maps of some fits, coloured by class, and by subject if a fit has several test subjects."""
    from emg_lens.analysis.readout import readout_map

    if any(len(fit.trials) < 4 for fit in fits):
        return None
    by_subject = max(fit.trials["subject"].nunique() for fit in fits) > 1
    columns = [("label", "class"), ("subject", "subject")][: 1 + by_subject]
    across, down = (len(columns), len(fits)) if by_subject else (len(fits), 1)
    with new_figure(PAGE, 0.15 + down * PAGE / 3.3) as figure:
        places = np.reshape(figure.subplots(down, across, squeeze=False), -1)
        keys: dict[str, dict[str, str]] = {}
        for k, fit in enumerate(fits):
            shown = np.unique(np.linspace(0, len(fit.trials) - 1, MOST_MAPPED).round().astype(int))
            where = readout_map(fit.vectors[shown])
            for j, (column, word) in enumerate(columns):
                every = [one.classes if column == "label" else one.trials[column] for one in fits]
                colours = _colours([str(name) for names in every for name in names])
                axes = places[k * len(columns) + j]
                _scatter(axes, where, fit.trials[column].astype(str).to_numpy()[shown], colours)
                axes.set_title(plain_text(f"{fit.name}, by {word}"))
                keys[word] = colours
        for (word, colours), place in zip(keys.items(), LEGENDS, strict=False):
            if len(colours) <= MOST_NAMED:
                dots = [Line2D([], [], marker="o", linestyle="none", markersize=3.5, color=c) for c in colours.values()]
                names = [plain_text(name) for name in colours]
                figure.legend(dots, names, loc=place, frameon=False, title=word.capitalize())
    return figure


def _colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order of appearance."""
    every = list(dict.fromkeys(names))
    if len(every) <= len(CATEGORIES):
        return dict(zip(every, CATEGORIES, strict=False))
    spread = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, len(every)))
    return {name: to_hex(c) for name, c in zip(every, spread, strict=True)}


def _scatter(axes: Axes, where: Float[np.ndarray, "trial 2"], names: np.ndarray, colours: Mapping[str, str]) -> None:
    axes.scatter(where[:, 0], where[:, 1], s=4, linewidths=0, alpha=0.8, c=[colours[name] for name in names])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
