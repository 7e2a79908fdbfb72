"""Views: classes that make tables and figures from the results of a study.

To add a view, write a subclass of `View` and register one object of it: as an entry point of the group
`emg_lens.views`, or with `VIEWS.add`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.registry import Registry
from emg_lens.scoring.metrics import METRICS
from emg_lens.studies.results.findings import Cell, Findings

if TYPE_CHECKING:  # imported only to draw figures: processes that fit models do not need matplotlib
    from matplotlib.figure import Figure

T = TypeVar("T")


class View(ABC):
    """Tables and figures of one kind.

    Attributes:
        name: Name in study files (`views: [layer-sweep]`).
        order: Position within the section; smaller comes first.
        section: Section of the report: `"results"` or `"training"`.
        question: The answers to this question open the view (`answers_to_questions`).
        answers: Questions that the view answers on the first screen, each with a function that makes the sentences for
            a cell (none: nothing to say).
        captions: Captions by the start of the figure's name.
        cell_tables: Functions that make a table for each cell (None: no table), by title.
        cell_figures: Functions that draw a figure for each cell (None: no figure), by file name.
    """

    name: str
    order: int = 50
    section: Literal["results", "training"] = "results"
    question: str = ""
    answers: Mapping[str, Callable[[Cell], Iterable[str]]] = {}
    captions: Mapping[str, str] = {}
    cell_tables: Mapping[str, Callable[[Cell], pd.DataFrame | None]] = {}
    cell_figures: "Mapping[str, Callable[[Cell], Figure | None]]" = {}

    @abstractmethod
    def shows(self, findings: Findings) -> bool:
        """Whether these findings contain the data that the view needs."""

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Tables of text by title, with footnotes in `attrs["notes"]`; default: `cell_tables` of every cell."""
        return in_every_cell(findings, self.cell_tables)

    def figures(self, findings: Findings) -> "Mapping[str, Figure]":
        """Figures by file name; default: `cell_figures` of every cell."""
        return in_every_cell(findings, self.cell_figures)


class OutputsView(View):
    """A view of the unmasked models' class outputs for every test trial; shown only if a study names it."""

    def shows(self, findings: Findings) -> bool:
        """Whether the study names the view and its models predict classes."""
        return self.name in (findings.study.views or ()) and METRICS[findings.metric].kind == "classes"


class _Predicted(Protocol):
    """A finished study with saved outputs."""

    def predictions(self) -> pd.DataFrame: ...


def outputs_of_fits(findings: Findings) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """Rows of `StudyResult.predictions` and names of the outputs, by the name of each fit."""
    names = {str(row["fit"]): row["outputs"] for row in findings.facts.to_dict("records")}
    trials = cast(_Predicted, findings).predictions()
    return {str(fit): (some, names[str(fit)]) for fit, some in trials.groupby("fit", sort=False)}


def repetition_fractions(trials: pd.DataFrame) -> Float[np.ndarray, " trial"]:
    """Weight of each trial of a fit: 1 / (trials of its repetition), so that every repetition has weight 1."""
    return 1 / trials.groupby(["subject", "repetition_id"])["subject"].transform("size").to_numpy()


MAIN = "answers"
"""The view with the main figure and the verdicts: every report begins with it."""
VIEWS: Registry[View] = Registry("view", "emg_lens.views", View)


def views_of(findings: Findings) -> list[View]:
    """The main view and those that a study names, or by default all that apply, in the order of the report.

    Raises:
        UnknownNameError: Unknown view.
    """
    named = findings.study.views
    candidates = dict(VIEWS.items()) if named is None else {name: VIEWS[name] for name in (MAIN, *named)}
    return sorted((view for view in candidates.values() if view.shows(findings)), key=lambda view: view.order)


def in_each_cell(findings: Findings, name: str, make: Callable[[Cell], T | None]) -> dict[str, T]:
    """Results of `make` for every cell, by title (`name` and the cell's label); None results are left out."""
    made = by_title(name, {cell.label: make(cell) for cell in findings.cells})
    return {title: one for title, one in made.items() if one is not None}


def in_every_cell(findings: Findings, makers: Mapping[str, Callable[[Cell], T | None]]) -> dict[str, T]:
    """Results of several such functions, by their names."""
    return {title: one for name, make in makers.items() for title, one in in_each_cell(findings, name, make).items()}


def by_title(name: str, of_cells: Mapping[str, T]) -> dict[str, T]:
    """Rename the keys of a mapping from cell labels to titles: `name`, or `"name · label"`."""
    return {f"{name}{' · ' * bool(label)}{label}": one for label, one in of_cells.items()}
