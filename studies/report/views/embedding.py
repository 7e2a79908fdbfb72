"""Where trials lie in what the unmasked model reads them from: a t-SNE map, and whose neighbours they are."""

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

from emg_lens.studies.report.figures import COLOURS, DPI, STYLE, WIDTH, plain_text
from emg_lens.studies.report.view import OutputsView, in_each_cell, outputs_of_fits, repetition_fractions
from emg_lens.studies.report.wording import value
from emg_lens.studies.results.findings import Cell, Findings

MOST_MAPPED = 1500
"""Trials of a map; of more, evenly spread ones."""
MOST_FITS = 3
"""Whose maps a figure shows."""
MOST_NAMED = 12
"""Colours that the legend explains."""
N_NEIGHBOURS = 10
LEGENDS: tuple[Any, ...] = ("outside right upper", "outside right lower")
"""Places of those of classes and of subjects."""


class _Kept(Protocol):
    """A finished study, whose vectors can be read."""

    folder: Path


class ReadoutMaps(OutputsView):
    """The readout vectors of tested trials, where a study asks for them.

    They are computed from the saved models when a report first asks for them, and kept in the run's folder.
    """

    name, order = "embedding", 62

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """One a cell: of the nearest trials of each class, how many are of the class, and of the same subject."""
        fits = embedded_fits(findings)
        return in_each_cell(findings, "Neighbours in the readout", lambda cell: layout_neighbours(_of(cell, fits)))

    def figures(self, findings: Findings) -> Mapping[str, Figure]:
        """One a cell: maps of its first fits."""
        fits = embedded_fits(findings)
        return in_each_cell(findings, "embedding", lambda cell: figure_maps(_of(cell, fits)[:MOST_FITS]))

    def captions(self) -> Mapping[str, str]:
        """By figure."""
        return {
            "embedding": "t-SNE of what the unmasked model's head reads of tested trials, at most"
            f" {MOST_MAPPED} of each of the first {MOST_FITS} fits; each fit is a map of its own. Near trials are"
            " alike; distances between clusters, their sizes and densities mean nothing."
        }


EMBEDDING = ReadoutMaps()


class EmbeddedFit(NamedTuple):
    """Tested trials of one fit.

    Attributes:
        name: Its fold, and the levels that are averaged.
        classes: Their names, in order.
        trials: subject, movement and label (name of the class), one row a trial.
        vectors: What the head reads of each.
    """

    name: str
    classes: list[str]
    trials: pd.DataFrame
    vectors: Float[np.ndarray, "trial value"]


def embedded_fits(findings: Findings) -> dict[str, EmbeddedFit]:
    """Readout vectors of every fit, by the name of its folder.

    Raises:
        StudyError: As `saved_readouts`.
    """
    from emg_lens.studies.results.readouts import saved_readouts  # with torch, which other reports do without

    facts = {str(row["fit"]): row for row in findings.facts.to_dict("records")}
    vectors = saved_readouts(findings.study, cast(_Kept, findings).folder, facts)
    found = {}
    for fit, (some, outputs) in outputs_of_fits(findings).items():
        about = facts[fit]
        levels = [f"{name} {about[name]}" for name in findings.study.factors if name not in findings.factors]
        label = np.array(outputs)[some["target"].to_numpy(int)]
        trials = some[["subject", "repetition_id"]].assign(label=label).reset_index(drop=True)
        name = " · ".join([about["fold"], *levels])
        found[fit] = EmbeddedFit(name, outputs, trials, vectors[fit])
    return found


def _of(cell: Cell, fits: Mapping[str, EmbeddedFit]) -> list[EmbeddedFit]:
    return [fits[name] for name in dict.fromkeys(cell.scores["fit"])]


def layout_neighbours(fits: Sequence[EmbeddedFit]) -> pd.DataFrame | None:
    """One row a class, and their mean; movements weigh alike, fits too. None where a fit tests one movement alone."""
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
    table = pd.DataFrame(rows, columns=["Class", "Movements", *columns.values()])
    table.attrs["notes"] = [
        f"Of the {n} tested trials nearest to each in what the unmasked model's head reads, windows of its own movement"
        " left out: the share of its class, beside the share of its class among all; means over movements, then over"
        " fits."
    ]
    return table


def figure_maps(fits: Sequence[EmbeddedFit]) -> Figure | None:
    """Maps of some fits, coloured by class; beside each, where several subjects are tested, by subject."""
    from emg_lens.analysis.readout import readout_map

    if any(len(fit.trials) < 4 for fit in fits):
        return None
    by_subject = max(fit.trials["subject"].nunique() for fit in fits) > 1
    columns = [("label", "class"), ("subject", "subject")][: 1 + by_subject]
    across, down = (len(columns), len(fits)) if by_subject else (len(fits), 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.15 + down * WIDTH / 3.3), dpi=DPI, layout="constrained")
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
    """A colour for each name, in the order in which they come."""
    every = list(dict.fromkeys(names))
    if len(every) <= len(COLOURS):
        return dict(zip(every, COLOURS, strict=False))
    spread = matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, len(every)))
    return {name: to_hex(c) for name, c in zip(every, spread, strict=True)}


def _scatter(axes: Axes, where: Float[np.ndarray, "trial 2"], names: np.ndarray, colours: Mapping[str, str]) -> None:
    axes.scatter(where[:, 0], where[:, 1], s=4, linewidths=0, alpha=0.8, c=[colours[name] for name in names])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
