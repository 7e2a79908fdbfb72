"""Colours and markers of ablations, models and controls in the figures of a report."""

from collections.abc import Mapping
from typing import Any

from emg_lens.plotting.style import CROSS_MODAL, DARK, GREY, OTHER_ABLATION, REMOVED, UNIMODAL
from emg_lens.studies.report.wording import REMOVAL

UNMASKED, RANDOM_CONTROL = DARK, GREY
EXPECTED: dict[str, Any] = {
    "marker": "D",
    "linestyle": "none",
    "color": "white",
    "markeredgecolor": "black",
    "markersize": 4.5,
}


def ablation_colour(row: Mapping[str, Any]) -> str:
    """Colour of a condition: of its edge type, of a removed sensor, or of any other ablation."""
    of_edges = {"unimodal": UNIMODAL, "cross_modal": CROSS_MODAL}
    return REMOVED if row.get("mode") == REMOVAL else of_edges.get(str(row.get("edges")), OTHER_ABLATION)
