"""Draw the figures of `docs/report-guide.md`: `python docs/generators/report_drawings.py runs/quickstart/<hash>`.

`make demo` makes the run. The drawings are stored, because a run takes minutes.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from emg_lens.studies import StudyResult

DOCS = Path(__file__).resolve().parents[1]
NOTES = {
    1: ("ACC removed", 81.1, (0, 13)),
    2: ("ACC removed", 65, (0, 13)),
    3: ("all unimodal edges cut", 4.6, (26, 0)),
    4: ("all cross-modal edges cut", 32.1, (0, 13)),
    5: ("all cross-modal edges cut", 50, (0, 13)),
    6: ("cross-modal edges of L3 cut", 0, (18, 0)),
    7: ("EMG removed", 77.5, (-24, 0)),
}
"""Number of a note -> row of the main figure, place on its axis (pp), and offset of the number (points)."""
QUESTIONS = (
    ("Is the model at least as good\nas the simple reference?", "do not interpret\nits attention"),
    ("Does the interval of the\ndrop exclude zero?", "not shown: no detectable drop,\nwhich is not “no effect”"),
    ("Does it hurt more than\nits random controls (p ≤ .05)?", "not shown: random cuts of\nthis size hurt as much"),
    ("Do all superset ablations\nhurt at least as much?", "not shown: lost information\ndoes not explain the drop"),
)
"""Questions in their order, and what follows from "no"."""
SHOWN = "shown: a clear and\nspecific effect of this ablation"
MODES = {"Individual L3": [2], "RFB L3 (from the first layer)": [0, 1, 2], "RFE L3 (from the last layer)": [2, 3, 4]}
DARK, GREY, RED, BLUE, GREEN = "#333333", "#dddddd", "#d55e00", "#0072b2", "#009e73"


def numbered(run: str) -> Figure:
    """Return the main figure of a run with the numbers of the guide's notes."""
    figure = StudyResult.load(run).figures()["answers"]
    (ax,) = figure.axes
    rows = {label.get_text(): y for label, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True)}
    for number, (row, x, offset) in NOTES.items():
        ax.annotate(
            str(number),
            (x, rows[row]),
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            color="white",
            fontsize=7,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": DARK, "edgecolor": "none"},
            arrowprops={"arrowstyle": "-", "color": DARK, "lw": 1, "shrinkB": 5},
            zorder=10,
        )
    return figure


def box(ax: Axes, x: float, y: float, text: str, color: str, width: float) -> None:
    """Draw a box with text."""
    shape = FancyBboxPatch((x, y - 0.36), width, 0.72, boxstyle="round,pad=0.02", fc="white", ec=color, lw=1.4)
    ax.add_patch(shape)
    ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=8.5, color=DARK)


def verdicts() -> Figure:
    """Return the questions that lead to a verdict, from top to bottom."""
    figure, ax = plt.subplots(figsize=(6.2, 4.6))
    arrow = {"arrowstyle": "->", "color": DARK}
    for i, (question, otherwise) in enumerate(QUESTIONS):
        y = -1.15 * i
        box(ax, 0, y, question, BLUE, 2.5)
        box(ax, 3.3, y, otherwise, RED, 2.5)
        ax.annotate("no", (3.26, y), (2.56, y), fontsize=8.5, va="center", arrowprops=arrow)
        ax.annotate("", (1.25, y - 0.77), (1.25, y - 0.39), arrowprops=arrow)
        ax.text(1.33, y - 0.58, "yes", fontsize=8.5, va="center")
    box(ax, 0, -1.15 * len(QUESTIONS), SHOWN, GREEN, 2.5)
    ax.set(xlim=(-0.1, 5.95), ylim=(-1.15 * len(QUESTIONS) - 0.5, 0.5))
    ax.set_axis_off()
    figure.tight_layout(pad=0.2)
    return figure


def modes() -> Figure:
    """Return which layers the row L3 of a layer sweep cuts, for each mode."""
    figure, axes = plt.subplots(1, 3, figsize=(6.2, 2.1), sharey=True)
    for ax, (title, cut) in zip(axes, MODES.items(), strict=True):
        for layer in range(5):
            ax.barh(layer, 1, height=0.8, color=RED if layer in cut else GREY)
            ax.text(0.5, layer, "cut" if layer in cut else "intact", ha="center", va="center", fontsize=8.5)
        ax.set_title(title, fontsize=8.5)
        ax.set(xticks=[], yticks=range(5), yticklabels=[f"L{layer + 1}" for layer in range(5)])
        ax.tick_params(length=0, labelsize=8.5)
        for side in ax.spines.values():
            side.set_visible(False)
    figure.tight_layout(pad=0.3)
    return figure


def main(run: str) -> None:
    """Write the three drawings."""
    drawings = {"report-answers": numbered(run), "report-verdicts": verdicts(), "report-modes": modes()}
    for name, figure in drawings.items():
        figure.savefig(DOCS / f"{name}.png", dpi=150, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main(sys.argv[1])
