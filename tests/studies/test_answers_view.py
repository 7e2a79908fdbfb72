"""The main figure of a report and its table of verdicts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import by_factors, cell_of, findings_of, head_scores, tidy
from test_answers import removals_of
from test_controls import made_up
from test_verdicts import findings_with

from emg_lens.plotting.saving import to_svg
from emg_lens.plotting.style import CATEGORIES, CROSS_MODAL, OTHER_ABLATION, REMOVED, UNIMODAL, edge_colours
from emg_lens.studies.report.ablation_colours import ablation_colour
from emg_lens.studies.report.table_formats import divided
from emg_lens.studies.report.view import VIEWS
from emg_lens.studies.report.views.answers import MOST_CELLS, figure_answers, figure_models, layout_verdicts
from emg_lens.studies.results.verdicts import Verdict, verdicts_of

CLEAR = tuple((0.94, 0.95, 0.96, 0.95, 0.94 + 0.001 * k) for k in range(20))


def judged(cell) -> tuple:
    return verdicts_of(findings_with(cell))[0]


def without_superset(**parts):
    return replace(made_up(**parts), analyses={})


def lines(axes, marker: str) -> list:
    return [line for line in axes.lines if line.get_marker() == marker and len(line.get_xdata())]


def test_every_ablation_is_a_row_with_interval_controls_and_closed_path():
    cell, verdicts = judged(without_superset(random=CLEAR))
    figure = figure_answers([(cell, verdicts)])
    (axes,) = figure.axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["Which attention edges matter?", "all cross edges cut", "Other ablations", "“both”"]
    assert [tick.get_fontweight() for tick in axes.get_yticklabels()] == ["bold", "normal"] * 2
    cross, both = (one for one in verdicts)
    assert cross.verdict == "shown" and both.verdict == "no control"
    circles, *effects = [*lines(axes, "o"), *lines(axes, "s")]
    assert list(circles.get_xdata()) == pytest.approx([100 * (0.95 - np.mean(values)) for values in CLEAR])
    assert [float(line.get_xdata()[0]) for line in effects] == pytest.approx([cross.drop, both.drop])
    filled = [line.get_markerfacecolor() != "white" for line in effects]
    assert filled == [True, False], "filled: shown"
    assert len(lines(axes, "s")) == 1, "a square: no control"
    (cross_mark,) = lines(axes, "x")
    assert cross_mark.get_xdata()[0] == pytest.approx(65)
    (interval, *_) = [segment for part in axes.collections for segment in part.get_segments()]
    assert list(interval[:, 0]) == pytest.approx(cross.interval)
    assert axes.get_xlabel() == "Drop in accuracy (pp)"


def test_the_legend_names_only_what_is_drawn():
    def named(cell) -> list[str]:
        return [text.get_text() for text in figure_answers([judged(cell)]).legends[0].get_texts()]

    assert named(without_superset(random=CLEAR)) == [
        "random control",
        "effect shown",
        "path through CLS closed too",
        "no control",
    ]
    assert named(cell_of(tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]))) == ["no interval"]


def test_chance_is_named_in_the_figure_and_drawn_where_it_is_in_sight():
    scores = tidy(baseline=[0.9, 0.92, 0.91, 0.9, 0.92], cut=[0.1, 0.12, 0.11, 0.1, 0.12])
    axes = figure_answers([judged(cell_of(scores, chance=0.125))]).axes[0]
    assert "accuracy 0.910, chance 0.125" in axes.get_title("right")
    assert 78.5 in [round(float(np.ravel(line.get_xdata())[0]), 6) for line in axes.lines if len(line.get_xdata())]
    near = figure_answers([judged(cell_of(scores.replace(0.1, 0.9).replace(0.12, 0.9), chance=0.125))])
    assert "chance" not in [text.get_text() for text in near.legends[0].get_texts()]


def test_of_many_heads_the_figure_shows_the_largest_drops():
    (axes,) = figure_answers([judged(cell_of(head_scores(4, 8)))]).axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert len(labels) == 1 + 6 and labels[1] == "edges of head H7 in L4 cut"


def test_several_cells_are_panels_of_one_scale():
    cell, verdicts = judged(without_superset(random=CLEAR))
    figure = figure_answers([(replace(cell, levels={"d": str(k)}), verdicts) for k in range(MOST_CELLS + 2)])
    assert len(figure.axes) == MOST_CELLS and len({axes.get_xlim() for axes in figure.axes}) == 1
    assert [axes.get_title("right").split("\n")[0] for axes in figure.axes] == [f"d: {k}" for k in range(MOST_CELLS)]


def test_an_error_that_rises_is_right_of_zero():
    scores = tidy("mae", baseline=[1.0, 1.1, 0.9, 1.0, 1.2], cut=[2.0, 2.2, 1.9, 2.1, 2.3])
    (axes,) = figure_answers([judged(cell_of(scores, metric="mae"))]).axes
    (effect,) = lines(axes, "s")
    assert effect.get_xdata()[0] > 0 and axes.get_xlabel() == "Increase in MAE"


def test_without_ablations_the_main_figure_has_the_models_their_reference_and_chance():
    scores = by_factors({("both",): [0.9, 0.8, 0.85], ("emg",): [0.7, 0.75, 0.6]}, ["sensors"])
    scores = scores.assign(train=1.0, reference=0.95, accuracy_chance=0.25)
    findings = findings_of(scores, factors={"sensors": {"both": {}, "emg": {}}})
    (figure,) = VIEWS["answers"].figures(findings).values()
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["both", "emg"]
    assert [line.get_xdata()[0] for line in lines(axes, "D")] == pytest.approx([0.95, 0.95])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a subject", "mean with interval", "simple reference", "chance"]
    to_svg(figure_models(findings_of(tidy(baseline=[0.9]))))


def test_the_table_has_one_row_an_ablation_and_explains_the_words_that_it_uses():
    cell, verdicts = judged(without_superset(random=CLEAR))
    table = layout_verdicts(cell, verdicts)
    assert table["Verdict"].to_list() == ["shown", "no control"]
    assert table.iloc[0].to_list()[2:5] == ["5 of 5", "20 of 20", ".048"]
    (note,) = table.attrs["notes"]
    assert note == (
        "Shown: four checks hold, in this order. (1) The interval excludes zero. (2) There are at least 19 random"
        " controls. (3) p ≤ .05. (4) No superset ablation hurts clearly less, or less by 10 % of the drop or more on"
        " average. No control: check 2 fails, so it is open whether the effect is specific. p is from the random"
        " controls. Stars and ns in other tables are from tests over subjects."
    )
    many = layout_verdicts(cell, [replace(one, n_screened=2, verdict="not shown") for one in verdicts])
    assert "Not shown: check 1, 3 or 4 fails (the report names it). p is from" in many.attrs["notes"][0]
    assert "controls, corrected for all 2 ablations with random controls. Stars" in many.attrs["notes"][0]
    assert layout_verdicts(cell, []) is None


def test_a_short_table_keeps_what_the_answers_name():
    cell, verdicts = judged(removals_of({f"S{k}": 0.1 + k / 100 for k in range(20)}))
    low = [replace(one, verdict="shown" if k < 2 else "not shown", reason="") for k, one in enumerate(verdicts)]
    shown, others = divided(layout_verdicts(cell, low), 12)
    assert shown["Ablation"].to_list() == [*(f"S{k} removed" for k in range(19, 9, -1)), "S1 removed", "S0 removed"]
    assert len(others) == 8


def test_a_colour_has_one_meaning():
    named = edge_colours(["cross_modal", "own", "unimodal", "another"])
    assert named["unimodal"] == UNIMODAL == ablation_colour({"edges": "unimodal", "mode": "from_end"})
    assert named["cross_modal"] == CROSS_MODAL and len(set(named.values())) == 4
    assert ablation_colour({"mode": "removal", "edges": "emg"}) == REMOVED
    assert ablation_colour({"condition": "own"}) == OTHER_ABLATION
    assert not set(CATEGORIES) & {*named.values(), REMOVED}


def test_verdicts_are_drawn_as_they_are(monkeypatch):
    """The view does not judge: what it fills is what the verdict says."""
    cell, verdicts = judged(without_superset(random=CLEAR))
    hidden = [replace(one, verdict="not shown", reason="zero") for one in verdicts]
    assert all(isinstance(one, Verdict) for one in hidden)
    axes = figure_answers([(cell, hidden)]).axes[0]
    assert {line.get_markerfacecolor() for line in lines(axes, "o")[1:]} == {"white"}


@pytest.mark.parametrize("n", [1, 7])
def test_any_number_of_subjects_is_drawn(n):
    values = np.linspace(0.5, 0.9, n).tolist()
    figure = figure_answers([judged(cell_of(pd.concat([tidy(baseline=values, cut=values)])))])
    to_svg(figure)
