"""What a view is: tables and figures of a study, shown wherever its tags and factors allow.

A view is a subclass with one object, named as an entry point `emg_lens.views`, or added with `VIEWS.add`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.registry import Registry
from emg_lens.studies.results.findings import Cell, Findings

if TYPE_CHECKING:  # imported where figures are drawn: workers that fit models need not wait for matplotlib
    from matplotlib.figure import Figure

T = TypeVar("T")


class View(ABC):
    """Tables and figures of one kind.

    Attributes:
        name: What study files call it (`views: [layer-sweep]`).
        order: Place in its section; smaller comes first.
        section: Of the report: `"results"`, or `"training"`.
    """

    name: str
    order: int = 50
    section: Literal["results", "training"] = "results"

    @abstractmethod
    def shows(self, findings: Findings) -> bool:
        """Whether these findings have what the view shows."""

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:  # noqa: ARG002
        """Tables of text by title, footnotes in `attrs["notes"]`."""
        return {}

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """Those of the tables that the command line prints; default all."""
        return self.tables(findings)

    def figures(self, findings: Findings) -> "Mapping[str, Figure]":  # noqa: ARG002
        """Figures by the name of their file."""
        return {}

    def captions(self) -> Mapping[str, str]:
        """What stands under the figures, by the start of their names."""
        return {}


class OutputsView(View):
    """One of what the unmasked models give for every tested trial, where a study asks for it by name."""

    def shows(self, findings: Findings) -> bool:
        """Where the study names it, and its models tell classes."""
        asked = self.name in (findings.study.views or ())
        return asked and hasattr(findings, "predictions") and "accuracy" in findings.facts["metrics"].explode().tolist()

    def headline(self, findings: Findings) -> Mapping[str, pd.DataFrame]:  # noqa: ARG002
        """None: the report has them."""
        return {}


class _Predicted(Protocol):
    """A finished study, whose outputs can be read."""

    def predictions(self) -> pd.DataFrame: ...


def outputs_of_fits(findings: Findings) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """By the name of each fit: its rows of `StudyResult.predictions`, and the names of its outputs."""
    names = {str(row["fit"]): row["outputs"] for row in findings.facts.to_dict("records")}
    trials = cast(_Predicted, findings).predictions()
    return {str(fit): (some, names[str(fit)]) for fit, some in trials.groupby("fit", sort=False)}


def repetition_fractions(trials: pd.DataFrame) -> Float[np.ndarray, " trial"]:
    """What each trial of a fit is of its movement: with these weights, every movement counts 1."""
    return 1 / trials.groupby(["subject", "repetition_id"])["subject"].transform("size").to_numpy()


VIEWS: Registry[View] = Registry("view", "emg_lens.views")


def views_of(findings: Findings) -> list[View]:
    """The views that a study asks for, or all that can show something; in the order of the report.

    Raises:
        UnknownNameError: A view that there is not.
    """
    asked = findings.study.views
    found = [VIEWS[name] for name in (VIEWS.names() if asked is None else asked)]
    return sorted((view for view in found if view.shows(findings)), key=lambda view: view.order)


def in_each_cell(findings: Findings, name: str, make: Callable[[Cell], T | None]) -> dict[str, T]:
    """What `make` gives of every cell, by `name` and the cell's label; cells that give nothing are left out."""
    made = by_title(name, {cell.label: make(cell) for cell in findings.cells})
    return {title: one for title, one in made.items() if one is not None}


def by_title(name: str, of_cells: Mapping[str, T]) -> dict[str, T]:
    """What belongs to cells, given by their labels, by `name` and the label."""
    return {f"{name}{' · ' * bool(label)}{label}": one for label, one in of_cells.items()}
