"""What a view is: tables and figures of a study, shown wherever its tags and factors allow.

A view is a subclass with one object, named as an entry point `emg_lens.views`, or added with `VIEWS.add`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

import pandas as pd

from emg_lens.registry import Registry
from emg_lens.studies.findings import Cell, Findings

if TYPE_CHECKING:  # imported where figures are drawn: workers that fit models need not wait for matplotlib
    from matplotlib.figure import Figure

T = TypeVar("T")


class View(ABC):
    """Tables and figures of one kind.

    Attributes:
        name: What study files call it (`views: [table3]`).
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
    made = {f"{name}{' · ' * bool(cell.label)}{cell.label}": make(cell) for cell in findings.cells}
    return {title: one for title, one in made.items() if one is not None}
