"""Pictures: what each shows is what it got, checked against numpy, pandas and scikit-learn."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from emg_lens import TokenLayout, cross_modal, flow, unimodal
from emg_lens.plotting import (
    modality_colours,
    plot_bars,
    plot_boxes,
    plot_circuit,
    plot_circuit_rings,
    plot_confusion,
    plot_curves,
    plot_edges,
    plot_flow,
    plot_heads,
    plot_layer_sweep,
    plot_patching,
    plot_token_map,
)
from emg_lens.plotting.edge_maps import CUT, DEAD, KEPT, SOME
from emg_lens.validation import ArgumentError

LAYOUT = TokenLayout.channels({"emg": 8, "acc": 3})
N = len(LAYOUT)
RNG = np.random.default_rng(0)
HEADS = RNG.normal(size=(3, 4))
FLOW = pd.DataFrame(
    [(la, d, s, float(RNG.normal())) for la in (0, 1) for d in ("cls", "emg") for s in ("emg", "acc")],
    columns=["layer", "dest", "src", "score"],
)
EDGES = pd.DataFrame(
    {"layer": [0, 1], "dest": ["emg.1", "cls"], "src": ["acc.0", "emg.1"], "head": [0, 2], "score": [1, 2]}
)
HEAD_ROWS = pd.DataFrame({"layer": [0, 1], "head": [0, 0], "difference": [0.5, 1.0]})
CURVE = pd.DataFrame({"n": [4, 8, 16, 4, 8, 16], "y": [0.5, 0.6, 0.8, 0.4, 0.5, 0.6], "of": list("aaabbb")})


def sweep_scores() -> pd.DataFrame:
    rows = [(s, "baseline", None, None, np.nan, 0.9 - 0.01 * s) for s in range(6)]
    rows += [
        (s, f"{e}/{m}/L{la + 1}", e, m, la, 0.8 - 0.1 * float(RNG.random()))
        for s in range(6) for m in ("individual", "from_end") for la in range(3) for e in ("unimodal", "cross_modal")
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["subject", "condition", "edges", "mode", "layer", "accuracy"])


SCORES = sweep_scores()
ONE_PANEL = {
    "edges": lambda ax=None: plot_edges(cross_modal(), LAYOUT, ax=ax),
    "token map": lambda ax=None: plot_token_map(RNG.random((N, N)), LAYOUT, ax=ax),
    "heads": lambda ax=None: plot_heads(HEADS, ax=ax),
    "confusion": lambda ax=None: plot_confusion(RNG.integers(1, 9, (8, 8)), [f"gesture {i}" for i in range(8)], ax=ax),
    "patching": lambda ax=None: plot_patching(RNG.normal(size=(4, N)), LAYOUT, ax=ax),
    "curves": lambda ax=None: plot_curves(CURVE, "n", "y", by="of", ticks=True, ax=ax),
    "bars": lambda ax=None: plot_bars(FLOW.assign(edge="a→b"), reference=("unmasked", 0.5), ax=ax),
    "boxes": lambda ax=None: plot_boxes({"both sensors": [0.7, 0.8], "EMG": [0.5, 0.6]}, ax=ax),
    "circuit": lambda ax=None: plot_circuit(EDGES, LAYOUT, ax=ax),
}
PANELS = {
    "flow": (2, lambda axes=None: plot_flow(FLOW, axes=axes)),
    "layer sweep": (2, lambda axes=None: plot_layer_sweep(SCORES, chance=0.2, axes=axes)),
    "rings": (2, lambda axes=None: plot_circuit_rings(EDGES, LAYOUT, "emg", axes=axes)),
}


def shown(ax: Axes) -> np.ma.MaskedArray:
    return np.ma.asarray(ax.images[0].get_array())


def every_picture() -> dict[str, Figure]:
    pictures = {name: draw().figure for name, draw in ONE_PANEL.items()}
    return pictures | {name: draw()[0].figure for name, (_, draw) in PANELS.items()}


# --- axes in, axes out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_PANEL)
def test_a_picture_is_drawn_into_the_axes_that_it_gets(name):
    figure = Figure()
    other, ax = figure.subplots(1, 2)
    assert ONE_PANEL[name](ax) is ax
    assert ax.has_data() or ax.images
    assert not other.has_data() and not other.images and not other.texts


@pytest.mark.parametrize("name", PANELS)
def test_panels_are_drawn_into_the_axes_that_they_get(name):
    n, draw = PANELS[name]
    given = list(Figure().subplots(1, n))
    assert draw(given) == given
    with pytest.raises(ArgumentError, match=f"axes has 5 entries; expected {n} matplotlib Axes"):
        draw(list(Figure().subplots(1, 5)))


def test_settings_of_matplotlib_stay():
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20}):
        every_picture()
        assert matplotlib.rcParams["font.size"] == 20
    assert dict(matplotlib.rcParams) == before
    assert not __import__("matplotlib.pyplot").pyplot.get_fignums()


@pytest.mark.parametrize("name", [*ONE_PANEL, *PANELS])
def test_names_do_not_overlap(name):
    figure = every_picture()[name]
    figure.draw_without_rendering()
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [one.get_window_extent() for one in labels if one.get_text() and one.get_visible()]
            size = [one.get_fontsize() for one in labels if one.get_text()]
            assert not size or min(size) >= 5
            along = "x0" if labels and labels[0] in ax.get_xticklabels() else "y0"
            boxes.sort(key=lambda box, along=along: getattr(box, along))
            ends = {"x0": "x1", "y0": "y1"}[along]
            pairs = zip(boxes, boxes[1:], strict=False)
            assert all(getattr(a, ends) <= getattr(b, along) + 1 for a, b in pairs), (name, along)


# --- edges ------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(arrays(bool, (2, 2, N, N)), arrays(bool, (2, 2, N, N)))
def test_a_mask_map_shows_every_edge(mask, live):
    kinds = np.asarray(shown(plot_edges(mask, LAYOUT, live=live)))
    names = [KEPT, SOME, CUT, DEAD]
    for dest, src in np.ndindex(N, N):
        cut, alive = mask[:, :, dest, src], (mask & live)[:, :, dest, src]
        expected = KEPT if not cut.any() else DEAD if not alive.any() else CUT if cut.all() else SOME
        assert names[kinds[dest, src]] == expected


def test_an_edge_set_and_its_mask_give_the_same_map():
    edges = unimodal().at(layers=1) | flow("acc", "emg").at(heads=0)
    mask = edges.mask(LAYOUT, 2, 3)
    for select in ({}, {"layer": 1}, {"layer": 0, "head": 2}):
        by_set = plot_edges(edges, LAYOUT, n_layers=2, n_heads=3, **select)
        np.testing.assert_array_equal(shown(by_set), shown(plot_edges(mask, LAYOUT, **select)))
    one = np.asarray(shown(plot_edges(mask, LAYOUT, layer=1, head=2)))
    np.testing.assert_array_equal(one == 2, mask[1, 2].numpy())


def test_modalities_have_borders_and_the_same_colour_everywhere():
    ax = plot_token_map(RNG.random((N, N)), LAYOUT)
    upright = [line for line in ax.lines if len(set(line.get_xdata())) == 1]
    strips = {line.get_color() for line in upright if line.get_linewidth() > 1}
    assert sorted(float(line.get_xdata()[0]) for line in upright if line.get_linewidth() < 1) == [0.5, 8.5]
    assert strips == set(modality_colours(["cls", "emg", "acc"]).values())
    assert modality_colours(["acc", "x", "emg"])["emg"] == modality_colours(["emg"])["emg"] == "#0072B2"
    assert modality_colours(["EMG"]) == {"EMG": "#0072B2"}
    many = modality_colours([f"sensor {i}" for i in range(7)])
    assert len(set(many.values())) == 7
    assert modality_colours(["sensor 3", "cls"])["sensor 3"] == modality_colours(["sensor 3", "emg"])["sensor 3"]


DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]


def lab(colour: str, vision: np.ndarray) -> np.ndarray:
    """CIELAB of a colour as it is seen; matrices of Machado et al. (2009)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(vision @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", [np.eye(3), np.array(DEUTERANOPIA), np.array(PROTANOPIA)])
def test_colours_of_modalities_are_distinguishable_with_common_types_of_colour_vision(vision):
    colours = [lab(c, vision) for c in modality_colours(["cls", "emg", "acc", "gyro", "force", "mag"]).values()]
    nearest = min(np.linalg.norm(a - b) for i, a in enumerate(colours) for b in colours[:i])
    assert nearest > 10  # 2 is just noticeable


# --- values -----------------------------------------------------------------------------------------------


def test_heads_from_a_table_and_from_an_array_are_the_same():
    table = pd.DataFrame(
        [(i, j, HEADS[i, j]) for i, j in np.ndindex(HEADS.shape)], columns=["layer", "head", "difference"]
    )
    by_table, by_tensor = plot_heads(table.sample(frac=1, random_state=1)), plot_heads(torch.from_numpy(HEADS))
    np.testing.assert_allclose(shown(by_table), HEADS)
    np.testing.assert_allclose(shown(by_tensor), HEADS)
    low, high = by_table.images[0].get_clim()
    assert -low == high == pytest.approx(np.abs(HEADS).max())
    missing = plot_heads(table.iloc[1:])
    assert shown(missing).mask[0, 0] and shown(missing).mask.sum() == 1
    reds = [plot_heads(HEADS, low_is_good=good).images[0].to_rgba(np.array([-3.0]))[0][:3] for good in (True, False)]
    assert reds[0][2] > reds[0][0] and reds[1][0] > reds[1][2]  # violet, orange


def test_heads_without_a_row_are_grey_up_to_the_last_layer_and_head():
    table = pd.DataFrame({"layer": [1, 3], "head": [2.0, 0.0], "difference": [1.0, -2.0]})
    ax = plot_heads(table)
    expected = np.full((4, 3), np.nan)
    expected[1, 2], expected[3, 0] = 1, -2
    np.testing.assert_array_equal(shown(ax).filled(np.nan), expected)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["L1", "L2", "L3", "L4"]
    np.testing.assert_array_equal(shown(plot_heads(HEADS.tolist())), HEADS)


@pytest.mark.parametrize(("label", "expected"), [("", "grey: no value"), ("drop", "drop\ngrey: no value")])
def test_the_colour_bar_says_what_grey_cells_mean(label, expected):
    masked = np.ma.masked_invalid([[1.0, np.nan], [0.5, -1.0]])
    for draw in (
        lambda values: plot_heads(values, label=label),
        lambda values: plot_patching(values, ["H0", "H1"], label=label),
    ):
        assert draw(masked).figure.axes[-1].get_ylabel() == expected
        assert draw(masked.filled(0)).figure.axes[-1].get_ylabel() == label


@pytest.mark.parametrize("n", [8, 12, 16, 32])
def test_names_of_many_heads_do_not_overlap(n):
    ax = plot_heads(RNG.normal(size=(3, n)), label="Change in accuracy")
    ax.figure.draw_without_rendering()
    names = [one for one in ax.get_xticklabels() if one.get_text()]
    boxes = [one.get_window_extent() for one in names]
    assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
    assert [(one.get_position()[0], one.get_text()) for one in names][1:2] == [(-(-n // 10), f"H{-(-n // 10)}")]


def test_a_flow_sums_the_rows_of_a_cell_and_keeps_the_order_of_the_layout():
    doubled = pd.concat([FLOW, FLOW])
    panels = plot_flow(doubled, layout=LAYOUT)
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["cls", "emg", "acc"]
    for layer, panel in enumerate(panels):
        for _, row in FLOW[FLOW["layer"] == layer].iterrows():
            at = ["cls", "emg", "acc"].index(row["dest"]), ["cls", "emg", "acc"].index(row["src"])
            assert shown(panel)[at] == pytest.approx(2 * row["score"])
        assert shown(panel).mask.sum() == 9 - 4
    assert len(plot_flow(FLOW, layer=1)) == 1


@pytest.mark.parametrize(
    ("factor", "power", "times"),
    [(1e-5, -5, " (×10⁻⁵)"), (2e-3, -3, " (×10⁻³)"), (0.02, 0, ""), (7000.0, 0, ""), (3e12, 12, " (×10¹²)")],
)
def test_very_small_and_large_numbers_of_a_flow_have_a_power_of_ten(factor, power, times):
    largest = FLOW["score"].abs().max()
    table = FLOW.assign(score=FLOW["score"] / largest * factor)
    panels = plot_flow(table, label="drop")
    given = list(Figure().subplots(1, 3))[:2]
    bar = panels[0].figure.axes[-1]
    assert bar.get_ylabel() == f"drop{times}\ngrey: no value"
    assert [panel.get_title("left") for panel in plot_flow(table, axes=given)] == [f"L1{times}", f"L2{times}"]
    numbers = [[float(one.get_text().replace("−", "-")) for one in panel.texts] for panel in panels]
    values = [list(shown(panel).compressed()) for panel in panels]
    for printed, drawn in zip(numbers, values, strict=True):
        np.testing.assert_allclose(np.array(printed) * 10.0**power, drawn, atol=0.06 * factor)
    assert max(len(one.get_text()) for panel in panels for one in panel.texts) <= 6
    panels[0].figure.draw_without_rendering()
    if power:
        ticks = [float(one.get_text().replace("−", "-")) for one in bar.get_yticklabels()]
        np.testing.assert_allclose(np.array(ticks) * 10.0**power, bar.get_yticks())


def test_a_confusion_matrix_is_that_of_scikit_learn():
    performed, predicted = RNG.integers(0, 5, 200), RNG.integers(0, 5, 200)
    ax = plot_confusion(confusion_matrix(performed, predicted))
    np.testing.assert_allclose(shown(ax), confusion_matrix(performed, predicted, normalize="true"))
    frame = pd.DataFrame([[3, 1], [0, 0]], ["a", "b"], ["a", "b"])
    ax = plot_confusion(frame)
    assert [one.get_text() for one in ax.texts] == ["75", "25"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b"]


def test_rows_and_columns_of_a_confusion_matrix_are_aligned_by_their_names():
    performed, predicted = np.array(list("aabbcc")), np.array(list("abbbba"))  # c is never predicted
    expected = confusion_matrix(performed, predicted, labels=list("abc"), normalize="true")
    table = pd.crosstab(performed, predicted)
    for own in (table, table[["b", "a"]].iloc[::-1]):
        ax = plot_confusion(own)
        order = ["abc".index(tick.get_text()) for tick in ax.get_xticklabels()]
        assert sorted(order) == [0, 1, 2]
        np.testing.assert_allclose(shown(ax), expected[np.ix_(order, order)])
    assert [tick.get_text() for tick in plot_confusion(table).get_yticklabels()] == list("abc")
    never = plot_confusion(pd.crosstab(predicted, performed))  # c is never performed
    np.testing.assert_allclose(
        shown(never), confusion_matrix(predicted, performed, labels=list("abc"), normalize="true")
    )
    named = plot_confusion(table, list("cabd"))
    np.testing.assert_allclose(shown(named)[:3, :3], expected[np.ix_([2, 0, 1], [2, 0, 1])])
    assert not shown(named)[3].any() and not shown(named)[:, 3].any()
    renamed = plot_confusion(table, ["fist", "open", "rest"])
    np.testing.assert_allclose(shown(renamed), expected)
    for axis in ("columns", "index"):
        unnamed = plot_confusion(pd.DataFrame([[3, 1], [0, 2]], **{axis: ["x", "y"]}))
        np.testing.assert_allclose(shown(unnamed), [[0.75, 0.25], [0, 1]])
        assert [tick.get_text() for tick in unnamed.get_xticklabels()] == ["x", "y"]
    numbered = plot_confusion(pd.crosstab(np.array([0, 0, 1]), np.array([0, 2, 2])))
    np.testing.assert_allclose(shown(numbered), [[0.5, 0, 0.5], [0, 0, 1], [0, 0, 0]])


def test_boxes_of_a_sweep_have_the_medians_of_the_subjects():
    panels = plot_layer_sweep(SCORES, chance=0.2)
    assert [panel.get_title("left") for panel in panels] == ["(a) Single layers", "(b) From the last layer back (RFE)"]
    for panel, mode in zip(panels, ("individual", "from_end"), strict=True):
        medians = SCORES[SCORES["mode"] == mode].groupby("condition")["accuracy"].median()
        drawn = {float(np.median(c.get_offsets()[:, 1])) for c in panel.collections}
        assert sorted(drawn) == pytest.approx(sorted([*medians, SCORES["accuracy"][:6].median()]))
    marked = SCORES.assign(stars="**", structural_null=SCORES["layer"] == 2)
    marks = [text.get_text() for text in plot_layer_sweep(marked)[0].texts]
    assert sorted(marks) == ["**"] * 4 + ["**†"] * 2


def test_the_mark_of_a_box_is_above_it_and_no_other_mark_covers_it():
    panel = plot_layer_sweep(SCORES.assign(structural_null=SCORES["layer"].notna()))[0]
    panel.figure.draw_without_rendering()
    marks = [text for text in panel.texts if text.get_text() == "†"]
    middles = [(box.get_extents().x0 + box.get_extents().x1) / 2 for box in panel.patches[1:]]  # the first: baseline
    middles = panel.transData.inverted().transform([(x, 0) for x in middles])[:, 0]
    assert [mark.get_position()[0] for mark in marks] == pytest.approx(list(middles)) and len(marks) == 6
    extents = [mark.get_window_extent() for mark in marks]
    assert all(a.x1 <= b.x0 or b.x1 <= a.x0 for i, a in enumerate(extents) for b in extents[:i])


def test_seeds_of_a_subject_are_averaged():
    seeds = pd.concat([SCORES, SCORES.assign(accuracy=SCORES["accuracy"] - 0.2)])
    once, twice = (plot_layer_sweep(scores)[0].collections for scores in (SCORES, seeds))
    for a, b in zip(once, twice, strict=True):
        np.testing.assert_allclose(a.get_offsets()[:, 1] - 0.1, b.get_offsets()[:, 1])


def test_per_cent_are_drawn_if_the_metric_is_no_fraction():
    panel = plot_layer_sweep(SCORES.assign(accuracy=100 * SCORES["accuracy"]), is_fraction=False)[0]
    low, high = panel.get_ylim()
    assert low < 100 * SCORES["accuracy"].min() and high > 100 * SCORES["accuracy"].max()


def test_boxes_have_any_colour_that_matplotlib_knows():
    ax = plot_boxes({"a": [1.0, 2.0], "b": [2.0, 3.0]}, colours=["blue", "#0072B2"], hollow=["b"])
    assert [box.get_edgecolor()[:3] for box in ax.patches] == [to_rgb("blue"), to_rgb("#0072B2")]


def test_curves_have_their_intervals():
    table = CURVE.assign(low=CURVE["y"] - 0.1, high=CURVE["y"] + 0.2)
    table.loc[1, ["low", "high"]] = np.nan
    ax = plot_curves(table.sample(frac=1, random_state=0), "n", "y", by="of", interval=("low", "high"))
    lines = {line.get_label(): line for line in ax.lines}
    assert lines["a"].get_ydata() == pytest.approx([0.5, 0.6, 0.8]) and lines["b"].get_ydata() == pytest.approx(
        [0.4, 0.5, 0.6]
    )
    heights = np.concatenate([path.vertices[:, 1] for band in ax.collections for path in band.get_paths()])
    assert heights.max() == pytest.approx(1.0) and heights.min() == pytest.approx(0.3)


def test_a_circuit_has_an_arrow_for_each_edge():
    ax = plot_circuit(EDGES, LAYOUT, n_layers=3)
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == list(LAYOUT.names) and len(ax.get_xticks()) == 4
    ends = [tuple(arrow._posA_posB) for arrow in ax.patches]  # noqa: SLF001
    expected = [((r.layer, -names.index(r.src)), (r.layer + 1, -names.index(r.dest))) for r in EDGES.itertuples()]
    assert ends == expected
    assert ax.patches[0].get_linewidth() < ax.patches[1].get_linewidth()
    rings = plot_circuit_rings(EDGES, LAYOUT, "emg")
    assert [len(panel.patches) for panel in rings] == [2, 2]  # the ring, and one arrow


# --- errors -----------------------------------------------------------------------------------------------

WRONG = {
    "mask of another layout": (lambda: plot_edges(np.ones((3, 3), bool), LAYOUT),
        r"edges=ndarray of bool, \[3, 3\]; expected"),
    "numbers as a mask": (lambda: plot_edges(np.ones((N, N)), LAYOUT), "edges=ndarray of float64"),
    "rows of unequal length": (lambda: plot_edges([[True], [True, False]], LAYOUT), "expected an edge set, or"),
    "axes that are none": (lambda: plot_flow(FLOW, axes=3), "axes has 1 entries; expected 2 matplotlib Axes"),
    "unknown layer of a mask": (lambda: plot_edges(cross_modal(), LAYOUT, n_layers=5, layer=7),
        "layer=7 does not exist; expected 0 to 4"),
    "live of another shape": (lambda: plot_edges(cross_modal(), LAYOUT, n_layers=2, live=np.ones((1, 1, N, N), bool)),
        "live has shape"),
    "shape of tokens": (lambda: plot_token_map(np.ones((2, 3)), LAYOUT),
        r"values has shape \[2, 3\]; expected \[12, 12\]"),
    "several rows of a head": (lambda: plot_heads(pd.concat([HEAD_ROWS] * 6)),
        r"values has 6 rows for layer 0, head 0; expected one; average them first: table.groupby\(\['layer', 'head'\]"),
    "head 0.5": (lambda: plot_heads(HEAD_ROWS.assign(head=0.5)),
        "values: head is 0.5 in a row; expected whole numbers"),
    "ragged heads": (lambda: plot_heads([[1.0], [1.0, 2.0]]), "values=.*expected an array of numbers"),
    "exchanged colours of heads": (lambda: plot_heads(HEADS, limits=(1, 0)),
        r"limits=\(1, 0\); expected the lower value first: \(0, 1\)"),
    "exchanged colours of patching": (lambda: plot_patching(np.ones((2, N)), LAYOUT, limits=(1, 0)), "limits="),
    "classes of other names": (lambda: plot_confusion(pd.DataFrame([[1, 2], [3, 4]], ["a", "b"], ["c", "d"])),
        r"matrix has the index \['a', 'b'\] and the columns \['c', 'd'\]; expected names of the same classes"),
    "a class twice": (lambda: plot_confusion(pd.DataFrame([[1, 2], [3, 4]], ["a", "a"], ["a", "b"])),
        "matrix names the class 'a' twice in its index"),
    "NaN in heads": (lambda: plot_heads(np.array([[1.0, np.nan]])),
        r"values is nan at \[0, 1\]; expected finite numbers"),
    "infinite heads": (lambda: plot_heads(np.array([[np.inf]])), "values is inf"),
    "vector of heads": (lambda: plot_heads(np.ones(3)), r"values has shape \[3\]; expected \[layer, head\]"),
    "marks of another head": (lambda: plot_heads(HEADS, marks={(0, 9): "x"}), "marks names layer 0, head 9"),
    "no column": (lambda: plot_heads(FLOW), "values has no column head, difference"),
    "no table": (lambda: plot_flow(3), "table=3; expected a data frame with the columns layer, dest, src, score"),
    "empty table": (lambda: plot_flow(FLOW.iloc[:0]), "table has no rows"),
    "NaN in a table": (lambda: plot_flow(FLOW.assign(score=np.nan)), "table: score is nan in a row"),
    "layer 0.5 of a flow": (lambda: plot_flow(FLOW.assign(layer=0.5)),
        "table: layer is 0.5 in a row; expected whole numbers from 0"),
    "exchanged colours of a flow": (lambda: plot_flow(FLOW, limits=(1, 0)), "limits="),
    "exchanged colours of tokens": (lambda: plot_token_map(np.ones((N, N)), LAYOUT, limits=(1, 0)), "limits="),
    "unknown layer of a flow": (lambda: plot_flow(FLOW, layer=4), "layer=4 does not exist; expected 0 to 1"),
    "unknown name in a flow": (lambda: plot_flow(FLOW.assign(src="eeg"), layout=LAYOUT), "table names 'eeg'"),
    "confusion that is not square": (lambda: plot_confusion(np.ones((2, 3))), r"matrix has shape \[2, 3\]"),
    "negative counts": (lambda: plot_confusion([[1, -1], [0, 1]]), "smallest value -1"),
    "names of classes": (lambda: plot_confusion([[1]], ["a", "b"]), "names has 2 entries; expected 1"),
    "patching of other positions": (lambda: plot_patching(np.ones((2, 3)), LAYOUT), r"expected \[layer, 12\]"),
    "per cent as fractions": (lambda: plot_layer_sweep(SCORES.assign(accuracy=93.0)),
        "scores: accuracy is 93 in a row; expected fractions from 0 to 1; .* give is_fraction=False"),
    "text along a curve": (lambda: plot_curves(CURVE.assign(n=CURVE["n"].astype(str)), "n", "y", by="of"),
        "table: n is '4' in a row; expected finite numbers; convert text with pandas.to_numeric"),
    "logarithm of 0": (lambda: plot_curves(CURVE.assign(n=CURVE["n"] - 4), "n", "y", by="of", log=True),
        "log=True: n is 0 in a row; expected values above 0"),
    "several rows of a curve": (lambda: plot_curves(CURVE, "n", "y"),
        "table has 2 rows for n 4; expected one; name the curve of each row with by=, or average the rows"),
    "negative error": (lambda: plot_bars(FLOW.assign(edge="a", e=-0.1), error="e"), "table: e is -0.1 in a row"),
    "no colour": (lambda: plot_boxes({"a": [1.0]}, colours="bleu"), "colours='bleu'; expected a colour"),
    "exchanged ends of boxes": (lambda: plot_boxes({"a": [1.0]}, limits=(1, 0)), r"limits=\(1, 0\); expected"),
    "hollow box that is not there": (lambda: plot_boxes({"a": [1.0]}, hollow=["zz"]),
        r"hollow names 'zz'; expected names of boxes: \['a'\]"),
    "circuit before the first layer": (lambda: plot_circuit(EDGES.assign(layer=-1), LAYOUT),
        "edges: layer is -1 in a row; expected whole numbers from 0"),
    "exchanged interval": (lambda: plot_curves(CURVE.assign(h=0.0), "n", "y", interval=("y", "h")),
        "interval: y and h are exchanged"),
    "no baseline": (lambda: plot_layer_sweep(SCORES[6:]), "scores has no row with the condition 'baseline'"),
    "no sweep": (lambda: plot_layer_sweep(SCORES[:6]), "scores has no conditions of a layer sweep"),
    "boxes without values": (lambda: plot_boxes({"a": []}), r"values\['a'\] has shape \[0\]"),
    "circuit beyond the model": (lambda: plot_circuit(EDGES, LAYOUT, n_layers=1),
        "edges has layers 0 to 1; expected 0 to 0"),
    "circuit of other tokens": (lambda: plot_circuit(EDGES.assign(src="eeg.0"), LAYOUT), r"edges names \['eeg.0'\]"),
    "kind of an edge": (lambda: plot_circuit(EDGES.assign(kind="x"), LAYOUT),
        "kind is 'x'; expected one of in every route"),
    "ring of another sensor": (lambda: plot_circuit_rings(EDGES, LAYOUT, "eeg"), "ring='eeg'; expected a modality"),
    "layout is no layout": (lambda: plot_edges(cross_modal(), 3), "plot_edges: layout=3; expected a TokenLayout"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_in_one_line(name):
    draw, message = WRONG[name]
    with pytest.raises(ArgumentError, match=message) as caught:
        draw()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
