"""The controls of a study: which conditions they are, and what the report says about them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic import cell_of, tidy
from tiny import TINY, all_fits

from emg_lens import IsoNet, IsoNetConfig, build_model
from emg_lens.data.batch import Batch
from emg_lens.studies.fits.control_analyses import SHIFT as SHIFT_ANALYSIS
from emg_lens.studies.fits.control_conditions import controls_of
from emg_lens.studies.fits.fit_execution import fitting_fraction, run_fit
from emg_lens.studies.report.views.control_effects import (
    CLS_CLOSED,
    CONTROL_EFFECTS,
    figure_control_effects,
    layout_control_effects,
)
from emg_lens.studies.report.views.ranking import RANKING
from emg_lens.studies.report.views.shift import SHIFT
from emg_lens.studies.results.control_effects import Controlled, controlled_cuts
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.runner import run_study
from emg_lens.studies.spec.condition_spec import ConditionsSpec
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.spec.study_spec import StudySpec


@pytest.fixture(scope="module")
def model():
    sizes = {"n_samples": 8, "n_classes": 3, "d_model": 16, "n_heads": 2, "n_layers": 3, "d_mlp": 16}
    return IsoNet(IsoNetConfig(modalities={"emg": 3, "acc": 2}, **sizes)).eval()


def controls(model, **spec):
    found = ConditionsSpec.model_validate(spec)
    return controls_of(found, model, found.build(3, 2))


def test_cuts_of_one_or_all_layers_have_random_cuts_and_other_cuts_have_none(model):
    made = controls(model, controls={"random_edges": 2})
    drawn = [c.tags["of"] for c in made if c.tags["control"] == "random"]
    whole = ["unimodal/from_beginning/L3", "cross_modal/from_beginning/L3"]
    single = [f"{kind}/individual/L{layer}" for layer in (1, 2) for kind in ("unimodal", "cross_modal")]
    assert sorted(set(drawn)) == sorted([*single, *whole]) and len(drawn) == 2 * len(set(drawn))
    others = [(c.name, c.tags["control"]) for c in made if c.tags["control"] != "random"]
    assert others == [
        ("unimodal and cross_modal", "superset"),
        ("unimodal, CLS path closed", "cls_path_closed"),
        ("cross_modal, CLS path closed", "cls_path_closed"),
    ]


def test_a_study_without_controls_and_cuts_without_matching_random_cuts(model):
    assert controls(model, controls=None) == []
    extra = [{"name": "zeroed", "replace": "acc"}, {"name": "all", "edges": "every().at(layers=0)"}]
    assert controls(model, layer_masks=None, extra=extra) == []
    off = {"random_edges": 0, "superset": False, "cls_path_closed": False}
    assert controls(model, controls=off) == []


def test_the_heads_of_a_layer_share_their_random_cuts(model):
    heads = {"edges": {"all": "every()", "cross": "cross_modal()"}}
    made = controls(model, layer_masks=None, removals=None, head_masks=heads, controls={"random_edges": 2})
    assert [one.name for one in made] == [
        f"{kind}/head/L{layer}, random {number}"
        for kind, layer in (("all", 1), ("cross", 1), ("all", 2), ("cross", 2), ("all", 3))  # cross L3 is a null
        for number in (1, 2)
    ]
    assert made[2].tags == {"control": "random", "of": "cross/head/L1", "random_cut": 1}
    n_edges = {"all/head/L1": 36, "cross/head/L1": 12, "all/head/L2": 36, "cross/head/L2": 12, "all/head/L3": 6}
    for one in made:
        assert one.edges.mask(model.layout, 3, 2).sum() == n_edges[one.tags["of"]]


def test_heads_with_different_edges_have_random_cuts_of_their_own_that_differ(model):
    masked = IsoNet(replace(model.cfg, masked_edges="cross_modal().at(heads=0)")).eval()
    made = controls(masked, layer_masks=None, removals=None, head_masks={}, controls={"random_edges": 2})
    first_layer = {one.tags["of"]: one.edges for one in made if "/L1" in one.name}
    assert [*first_layer] == ["every/head/L1H0", "every/head/L1H1"]
    one, other = (edges.mask(masked.layout, 3, 2) for edges in first_layer.values())
    assert (one.sum(), other.sum()) == (36 - 12, 36)


def test_the_only_head_of_a_layer_is_the_layer():
    sizes = {"n_samples": 8, "n_classes": 3, "d_model": 16, "n_heads": 1, "n_layers": 2, "d_mlp": 16}
    single = IsoNet(IsoNetConfig(modalities={"emg": 3, "acc": 2}, **sizes)).eval()
    spec = ConditionsSpec.model_validate({"head_masks": {"edges": {"cross_modal": "cross_modal()"}}})
    made = controls_of(spec, single, spec.build(2, 1))
    assert not [one for one in made if "/head/" in str(one.tags.get("of"))]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    text = TINY.replace("conditions:", "conditions:\n  controls: {random_edges: 3}").replace(
        "n_layers: 2", "n_layers: 3"
    )
    return run_study(StudySpec.parse(text), out=tmp_path_factory.mktemp("runs"), jobs=1)


def test_controls_have_a_table_of_their_own(result):
    assert not result.scores["condition"].str.contains("random|masked$").drop_duplicates().all()
    assert set(result.controls["control"]) == {"random", "superset", "cls_path_closed"}
    assert "control" not in result.scores and not set(result.scores["condition"]) & set(result.controls["condition"])
    assert len(result.tests()) == 19, "they are no hypotheses"
    with pytest.raises(
        StudyError, match="no fit has the condition 'baselin'; did you mean 'baseline'\\? known: baseline, "
    ):
        result.predictions("baselin")
    name = "cross_modal/individual/L1, random 2"
    predictions = result.predictions(name)
    right = (
        (predictions.filter(like="output_").to_numpy().argmax(1) == predictions["target"])
        .groupby(predictions["subject"])
        .mean()
    )
    kept = result.controls[result.controls["condition"] == name].set_index("subject")["accuracy"]
    pd.testing.assert_series_equal(right, kept, check_names=False, check_index_type=False)
    assert (result.folder / "controls.csv").exists()


def test_the_report_shows_every_cut_next_to_its_controls(result):
    table = CONTROL_EFFECTS.tables(result)["Ablations and their controls"].set_index("Ablation")
    assert {"Uni L1", "Cross, every layer", "ACC masked"} <= set(table.index)
    assert table.loc["Uni L1", "Random controls that hurt less"].endswith("of 3")
    assert table.loc["Cross, every layer", CLS_CLOSED] != "–" == table.loc["Uni L1", CLS_CLOSED]
    text = (result.folder / "report.html").read_text()
    assert "size-matched random cut" in text and "control-effects" in result.figures()


# --- what is said of them, on made-up numbers -----------------------------------------------------------------

CROSS = (0.6, 0.5, 0.7, 0.55, 0.65)


LARGER = "Superset ablation that hurts less"


def made_up(cross=CROSS, gain=(0.2, 0.21, 0.19, 0.2, 0.22), random=((0.9,) * 5, (0.4,) * 5)) -> Cell:
    """Five subjects with .95 unmasked; the superset ablation is better than the cut by `gain`."""
    both = np.add(cross, gain)
    scores = tidy(baseline=[0.95] * 5, cross=cross, both=both)
    tagged = scores["condition"] == "cross"
    scores["mode"], scores["edges"] = tagged.map({True: "from_beginning", False: ""}), scores["condition"]
    scores["layer"] = tagged.map({True: 1.0, False: np.nan})
    draws = [
        tidy(**{f"cross, random {i}": values}).assign(control="random", of="cross") for i, values in enumerate(random)
    ]
    cls_path_closed = tidy(**{"cross, CLS path closed": (0.3,) * 5}).assign(control="cls_path_closed", of="cross")
    analyses = {"superset-ablations": pd.DataFrame({"condition": ["cross"], "superset": ["both"]})}
    return replace(cell_of(scores), controls=pd.concat([*draws, cls_path_closed]), analyses=analyses)


def test_a_cut_is_compared_with_random_cuts_supersets_and_the_closed_cls_path():
    cut, _ = controlled_cuts(made_up())
    assert (cut.condition, cut.n_random_hurt_less, cut.n_supersets, cut.superset) == ("cross", 1, 1, "both")
    assert (cut.superset_mean, cut.cls_path_closed) == (pytest.approx(0.804), pytest.approx(0.3))


@pytest.mark.parametrize(
    "changed",
    [
        {"gain": (0.044, 0.014, -0.054, -0.03, 0.076)},
        {"gain": (0.3, -0.01, 0.01, -0.01, 0.01)},
        {"cross": (0.96, 0.95, 0.95, 0.96, 0.95), "gain": (0.01, 0.01, 0.011, 0.01, 0.012)},
    ],
    ids=["three of five subjects", "one subject", "the cut costs nothing"],
)
def test_an_unclear_or_harmless_effect_has_no_better_superset(changed):
    cut, _ = controlled_cuts(made_up(**changed))
    assert cut.superset is None
    if "cross" in changed:
        assert cut.n_supersets == 0
    else:
        (cell,) = layout_control_effects(made_up(**changed))[LARGER]
        assert cell == f"{cut.best_superset_mean:.3f} on average" and cut.best_superset_mean > cut.mean


def test_a_control_equal_to_a_condition_counts_as_one_superset():
    cell = made_up()
    twice = tidy(**{"all together": np.add(CROSS, (0.2, 0.21, 0.19, 0.2, 0.22))})
    twice = twice.assign(control="superset", equivalent_to="both")
    pairs = pd.DataFrame({"condition": ["cross"] * 2, "superset": ["all together", "both"]})
    controls = pd.concat([cell.controls, twice], ignore_index=True)
    cut, _ = controlled_cuts(replace(cell, analyses={"superset-ablations": pairs}, controls=controls))
    assert (cut.n_supersets, cut.superset) == (1, "both")


def test_a_superset_that_hurts_more_is_not_listed():
    assert layout_control_effects(made_up(gain=(-0.2, -0.21, -0.19, -0.2, -0.22)))[LARGER].to_list() == ["none"]


def test_equal_means_summed_in_another_order_count_as_equal():
    cut = Controlled("cut", float(np.mean([0.3, 0.2, 0.1])), random=(float(np.mean([0.1, 0.2, 0.3])), 0.1, 0.3))
    assert cut.mean != cut.random[0] and cut.n_random_hurt_less == 1


def test_supersets_are_not_compared_with_fewer_than_five_subjects():
    few = made_up()
    kept = few.scores["subject"].isin(["s0", "s1"])
    few = replace(
        cell_of(few.scores[kept]), analyses=few.analyses, controls=few.controls[few.controls["subject"] < "s2"]
    )
    assert controlled_cuts(few)[0].n_supersets == 0
    assert LARGER not in layout_control_effects(few), "a column without values is left out"


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"extra": [{"name": "unimodal and cross_modal", "edges": "every()"}]}, "has the name of a control"),
        (
            {"extra": [{"name": "x", "edges": "unimodal('emg')"}, {"name": "x, random 1", "edges": "every()"}]},
            "rename it",
        ),
    ],
)
def test_a_condition_with_the_name_of_a_control_is_refused_before_the_first_fit(tmp_path, conditions, message):
    study = StudySpec.parse(TINY).model_copy(update={"conditions": ConditionsSpec.model_validate(conditions)})
    with pytest.raises(StudyError, match=message):
        run_study(study, out=tmp_path, jobs=1)
    assert not list(tmp_path.rglob("fits"))


def test_without_controls_nothing_is_shown():
    cell = cell_of(tidy(baseline=[0.9, 0.8], cut=[0.5, 0.4]))
    assert (
        not controlled_cuts(cell)[0].is_controlled
        and layout_control_effects(cell) is None
        and figure_control_effects(cell) is None
    )


def test_the_shift_of_the_residual_stream_is_shown_next_to_that_of_one_random_cut_each(result):
    shift = result.analyses["shift"]
    assert set(shift["tokens"]) == {"cls", "emg", "acc"} and shift["layer"].nunique() == 3
    assert set(shift["fit"]) == set(result.facts["fit"])
    (table,) = SHIFT.tables(result).values()
    rows = table.set_index("Condition")
    assert {
        "Uni, every layer",
        "random, size-matched to Uni, every layer",
        "Uni, every layer; path through CLS closed",
        "ACC masked",
    } <= set(rows.index)
    assert not [name for name in rows.index if "L1" in name or "random 2" in name]
    at_cls = shift[(shift["condition"] == "ACC masked") & (shift["tokens"] == "cls")]
    first = at_cls[at_cls["layer"] == 0]["cosine"].mean()
    assert rows.loc["ACC masked", "Cosine L1"] == f"{first:.2f}"
    assert "shift" in result.figures()


def test_a_model_without_attention_has_no_shift():
    mlp = build_model("multimodal-mlp", modalities={"emg": 3, "acc": 2}, n_samples=8, n_classes=3).eval()
    zeroed = ConditionsSpec.model_validate({"layer_masks": None, "extra": [{"name": "zeroed", "replace": "acc"}]})
    table = SHIFT_ANALYSIS.run(mlp, Batch(mlp.example_input(4)), zeroed.build(0, 0))
    assert not len(table) and "cosine" in table


def test_the_progress_of_a_fit_increases_during_the_sweep_of_its_controls(tmp_path):
    (unit, *_) = all_fits(StudySpec.parse(TINY))
    fractions = []
    run_fit(unit, None, tmp_path / "fit", "cpu", fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert len(fractions) > 4 + 2, "four epochs, the end, and steps of the sweep"


@pytest.mark.parametrize(
    ("epochs", "n_train", "n_test", "n_conditions", "fraction"),
    [(2000, 60, 34, 31, 0.997), (45, 432, 216, 276, 0.49)],
)
def test_the_fraction_of_fitting_follows_from_the_number_of_forward_passes(
    epochs, n_train, n_test, n_conditions, fraction
):
    recipe = SimpleNamespace(recipe=SimpleNamespace(epochs=epochs))
    prepared = SimpleNamespace(
        fit_unit=recipe, train=range(n_train), test=range(n_test), conditions=range(n_conditions)
    )
    assert fitting_fraction(prepared) == pytest.approx(fraction, abs=0.01)


def test_a_study_of_heads_compares_every_head_with_random_cuts_of_its_layer(tmp_path):
    """From a study file to the first screen."""
    content = yaml.safe_load(TINY)
    content["cohort"]["options"]["simulation"]["n_subjects"] = 5
    content["metrics"] = ["log_prob", "accuracy"]
    content["conditions"] = {
        "layer_masks": None,
        "removals": None,
        "head_masks": {"edges": {"all": "every()", "cross_modal": "cross_modal()"}},
    }
    done = run_study(StudySpec.model_validate(content), out=tmp_path, jobs=1)
    verdicts = done.verdicts()
    assert len(verdicts) == 4 + 2 and not verdicts["verdict"].isin(["no control", "no interval"]).any()
    assert verdicts["controls"].str.fullmatch(r"\d+ of 20 size-matched random cuts in L[12] hurt less").all()
    assert done.controls["of"].nunique() == 3 and len(done.controls) == 5 * 3 * 20
    report = (done.folder / "report.html").read_text()
    assert "of a single head" in report and "was compared with random cuts" not in report
    (ranking,) = RANKING.tables(done).values()
    named = ranking["Verdict"].value_counts().to_dict()
    assert {word: n for word, n in named.items() if word != "–"} == verdicts["verdict"].value_counts().to_dict()
