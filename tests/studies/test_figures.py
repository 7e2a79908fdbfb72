import matplotlib
import numpy as np
import pandas as pd
import pytest
from layer_sweep_table import paper_scores, with_extras
from matplotlib.figure import Figure
from synthetic import cell_of, tidy

from emg_lens.plotting.boxes import metric_limits
from emg_lens.plotting.saving import save_figures, to_png, to_svg
from emg_lens.studies.report.layer_figures import figure_metric, figure_profile
from emg_lens.studies.report.views.single import figure_singles
from emg_lens.studies.report.views.training import figure_training
from emg_lens.studies.results.findings import Cell

DRAWN = {"layers": figure_metric, "profile": figure_profile, "single": figure_singles}


@pytest.fixture(scope="module")
def study() -> Cell:
    return cell_of(with_extras(paper_scores(12), joint=0.8, other=np.nan), chance=1 / 17)


def drawn(cell: Cell) -> dict[str, Figure]:
    return {name: figure for name, draw in DRAWN.items() if (figure := draw(cell)) is not None}


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
    panels = figure_metric(study).axes
    assert [p.get_title("left").split(") ", 1)[-1] for p in panels] == [
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
    panel = figure_metric(study).axes[0]
    shown = {round(float(c.get_offsets()[:, 0].mean())): None for c in panel.collections}
    assert set(shown) == {0, 1, 2, 3, 4, 5}
    wanted = study.scores.query("condition == 'unimodal/individual/L3'")["accuracy"]
    at = [c.get_offsets() for c in panel.collections if 2.5 < c.get_offsets()[:, 0].mean() < 3.0]
    assert len(at) == 1 and sorted(at[0][:, 1]) == pytest.approx(sorted(wanted))


def test_stars_are_above_their_layer_and_nulls_are_marked(study):
    tests, panel = study.tests, figure_metric(study).axes[0]
    stars = tests[tests["mode"] == "individual"].sort_values("layer")
    wanted = [s + ("†" if null else "") for s, null in zip(stars["stars"], stars["structural_null"], strict=True)]
    placed = sorted(panel.texts, key=lambda t: (t.get_position()[0], -t.get_position()[1]))
    assert [t.get_text() for t in placed] == wanted
    assert "ns†" in texts(panel)


def test_baseline_and_chance_are_drawn_and_named(study):
    figure = figure_metric(study)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == [
        "unimodal edges cut",
        "cross-modal edges cut",
        "baseline mean",
        "chance (0.059)",
        "† structural null",
    ]
    heights = {round(float(np.ravel(line.get_ydata())[0]), 6) for line in figure.axes[0].lines}
    base = study.scores.query("condition == 'baseline'")["accuracy"].mean()
    assert {round(base, 6), round(1 / 17, 6)} <= heights


def test_the_profile_shows_means_and_intervals(study):
    tests, panel = study.tests, figure_profile(study).axes[0]
    rows = tests[(tests["mode"] == "individual") & (tests["edges"] == "unimodal")]
    line = next(line for line in panel.lines if len(line.get_ydata()) == 5)
    assert list(line.get_ydata()) == list(rows["difference"])
    assert list(rows["ci_low"].isna()) == list(rows["structural_null"]), "what changes nobody has no interval"
    ends = [segment[:, 1] for segment in panel.collections[0].get_segments() if len(segment)]
    assert np.array(ends) == pytest.approx(rows[["ci_low", "ci_high"]].dropna().to_numpy())


def test_extra_conditions_show_what_was_expected_of_them(study):
    figure = figure_singles(study)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["Baseline", "joint", "other"]
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [float(np.ravel(d.get_xdata())[0]) for d in diamonds] == pytest.approx([0.8, np.nan], nan_ok=True)
    names = [t.get_text() for t in figure.legends[0].get_texts()]
    assert names == ["baseline mean", "expected"]


def test_a_cell_gets_the_figures_that_its_conditions_allow(study):
    assert list(drawn(study)) == ["layers", "profile", "single"]
    assert list(drawn(cell_of(paper_scores(3)))) == ["layers", "profile"]
    only = with_extras(paper_scores(3).query("condition == 'baseline'"), joint=0.5)
    assert list(drawn(cell_of(only))) == ["single"]


@pytest.mark.parametrize(
    ("metric", "name", "change"),
    [
        ("accuracy", "Accuracy", "Change in accuracy (pp)"),
        ("macro_f1", "Macro F1", "Change in macro F1 (pp)"),
        ("r2", "R²", "Change in R²"),
        ("mae", "MAE", "Change in MAE"),
        ("pearson", "Pearson r", "Change in Pearson r"),
    ],
)
def test_metrics_are_named_in_words(metric, name, change):
    cell = cell_of(with_extras(paper_scores(3), joint=np.nan).rename(columns={"accuracy": metric}), metric=metric)
    assert figure_metric(cell).axes[0].get_ylabel() == name
    assert figure_profile(cell).axes[0].get_ylabel() == change
    assert figure_singles(cell).axes[0].get_xlabel() == name


def test_values_beyond_one_are_in_sight():
    scores = tidy("mae", baseline=[20.0, 30.0, 25.0], cut=[50.0, 60.0, 40.0])
    low, high = figure_singles(cell_of(scores, metric="mae")).axes[0].get_xlim()
    assert low < 20 and high > 60


@pytest.mark.parametrize("least", [0.0, 0.3, 0.45, 0.5, 0.51, 0.79, 0.8, 0.999, 1.0])
def test_the_axis_of_a_fraction_holds_every_value(least):
    low, high = metric_limits(np.array([least, 1.0]), True)
    assert 0 <= low < least or low == least == 0
    assert high > 1 and (low == 0 or least >= 0.45)


def test_chance_is_named_only_where_it_is_in_sight():
    scores = with_extras(paper_scores(5), joint=np.nan).query("condition in ('baseline', 'joint')")
    names = [t.get_text() for t in figure_singles(cell_of(scores, chance=1 / 17)).legends[0].get_texts()]
    assert names == ["baseline mean"]


@pytest.mark.parametrize("n_layers", [1, 12])
@pytest.mark.parametrize("kinds", [["one"], ["a", "b", "c", "d", "e", "f", "g"]])
def test_any_number_of_layers_and_edge_types_is_drawn(n_layers, kinds):
    scores = made_up(n_layers, kinds, ["individual", "from_end"])
    cell = cell_of(scores)
    for figure in (figure_metric(cell), figure_profile(cell)):
        assert len(figure.axes) == 2
        assert to_svg(figure).startswith(b"<?xml")


def test_many_boxes_are_stacked_rather_than_squeezed():
    wide, tall = (
        made_up(5, ["a", "b"], ["individual", "from_end"]),
        made_up(12, ["a", "b"], ["individual", "from_end"]),
    )
    a, b = (figure_metric(cell_of(s)).get_size_inches() for s in (wide, tall))
    assert a[0] == b[0] and b[1] == 2 * a[1]


def test_one_panel_has_no_letter_and_one_subject_is_enough():
    scores = made_up(2, ["a"], ["individual"], n_subjects=1)
    figure = figure_metric(cell_of(scores))
    assert figure.axes[0].get_title("left") == "Single layers"
    assert to_png(figure).startswith(b"\x89PNG")


def test_a_dollar_sign_in_a_name_is_no_formula():
    scores = with_extras(made_up(1, [r"$\nonsense$"], ["individual"]).assign(structural_null=False), **{r"$\x{$": 0.5})
    for figure in drawn(cell_of(scores)).values():
        to_svg(figure)


def test_the_same_study_gives_the_same_bytes(study):
    first, second = (to_svg(figure_metric(study)) for _ in range(2))
    assert first == second and b"<dc:date>" not in first


def test_drawing_leaves_matplotlibs_settings_alone(study, tmp_path):
    before = dict(matplotlib.rcParams)
    save_figures(drawn(study), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_figures_are_saved_whole_as_svg_png_and_pdf_of_a_pages_width(study, tmp_path):
    svgs = save_figures({"layers": figure_metric(study)}, tmp_path / "figures")
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["layers.pdf", "layers.png", "layers.svg"]
    assert (tmp_path / "figures" / "layers.svg").read_bytes() == svgs["layers"]
    png = (tmp_path / "figures" / "layers.png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == pytest.approx(180 / 25.4 * 200, abs=1)
    assert (tmp_path / "figures" / "layers.pdf").read_bytes().startswith(b"%PDF")


def test_names_that_differ_only_in_signs_get_files_of_their_own(tmp_path):
    names = ["layers · sensors: α", "layers · sensors: β", "layers · sensors: a+b", "layers · sensors: a/b"]
    svgs = save_figures({name: Figure((1, 1)) for name in names}, tmp_path)
    assert list(svgs) == names and len(list(tmp_path.glob("*.svg"))) == 4


def test_a_figure_that_fails_leaves_no_file(tmp_path):
    class Broken(Figure):
        def savefig(self, *_, **__):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        save_figures({"x": Broken()}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def fits(**columns) -> pd.DataFrame:
    epochs = np.tile(np.arange(1, 6), 2)
    made = {
        "epoch": epochs,
        "loss": 1 / epochs,
        "accuracy": epochs / 5,
        "cls_weight": np.minimum(1, (epochs - 1) / 2),
        "fit": np.repeat(["a", "b"], 5),
    }
    return pd.DataFrame(made | columns)


def test_training_curves_show_every_fit_and_where_annealing_ends():
    loss, accuracy = figure_training(fits()).axes
    assert len(loss.lines) == 2 + 1 + 1
    assert loss.lines[2].get_ydata() == pytest.approx(1 / np.arange(1, 6))
    assert list(accuracy.lines[-1].get_xdata()) == [3, 3]
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("Loss", "Accuracy")


def test_held_out_curves_skip_epochs_where_nothing_was_evaluated():
    held_out = np.tile([np.nan, 0.8, np.nan, 0.6, np.nan], 2)
    figure = figure_training(fits(held_out_loss=held_out, held_out_accuracy=1 - held_out))
    loss = figure.axes[0]
    mean = loss.lines[5]
    assert list(mean.get_xdata()) == [2, 4] and list(mean.get_ydata()) == pytest.approx([0.8, 0.6])
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "training",
        "held out, not used in training",
        "from here on, only the main head is trained",
    ]


def test_groups_of_fits_get_a_colour_each():
    curves = fits(cls_weight=1.0)
    figure = figure_training(curves, curves["fit"].map({"a": "isonet", "b": "multimodal-mlp"}))
    loss = figure.axes[0]
    assert len(loss.lines) == 2 * 2, "a fit and its mean, twice; no annealing, no dotted line"
    assert len({line.get_color() for line in loss.lines}) == 2
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["isonet", "multimodal-mlp", "training"]
