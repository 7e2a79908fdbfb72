import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from table3 import paper_scores, with_extras

from emg_lens.studies.report.figures import (
    CAPTIONS,
    figure_accuracy,
    figure_extras,
    figure_profile,
    figure_training,
    save_figures,
    study_figures,
    to_png,
    to_svg,
)
from emg_lens.studies.statistics.comparison import StatisticsSpec, compare

SPEC = StatisticsSpec(n_bootstrap=100)


@pytest.fixture(scope="module")
def study():
    scores = with_extras(paper_scores(12), joint=0.8, other=np.nan)
    return scores, compare(scores, SPEC, chance=1 / 17)


def texts(axes) -> list[str]:
    return [t.get_text() for t in axes.texts]


def made_up(n_layers: int, kinds: list[str], modes: list[str], n_subjects: int = 4) -> pd.DataFrame:
    rows = [(f"s{s}", "baseline", None, "", np.nan, 0.9 - 0.01 * s) for s in range(n_subjects)]
    rows += [
        (f"s{s}", f"{kind}/{mode}/{layer}", kind, mode, layer, 0.8 - 0.02 * layer - 0.01 * s)
        for mode in modes
        for layer in range(n_layers)
        for kind in kinds
        for s in range(n_subjects)
    ]
    return pd.DataFrame(rows, columns=["subject", "condition", "edges", "mode", "layer", "accuracy"])


def test_a_panel_a_mode_with_every_subject_under_every_mask(study):
    panels = figure_accuracy(*study).axes
    assert [p.get_title("left").split("$ ")[-1] for p in panels] == [
        "Single layers",
        "From the first layer on (RFB)",
        "From the last layer back (RFE)",
    ]
    for panel in panels:
        assert [t.get_text() for t in panel.get_xticklabels()] == ["Base", "L1", "L2", "L3", "L4", "L5"]
        dots = np.concatenate([c.get_offsets()[:, 1] for c in panel.collections])
        assert len(dots) == 11 * 12, "a baseline and ten masks of twelve subjects"
        assert len(panel.patches) == 11
        assert dots.min() >= panel.get_ylim()[0] and dots.max() <= panel.get_ylim()[1]


def test_the_dots_are_the_accuracies_of_the_right_condition(study):
    scores, tests = study
    panel = figure_accuracy(scores, tests).axes[0]
    shown = {round(float(c.get_offsets()[:, 0].mean())): None for c in panel.collections}
    assert set(shown) == {0, 1, 2, 3, 4, 5}
    wanted = scores[scores["condition"] == "unimodal/individual/L3"]["accuracy"]
    at = [c.get_offsets() for c in panel.collections if 2.5 < c.get_offsets()[:, 0].mean() < 3.0]
    assert len(at) == 1 and sorted(at[0][:, 1]) == pytest.approx(sorted(wanted))


def test_stars_stand_above_their_layer_and_nulls_are_marked(study):
    _, tests = study
    panel = figure_accuracy(*study).axes[0]
    stars = tests[tests["mode"] == "individual"].sort_values("layer")
    wanted = [s + ("†" if null else "") for s, null in zip(stars["stars"], stars["structural_null"], strict=True)]
    placed = sorted(panel.texts, key=lambda t: (t.get_position()[0], -t.get_position()[1]))
    assert [t.get_text() for t in placed] == wanted
    assert "ns†" in texts(panel)


def test_baseline_and_chance_are_drawn_and_named(study):
    figure = figure_accuracy(*study)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == [
        "unimodal edges cut",
        "cross-modal edges cut",
        "baseline mean",
        "chance (0.059)",
        "† structural null",
    ]
    heights = {round(float(np.ravel(line.get_ydata())[0]), 6) for line in figure.axes[0].lines}
    base = study[0].query("condition == 'baseline'")["accuracy"].mean()
    assert {round(base, 6), round(1 / 17, 6)} <= heights


def test_the_profile_shows_means_and_intervals(study):
    _, tests = study
    panel = figure_profile(tests).axes[0]
    rows = tests[(tests["mode"] == "individual") & (tests["edges"] == "unimodal")]
    line = next(line for line in panel.lines if len(line.get_ydata()) == 5)
    assert list(line.get_ydata()) == list(rows["difference_pp"])
    segments = panel.collections[0].get_segments()
    assert [s[0][1] for s in segments] == pytest.approx(list(rows["ci_low_pp"]))
    assert [s[1][1] for s in segments] == pytest.approx(list(rows["ci_high_pp"]))


