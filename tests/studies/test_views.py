"""The views of factors and heads: tables checked by hand, and figures that are drawn without a warning."""

import warnings

import numpy as np
import pandas as pd
import pytest
from layer_sweep_table import paper_scores, with_extras
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic import by_factors, cell_of, findings_of, head_scores, tidy

from emg_lens.data.leakage import SHARED, Leakage
from emg_lens.plotting.saving import to_svg
from emg_lens.registry import UnknownNameError
from emg_lens.studies.report.view import VIEWS, views_of
from emg_lens.studies.report.views.curve import curve_points, figure_curve, layout_curve
from emg_lens.studies.report.views.grid import figure_grid, layout_grid, layout_levels
from emg_lens.studies.report.views.layer_sweep import layout_layer_sweep
from emg_lens.studies.report.views.ranking import figure_heads, layout_ranking
from emg_lens.studies.results.findings import Findings
from emg_lens.studies.statistics.intervals import mean_interval

SENSORS = {"both": {}, "emg": {}}
SIZES = {"16": {}, "64": {}, "256": {}}


def drawn(figure: Figure) -> Figure:
    """The figure, rendered; a warning (a glyph that no font has, axes too small for their labels) fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_svg(figure).rstrip().endswith(b"</svg>")
    return figure


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts of a figure that cover each other."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent().padded(-1)) for t in texts]
    return [(a, b) for i, (a, box) in enumerate(boxes) for b, other in boxes[i + 1 :] if box.overlaps(other)]


def names(findings: Findings) -> list[str]:
    return [view.name for view in views_of(findings)]


# --- which views a study gets -----------------------------------------------------------------------------


def test_by_default_a_study_gets_the_views_that_its_tags_and_factors_allow():
    assert names(findings_of(paper_scores(3))) == ["answers", "layer-sweep", "training"]
    assert names(findings_of(with_extras(paper_scores(3), joint=0.5))) == [
        "answers",
        "layer-sweep",
        "single",
        "training",
    ]
    assert names(findings_of(head_scores())) == ["answers", "ranking", "training"]
    assert names(findings_of(tidy(baseline=[0.9], cut=[0.5]))) == ["answers", "single", "training"]
    two = by_factors({(level,): [0.9, 0.8] for level in SENSORS}, ["sensors"])
    assert names(findings_of(two, factors={"sensors": SENSORS})) == ["answers", "grid", "training"]
    three = by_factors({(level,): [0.9, 0.8] for level in SIZES}, ["d"])
    assert names(findings_of(three, factors={"d": SIZES})) == ["answers", "grid", "curve", "training"]
    seeds = by_factors({(seed,): [0.9, 0.8] for seed in ("0", "1", "2")}, ["seed"])
    assert names(findings_of(seeds, factors={"seed": 3})) == ["answers", "training"], "seeds are averaged, not compared"


def test_a_study_that_asks_for_table_3_gets_nothing_else_but_the_answers():
    findings = findings_of(with_extras(paper_scores(3), joint=0.5), views=["layer-sweep"])
    assert names(findings) == ["answers", "layer-sweep"]
    _, view = views_of(findings)
    assert next(iter(view.tables(findings))) == "Layer by layer"
    assert list(view.figures(findings)) == ["layers", "profile"]


def test_an_unknown_view_is_an_error_of_one_line_that_lists_the_known():
    findings = findings_of(paper_scores(3), views=["layer-swep"])
    with pytest.raises(
        UnknownNameError, match="unknown view 'layer-swep'; did you mean 'layer-sweep'\\? known: "
    ) as error:
        views_of(findings)
    assert "\n" not in str(error.value)


def test_every_shipped_view_is_registered_under_its_own_name():
    assert {"curve", "grid", "ranking", "single", "layer-sweep", "training"} <= set(VIEWS.names())
    assert all(VIEWS[name].name == name for name in VIEWS.names())


def test_level_named_factors_that_are_no_numbers_make_no_curve():
    for levels in (["1", "2", "x"], ["nan", "1", "2"], ["inf", "1", "2"], ["1", "2"]):
        scores = by_factors({(level,): [0.9, 0.8] for level in levels}, ["d"])
        assert "curve" not in names(findings_of(scores, factors={"d": {level: {} for level in levels}}))


# --- heads ------------------------------------------------------------------------------------------------


def test_heads_are_ranked_by_the_drop():
    table = layout_ranking(cell_of(head_scores(n_layers=2, n_heads=3)))
    # Drops: .01 (1 + layer) (1 + head); L1H0 has none. The two drops of .02 are in the order of their layers.
    assert list(table["Head"]) == ["L2H2", "L2H1", "L1H2", "L1H1", "L2H0", "L1H0"]
    assert list(table["Rank"]) == [str(k) for k in range(1, 7)]
    assert list(table["Acc."]) == ["0.815", "0.835", "0.845", "0.855", "0.855", "0.875"]
    assert list(table["Change, pp"])[:2] == ["−6.0", "−4.0"]
    assert table.attrs["notes"][-1] == "No CI where all subjects have the same value."
    assert list(table["Drop %"])[0] == f"{100 * 0.06 / 0.875:.1f}"
    assert list(table["Subjects changed"]) == ["6 of 6"] * 5 + ["0 of 6"]
    assert table["Sig."].iloc[-1] == "ns†"
    assert "head 6" in "\n".join(table.attrs["notes"]) and "† Structural null" in "\n".join(table.attrs["notes"])


def test_an_error_metric_ranks_the_largest_increase_first():
    scores = head_scores(2, 3).assign(mae=lambda s: 10 * (1 - s["accuracy"]))
    table = layout_ranking(cell_of(scores, metric="mae"))
    assert list(table["Head"])[0] == "L2H2" and list(table["Head"])[-1] == "L1H0"
    assert list(table["MAE"])[0] == "1.850"


def test_heads_leave_table_3_and_the_single_conditions_alone():
    """Issue 10: heads went through `compare` without their tag, and the table was empty."""
    scores = pd.concat([with_extras(paper_scores(6), joint=0.5), head_scores(5, 2).query("condition != 'baseline'")])
    scores = scores[scores["subject"].isin(["s1", "s2", "s3", "s4", "s5"])]
    findings = findings_of(scores)
    assert names(findings) == ["answers", "layer-sweep", "single", "ranking", "training"]
    (cell,) = findings.cells
    assert len(layout_ranking(cell)) == 10 and len(layout_layer_sweep(cell)) == 11
    (single,) = VIEWS["single"].tables(findings).values()
    assert list(single["Condition"]) == ["joint", "Baseline"]


def test_the_map_of_heads_shows_every_change_at_its_place():
    figure = drawn(figure_heads(cell_of(head_scores(2, 3, kinds=("unimodal", "own")))))
    one, two, bar = figure.axes
    assert [one.get_title("left"), two.get_title("left")] == ["unimodal edges cut", "own cut"]
    shown = np.asarray(one.images[0].get_array())
    assert shown == pytest.approx(np.array([[0, -2, -3], [-2, -4, -6]]))
    assert np.asarray(two.images[0].get_array())[1, 2] == pytest.approx(-12)
    assert one.images[0].get_clim() == two.images[0].get_clim() == pytest.approx((-12, 12))
    assert [t.get_text() for t in one.get_yticklabels()] == ["L1", "L2"]
    assert [t.get_text() for t in one.get_xticklabels()] == ["H0", "H1", "H2"]
    assert [(t.get_text(), t.get_position()) for t in one.texts] == [("†", (0, 0))]
    assert bar.get_ylabel() == "Change in accuracy (pp)\n† structural null"
    assert not overlaps(figure)


def test_what_is_worse_is_orange_for_errors_too():
    scores = head_scores(2, 3).assign(mae=lambda s: 1 - s["accuracy"])
    maps = [figure_heads(cell_of(scores, metric=metric)).axes[0].images[0] for metric in ("accuracy", "mae")]
    worst = [image.to_rgba(image.get_array())[1, 2] for image in maps]
    assert worst[0] == pytest.approx(worst[1]) and worst[0][0] > worst[0][2]


# --- factor by factor -------------------------------------------------------------------------------------


def grid_findings(**parts) -> Findings:
    values = {
        ("both", "16"): [0.8, 0.9],
        ("both", "64"): [0.9, 1.0],
        ("emg", "16"): [0.5, 0.7],
        ("emg", "64"): [0.6, 0.6],
    }
    factors = {"sensors": SENSORS, "d": {"16": {}, "64": {}}}
    return findings_of(by_factors(values, ["sensors", "d"]), factors=factors, **parts)


def test_the_first_factor_runs_down_the_others_across():
    table = layout_grid(grid_findings())
    assert list(table.index) == ["both", "emg"] and table.index.name == "sensors"
    assert list(table.columns) == ["16", "64"]
    assert table.to_numpy().tolist() == [["0.850 ± 0.071", "0.950 ± 0.071"], ["0.600 ± 0.141", "0.600 ± 0.000"]]
    assert "(n = 2)." in table.attrs["notes"][0] and "5,921,041" in table.attrs["notes"][1]


def test_one_factor_makes_one_column_named_by_the_metric_and_seeds_are_averaged():
    values = {("both", "0"): [0.7, 0.9], ("both", "1"): [0.9, 0.9], ("emg", "0"): [0.5, 0.5], ("emg", "1"): [0.3, 0.7]}
    scores = by_factors(values, ["sensors", "seed"])
    table = layout_grid(findings_of(scores, factors={"sensors": SENSORS, "seed": 2}))
    # Subjects: both .8 and .9; emg .4 and .6.
    assert table["Accuracy"].to_list() == ["0.850 ± 0.071", "0.500 ± 0.141"]
    assert "(n = 2); each subject is the mean over 2 seeds." in table.attrs["notes"][0]


def test_published_numbers_are_shown_next_to_their_levels():
    rows = [
        {"at": {"sensors": "both", "d": "16"}, "value": 0.8},
        {"at": {"sensors": "emg", "d": "64"}, "value": 0.61, "condition": "zeroed"},
    ]
    table = layout_grid(grid_findings(reference={"source": "Somebody 2025", "rows": rows}))
    assert list(table.columns) == ["16", "16: Paper", "64"] and table["16: Paper"].to_list() == ["0.800", "–"]
    other = {"source": "Somebody 2025", "metric": "macro_f1", "rows": rows}
    assert list(layout_grid(grid_findings(reference=other)).columns) == ["16", "64"]


def test_one_subject_has_no_standard_deviation():
    scores = by_factors({(level,): [0.5] for level in SENSORS}, ["sensors"])
    assert layout_grid(findings_of(scores, factors={"sensors": SENSORS}))["Accuracy"].to_list() == ["0.500"] * 2


def test_parameters_are_listed_by_level_if_they_differ():
    findings = grid_findings()
    findings.facts["n_parameters"] = findings.facts["d"].map({"16": 1_600, "64": 6_400})
    note = layout_grid(findings).attrs["notes"][1]
    assert note == "Parameters per model: both, 16 1,600; both, 64 6,400; emg, 16 1,600; emg, 64 6,400."


def test_levels_are_compared_if_the_study_asks():
    statistics = {"test": "wilcoxon", "compare": [{"factor": "sensors", "to": "both"}]}
    findings = grid_findings(statistics=statistics)
    table = layout_levels(findings)
    assert table[["Other levels", "Level", "Reference"]].to_numpy().tolist() == [
        ["d: 16", "emg", "both"],
        ["d: 64", "emg", "both"],
    ]
    assert table["Mean"].to_list() == ["0.600", "0.600"] and table["Mean of the reference"].to_list() == [
        "0.850",
        "0.950",
    ]
    assert list(table["Difference, pp"]) == ["−25.0", "−35.0"], "no interval of two subjects"
    assert table.attrs["notes"][-1].startswith("No CI: an interval needs at least 5 subjects (n = 2)")
    assert "Wilcoxon signed-rank (paired), Bonferroni over 1 comparison per factor" in table.attrs["notes"][0]
    assert list(VIEWS["grid"].tables(findings)) == ["Accuracy by sensors × d", "Comparison of levels"]


def test_a_comparison_of_levels_warns_of_gestures_that_were_recorded_in_blocks():
    statistics = {"test": "wilcoxon", "compare": [{"factor": "sensors", "to": "both"}]}
    shared = dict.fromkeys(SHARED, 0)
    report = Leakage(1, 10, 18, shared, class_repeats=0.88, class_repeats_at_random=0.05).to_dict()
    entries = [report | {"fit": fit} for fit in grid_findings().facts["fit"]]
    notes = layout_levels(grid_findings(statistics=statistics, leakage=entries)).attrs["notes"]
    assert [note for note in notes if note.startswith("88% of consecutive repetitions")] == notes[-1:]


def test_the_grid_shows_every_subject_mean_and_deviation():
    figure = drawn(figure_grid(grid_findings()))
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["both", "emg"] and axes.get_xlabel() == "sensors"
    assert axes.get_ylabel() == "Accuracy"
    dots = [c.get_offsets() for c in axes.collections if len(c.get_offsets()) == 2]
    assert sorted(d[:, 1].mean() for d in dots) == pytest.approx([0.6, 0.6, 0.85, 0.95])
    assert [round(float(d[:, 0].mean())) for d in dots] == [0, 1, 0, 1]
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "d" and [t.get_text() for t in legend.get_texts()] == ["16", "64"]


@pytest.mark.parametrize("n_levels", [2, 5, 12])
@pytest.mark.parametrize("length", [4, 28])
def test_no_label_of_a_grid_covers_another(n_levels, length):
    levels = [f"level {'of many words ' * 3}"[:length] + f" {k}" for k in range(n_levels)]
    values = {(level, other): [0.5, 0.6, 0.7] for level in levels for other in ("isonet", "multimodal-mlp")}
    factors = {"sensors": {level: {} for level in levels}, "architecture": {"isonet": {}, "multimodal-mlp": {}}}
    scores = by_factors(values, ["sensors", "architecture"])
    figure = drawn(figure_grid(findings_of(scores, factors=factors)))
    # Labels that are turned have upright boxes that meet though the letters do not.
    turned = any(t.get_rotation() for t in figure.axes[0].get_xticklabels())
    assert turned or not overlaps(figure)


# --- along an ordered factor ------------------------------------------------------------------------------


def test_a_curve_has_the_mean_and_its_interval_at_each_level_in_order():
    least, most = [0.5, 0.4, 0.7, 0.6, 0.5], [1.0, 0.9, 1.0, 0.95, 1.0]
    values = {("256",): most, ("16",): least, ("64",): [0.7] * 5}
    levels = {level: {} for (level,) in values}
    findings = findings_of(by_factors(values, ["d"]), factors={"d": levels})
    points = curve_points(findings, "d")
    assert list(points["level"]) == [16, 64, 256]
    assert points["mean"].to_numpy() == pytest.approx([np.mean(least), 0.7, np.mean(most)])
    assert points.iloc[0][["ci_low", "ci_high"]].to_list() == pytest.approx(mean_interval(np.array(least)))
    assert points.iloc[1][["ci_low", "ci_high"]].isna().all()
    assert mean_interval(np.array(most))[1] > 1 == points["ci_high"].max(), "no fraction of trials is above 1"
    table = layout_curve(findings, "d")
    assert list(table.columns) == ["d", "Accuracy", "95 % CI"]
    assert table["d"].to_list() == ["16", "64", "256"]
    assert table.iloc[1].to_list() == ["64", "0.700", "–"]
    assert table.attrs["notes"] == [
        "CI: Student t confidence interval of the mean over subjects. No CI where all subjects have the same value."
    ]


def test_a_curve_is_drawn_for_each_combination_of_the_other_factors():
    values = {(a, d): [0.5 + 0.1 * k, 0.6] for a in ("mlp", "isonet") for k, d in enumerate(SIZES)}
    factors = {"architecture": {"mlp": {}, "isonet": {}}, "d": SIZES}
    findings = findings_of(by_factors(values, ["architecture", "d"]), factors=factors)
    assert list(VIEWS["curve"].figures(findings)) == ["curve d"]
    figure = drawn(figure_curve(findings, "d"))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["mlp", "isonet"], "in the study's order"
    assert list(axes.lines[0].get_xdata()) == [16, 64, 256]
    assert axes.lines[0].get_ydata() == pytest.approx([0.55, 0.6, 0.65])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["16", "64", "256"]
    assert axes.get_xlabel() == "d" and figure.legends[0].get_title().get_text() == "architecture"
    assert list(layout_curve(findings, "d")["Levels"]) == ["mlp"] * 3 + ["isonet"] * 3
    assert not overlaps(figure)


@pytest.mark.parametrize("levels", [["1", "2", "4", "8", "16", "32", "64"], ["4", "8", "12", "16"], ["0", "0.5", "1"]])
def test_no_label_of_a_curve_covers_another(levels):
    scores = by_factors({(level,): [0.5, 0.6, 0.7] for level in levels}, ["channels"])
    figure = drawn(figure_curve(findings_of(scores, factors={"channels": {level: {} for level in levels}}), "channels"))
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == levels
    assert not overlaps(figure)


# --- cells ------------------------------------------------------------------------------------------------


def test_every_level_has_a_table_and_figures_of_its_own():
    scores = pd.concat([paper_scores(4, seed=k).assign(sensors=level) for k, level in enumerate(SENSORS)])
    findings = findings_of(scores, factors={"sensors": SENSORS})
    assert [cell.label for cell in findings.cells] == ["sensors: both", "sensors: emg"]
    tables = VIEWS["layer-sweep"].tables(findings)
    for level in SENSORS:
        table = tables[f"Layer by layer · sensors: {level}"]
        alone = layout_layer_sweep(cell_of(scores[scores["sensors"] == level]))
        pd.testing.assert_frame_equal(table, alone)
    assert list(VIEWS["layer-sweep"].figures(findings))[0] == "layers · sensors: both"


def test_a_strangers_tag_reaches_the_cells_that_its_view_reads():
    scores = tidy(baseline=[0.9, 0.8], a=[0.5, 0.4], b=[0.6, 0.6])
    scores["colour"] = scores["condition"].map({"a": "red", "b": "blue"})
    findings = findings_of(scores, tags=("colour",))
    assert findings.cells[0].tests.set_index("condition")["colour"].to_dict() == {"a": "red", "b": "blue"}
    (table,) = VIEWS["single"].tables(findings).values()
    assert list(table["Condition"]) == ["a", "b", "Baseline"], "what no view knows stands among single conditions"