def test_extra_conditions_show_what_was_expected_of_them(study):
    figure = figure_extras(*study)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["baseline", "joint", "other"]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [float(np.ravel(d.get_xdata())[0]) for d in diamonds] == pytest.approx([0.8, np.nan], nan_ok=True)


def test_a_study_gets_the_figures_that_its_conditions_allow(study):
    assert list(study_figures(*study)) == ["accuracy", "profile", "extras"]
    assert set(CAPTIONS) == {"accuracy", "profile", "extras", "training"}
    scores = paper_scores(3)
    assert list(study_figures(scores, compare(scores, SPEC))) == ["accuracy", "profile"]
    only = with_extras(scores.query("condition == 'baseline'"), joint=0.5)
    assert list(study_figures(only, compare(only, SPEC))) == ["extras"]


@pytest.mark.parametrize("n_layers", [1, 12])
@pytest.mark.parametrize("kinds", [["one"], ["a", "b", "c", "d", "e", "f", "g"]])
def test_any_number_of_layers_and_edge_types_is_drawn(n_layers, kinds):
    scores = made_up(n_layers, kinds, ["individual", "from_end"])
    tests = compare(scores, SPEC)
    for figure in (figure_accuracy(scores, tests), figure_profile(tests)):
        assert len(figure.axes) == 2
        assert to_svg(figure).startswith(b"<?xml")


def test_many_boxes_are_stacked_rather_than_squeezed():
    wide, tall = (
        made_up(5, ["a", "b"], ["individual", "from_end"]),
        made_up(12, ["a", "b"], ["individual", "from_end"]),
    )
    a, b = (figure_accuracy(s, compare(s, SPEC)).get_size_inches() for s in (wide, tall))
    assert a[0] == b[0] and b[1] == 2 * a[1]


def test_one_panel_has_no_letter_and_one_subject_is_enough():
    scores = made_up(2, ["a"], ["individual"], n_subjects=1)
    figure = figure_accuracy(scores, compare(scores, SPEC))
    assert figure.axes[0].get_title("left") == "Single layers"
    assert to_png(figure).startswith(b"\x89PNG")


def test_a_dollar_sign_in_a_name_is_no_formula():
    scores = with_extras(made_up(1, [r"$\nonsense$"], ["individual"]).assign(structural_null=False), **{r"$\x{$": 0.5})
    for figure in study_figures(scores, compare(scores, SPEC)).values():
        to_svg(figure)


def test_the_same_study_gives_the_same_bytes(study):
    first, second = (to_svg(figure_accuracy(*study)) for _ in range(2))
    assert first == second and b"<dc:date>" not in first


def test_drawing_leaves_matplotlibs_settings_alone(study, tmp_path):
    before = dict(matplotlib.rcParams)
    save_figures(study_figures(*study), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_figures_are_saved_whole_as_svg_and_png_of_a_pages_width(study, tmp_path):
    paths = save_figures({"accuracy": figure_accuracy(*study)}, tmp_path / "figures")
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["accuracy.png", "accuracy.svg"]
    png = next(p for p in paths if p.suffix == ".png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == pytest.approx(180 / 25.4 * 200, abs=1)


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    class Broken(Figure):
        def savefig(self, *_, **__):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        save_figures({"x": Broken()}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_training_curves_show_every_subject_and_where_annealing_ends():
    epochs = np.tile(np.arange(1, 6), 2)
    fits = pd.DataFrame(
        {
            "subject": np.repeat(["a", "b"], 5),
            "epoch": epochs,
            "loss": 1 / epochs,
            "accuracy": epochs / 5,
            "cls_weight": np.minimum(1, (epochs - 1) / 2),
        }
    )
    loss, accuracy = figure_training(fits).axes
    assert len(loss.lines) == 2 + 1 + 1
    assert loss.lines[2].get_ydata() == pytest.approx(1 / epochs[:5])
    assert list(accuracy.lines[-1].get_xdata()) == [3, 3]
