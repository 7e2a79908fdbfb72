"""Verdicts: each rule with a constructed cohort, and the family of comparisons with random controls."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic import cell_of, findings_of, tidy
from test_controls import made_up

from emg_lens.studies.report.answers import EDGES, FUSION, OTHERS, PLACES, SENSORS, SUMMARY, answers_to_questions
from emg_lens.studies.report.verdict_sentences import sentence, verdict_table, what_was_done
from emg_lens.studies.report.views.answers import ANSWERS, layout_verdicts
from emg_lens.studies.report.views.ranking import figure_heads, layout_ranking
from emg_lens.studies.results.findings import Cell, Findings
from emg_lens.studies.results.verdicts import family_wise_p, shared_controls_p, verdicts_of
from emg_lens.studies.statistics.corrections import adjust

WORSE = (-0.1, -0.11, -0.09, -0.1, -0.12)
"""Changes of a superset ablation that hurts more than the cut."""
MILD = ((0.9,) * 5, (0.85,) * 5) * 10
"""Twenty random cuts that hurt less than the cut of `made_up`."""


def findings_with(*cells: Cell) -> Findings:
    """Findings that have these cells."""
    findings = findings_of(tidy(baseline=[0.9] * 5))
    findings.__dict__["cells"] = cells  # a cached property
    return findings


def verdict_on(cell: Cell, condition: str = "cross"):
    """The verdict on one condition."""
    ((_, verdicts),) = verdicts_of(findings_with(cell))
    return next(one for one in verdicts if one.cut.condition == condition)


def without_superset(**changed) -> Cell:
    """The cell of `made_up` with a superset ablation that hurts more."""
    return made_up(gain=WORSE, **changed)


def test_an_effect_is_shown_if_interval_random_controls_and_supersets_agree():
    one = verdict_on(without_superset(random=MILD))
    assert (one.verdict, one.reason) == ("shown", "") and one.p_random == pytest.approx(1 / 21)
    assert one.drop == pytest.approx(35.0) and 0 < one.interval[0] < 35 < one.interval[1] and one.n_worse == 5
    assert sentence(one, without_superset()) == (
        f"With all cross edges cut, accuracy falls by 35.0 pp (95 % CI [{one.interval[0]:.1f},"
        f" {one.interval[1]:.1f}]) to 0.600. All 5 subjects get worse, and 20 of 20 size-matched random cuts hurt"
        " less (p = .048)."
    )


@pytest.mark.parametrize(
    ("cell", "verdict", "reason", "text"),
    [
        (
            without_superset(random=(*MILD[:19], (0.4, 0.41, 0.39, 0.4, 0.42))),
            "not shown",
            "random",
            "1 of 20 size-matched random cuts hurt as much or more, so this drop is not specific (p = .095)",
        ),
        (
            without_superset(random=MILD[:18]),
            "no control",
            "few random",
            "Whether this drop is specific is open: only 18 other sets of this size exist, and 19 are needed.",
        ),
        (
            without_superset(random=()),
            "no control",
            "few random",
            "is open: the cut has every edge of its kinds in these layers",
        ),
        (made_up(random=MILD), "not shown", "superset", "But cutting more (“both”) also hurts less: 0.804."),
        (
            made_up(random=MILD, gain=(0.3, -0.01, 0.01, -0.01, 0.01)),
            "not shown",
            "superset on average",
            "Cutting more (“both”) hurts less on average (0.660), but this difference is not clear. So part of",
        ),
        (
            without_superset(random=MILD, cross=(0.96, 0.94, 0.95, 0.94, 0.96)),
            "not shown",
            "zero",
            "accuracy does not change clearly: 0.0 pp (95 % CI [−1.2, 1.2]); 2 of 5 subjects get worse.",
        ),
        (
            without_superset(random=MILD, cross=(0.55,) * 5),
            "no interval",
            "alike",
            "the drop of accuracy is the same in all 5 subjects (40.0 pp), so there is no interval",
        ),
    ],
    ids=["random cuts", "few random cuts", "no random cuts", "superset", "superset on average", "zero", "alike"],
)
def test_an_effect_is_not_shown_if_anything_objects(cell, verdict, reason, text):
    one = verdict_on(cell)
    assert (one.verdict, one.reason) == (verdict, reason) and text in sentence(one, cell)


def test_four_subjects_that_all_get_worse_have_no_interval_but_their_changes():
    cell = cell_of(tidy(baseline=[0.95] * 4, cut=[0.8, 0.7, 0.6, 0.65]))
    one = verdict_on(cell, "cut")
    assert one.row["p_mann_whitney"] < 0.03, "significant, but without an interval nothing is shown"
    assert one.verdict == "no interval" and np.isnan(one.interval[0])
    assert sentence(one, cell) == (
        "With “cut”, accuracy gets worse in 4 of 4 subjects (drops from 15.0 to 35.0 pp). An interval needs 5 subjects."
    )


def test_an_error_that_rises_is_a_positive_drop():
    cell = cell_of(tidy("mae", baseline=[1.0] * 5, cut=[2.0, 2.1, 1.9, 2.2, 1.8]), metric="mae")
    one = verdict_on(cell, "cut")
    assert one.drop == pytest.approx(1.0) and one.interval[0] > 0 and one.n_worse == 5
    assert "MAE rises by 1.000 (95 % CI [" in sentence(
        one, cell
    ) and "Whether this increase is specific is open" in sentence(one, cell)


def test_all_cells_of_a_study_are_one_family():
    """A cut that only just passes alone does not pass next to eleven other cuts with random effects."""
    rng = np.random.default_rng(0)
    spread = np.array([0.0, 0.001, -0.001, 0.002, -0.002])

    def random_cuts():
        return tuple(tuple(x + spread) for x in 0.85 + 0.03 * rng.standard_normal(20))

    barely = random_cuts()
    cell = without_superset(random=barely, cross=tuple(min(x for x, *_ in barely) - 0.001 + spread))
    assert verdict_on(cell).verdict == "shown"
    others = [without_superset(random=random_cuts(), cross=(0.86, 0.85, 0.84, 0.86, 0.85)) for _ in range(11)]
    (_, verdicts), *_ = verdicts_of(findings_with(cell, *others))
    one = next(v for v in verdicts if v.cut.condition == "cross")
    assert (one.verdict, one.reason, one.n_screened) == ("not shown", "random", 12)
    assert "corrected for 12 ablations" in sentence(one, cell)


def all_clear(effects):
    """Every effect counts."""
    return family_wise_p(effects, [np.ones(len(one), bool) for one in effects])


def test_the_family_wise_p_is_the_rank_among_random_studies():
    """By hand: two ablations, three random studies."""
    first, second = np.array([3.0, 0, 1, 2]), np.array([1.0, 2, 0, 1])
    z = [(x - x.mean()) / x.std() for x in (first, second)]
    largest = np.maximum(*z)[1:]
    assert all_clear([first, second]) == [
        (1 + (largest >= z[0][0]).sum()) / 4,
        max((1 + (largest >= z[0][0]).sum()) / 4, (1 + (z[1][1:] >= z[1][0] - 1e-9).sum()) / 4),
    ]
    assert all_clear([]) == [] and all_clear([np.zeros(5)]) == [1.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-5, 5))
def test_the_family_wise_p_is_above_the_single_p_and_ignores_scale_and_order(n, seed, scale, shift):
    rng = np.random.default_rng(seed)
    effects = [rng.standard_normal(21) for _ in range(n)]
    p = np.array(all_clear(effects))
    single = [(1 + (one[1:] >= one[0]).sum()) / len(one) for one in effects]
    assert (p >= np.array(single) - 1e-12).all() and (p <= 1).all()
    order = rng.permutation(n)
    assert all_clear([scale * effects[k] + shift for k in order]) == pytest.approx(p[order])


def test_an_ablation_without_effect_does_not_hide_a_large_one():
    """One control of the second ablation changes one trial of one subject."""
    large, nothing = np.array([60.0, *np.linspace(40, 55, 20)]), np.zeros(21)
    nothing[7] = 0.1
    assert all_clear([large, nothing])[0] > 0.05
    p, none = family_wise_p([large, nothing], [np.ones(21, bool), np.zeros(21, bool)])
    assert p == pytest.approx(1 / 21) and np.isnan(none)


def test_the_p_of_shared_controls_is_the_tail_of_a_prediction_and_holm_corrects_it():
    rng = np.random.default_rng(0)
    random = rng.standard_normal(20)
    heads = random.max() + np.array([3.0, 0.5, 1.0])
    effects = [np.array([head, *random]) for head in heads]
    clear = [np.ones(21, bool)] * 3
    raw = stats.t.sf((heads - random.mean()) / (random.std(ddof=1) * np.sqrt(21 / 20)), 19)
    assert shared_controls_p(effects, clear) == pytest.approx(adjust(raw, "holm"))
    second = shared_controls_p(effects, [clear[0], np.zeros(21, bool), clear[0]])
    assert np.isnan(second[1]) and second[0] == pytest.approx(3 * raw[0]), "an unclear effect counts as a comparison"
    assert shared_controls_p([], []) == []


@pytest.mark.parametrize(
    ("random", "p"),
    [
        ([0.0] * 20, 1 / 21),
        ([0.0] * 19 + [5.0], 2 / 21),
        ([0.0] * 19 + [6.0], 2 / 21),
        ([5.0] * 20, 1.0),
    ],
    ids=["all equal", "one as bad", "one worse", "all as bad"],
)
def test_the_p_of_shared_controls_is_no_smaller_than_the_rank_where_a_tail_says_nothing(random, p):
    assert shared_controls_p([np.array([5.0, *random])], [np.ones(21, bool)]) == [pytest.approx(p)]


def test_of_forty_heads_that_are_random_cuts_one_passes_in_at_most_one_study_in_twenty():
    """Eight heads of each of five layers; ranks among the shared controls let one pass far more often."""
    rng, passed = np.random.default_rng(2), []
    for _ in range(500):
        layers = [rng.standard_normal(28) for _ in range(5)]
        effects = [np.array([head, *layer[8:]]) for layer in layers for head in layer[:8]]
        clear = [np.ones(21, bool)] * 40
        passed.append([min(one(effects, clear)) <= 0.05 for one in (shared_controls_p, family_wise_p)])
    by_tail, by_rank = np.mean(passed, axis=0)
    assert by_tail < 0.07 and by_rank > 0.15


@pytest.mark.parametrize("n_random", [20, 200])
def test_ablations_that_are_random_themselves_pass_in_at_most_one_study_in_twenty(n_random):
    """Twelve ablations; nine of them have 23 random controls, the others 20 or 200."""
    rng = np.random.default_rng(1)
    sizes = [24] * 9 + [n_random + 1] * 3
    for noise in (rng.standard_normal, lambda shape: rng.exponential(1, shape) ** 2, lambda n: rng.binomial(9, 0.1, n)):
        for clear in (0.5, 1.0):
            passed = [
                np.nanmin([1.0, *family_wise_p([noise(n) for n in sizes], [rng.random(n) < clear for n in sizes])])
                <= 0.05
                for _ in range(800)
            ]
            assert np.mean(passed) < 0.07


def test_a_level_below_a_twenty_first_needs_more_random_controls():
    cell = without_superset(random=MILD)
    strict = replace(cell, statistics=cell.statistics.model_copy(update={"alpha": 0.01}))
    findings = findings_with(strict)
    findings = replace(findings, study=findings.study.model_copy(update={"statistics": strict.statistics}))
    findings.__dict__["cells"] = (strict,)
    one = verdicts_of(findings)[0][1][0]
    assert (one.verdict, one.reason) == ("no control", "not requested")
    assert "the study asks for fewer than 99 random controls (conditions.controls." in sentence(one, strict)


def test_an_ablation_without_random_controls_says_why():
    """A cut of two of three layers, a single condition, and a removal by the mean."""
    drops = {
        "cross/from_beginning/L2": 0.2,
        "cross/from_beginning/L3": 0.3,
        "ACC zeroed": 0.4,
        "EMG set to its mean": 0.5,
    }
    noise = np.array([0.0, 0.01, -0.01, 0.02, -0.02])
    scores = tidy(baseline=[0.9] * 5, **{name: 0.9 - drop + noise for name, drop in drops.items()})
    layer = scores["condition"].str.extract(r"/L(\d)$")[0].astype(float) - 1
    first = scores.assign(condition="cross/individual/L1", mode="individual", layer=0.0)[5:10]
    mode = np.where(layer.notna(), "from_beginning", np.where(scores["condition"].str.startswith("EMG"), "removal", ""))
    scores = pd.concat([scores.assign(mode=mode, layer=layer), first]).assign(edges="cross")
    scores["by"] = np.where(scores["mode"] == "removal", "mean", "")
    cell = cell_of(scores, tags=("edges", "mode", "layer", "by"))
    ((_, verdicts),) = verdicts_of(findings_with(cell))
    assert {one.verdict for one in verdicts} == {"no control"}
    reasons = {one.cut.condition: one.reason for one in verdicts}
    assert [reasons[name] for name in drops] == ["several layers", "few random", "single", "mean"]
    assert all("is specific is open: " in sentence(one, cell) for one in verdicts)
    assert "" not in set(layout_verdicts(cell, verdicts)["Why"])


def test_an_unclear_rise_has_a_plus_sign():
    cell = cell_of(tidy(baseline=[0.9, 0.8, 0.9, 0.85, 0.8], cut=[0.93, 0.8, 0.91, 0.85, 0.79]))
    assert "accuracy does not change clearly: +0.6 pp (95 % CI [−1.3, 2.5]); 1 of 5" in sentence(
        verdict_on(cell, "cut"), cell
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unimodal but self-edges", "unimodal edges except self-edges cut"),
        ("EMG -> CLS", "edges EMG -> CLS cut"),
        ("EMG masked", "“EMG masked”"),
    ],
)
def test_single_cuts_of_edges_are_named_as_cuts(name, words):
    assert what_was_done({"condition": name, "edges": name, "mode": "", "edges_cut": 9}, made_up()) == words


def test_a_clear_gain_is_called_a_gain():
    cell = cell_of(tidy(baseline=[0.4, 0.5, 0.45, 0.5, 0.4], cut=[0.8, 0.9, 0.85, 0.95, 0.8]))
    assert sentence(verdict_on(cell, "cut"), cell).startswith(
        "With “cut”, accuracy rises by 41.0 pp (95 % CI [38.2, 43.8]"
    )
    cell = cell_of(tidy("mae", baseline=[2.0, 2.1, 1.9, 2.2, 1.8], cut=[1.0, 1.0, 1.0, 1.1, 1.0]), metric="mae")
    assert "MAE falls by 0.980 (95 % CI [" in sentence(verdict_on(cell, "cut"), cell)


@pytest.mark.parametrize(
    ("baseline", "cut", "text"),
    [
        ([0.9], [0.5], "the drop of accuracy is 40.0 pp in the only subject. An interval needs 5 subjects."),
        ([0.9] * 3, [0.9] * 3, "accuracy does not change in any of 3 subjects."),
        ([1.0] * 5, [1.0] * 5, "accuracy does not change in any of 5 subjects."),
    ],
)
def test_changes_of_few_subjects_in_words(baseline, cut, text):
    cell = cell_of(tidy(baseline=baseline, cut=cut))
    assert sentence(verdict_on(cell, "cut"), cell) == f"With “cut”, {text}"


def test_a_superset_that_is_better_by_a_hair_does_not_object():
    hair = (0.02, -0.01, 0.01, -0.01, 0.0)
    one = verdict_on(made_up(random=MILD, gain=hair))
    assert one.cut.hurts_more_than_a_superset and one.verdict == "shown"


def heads_of(drops: dict[str, float], random: Sequence[float]) -> Cell:
    """Five subjects, cuts of heads of L2 that lower the accuracy by about these drops, and their shared random cuts."""
    noise = np.array([0.0, 0.01, -0.01, 0.02, -0.02])
    scores = tidy(baseline=[0.9] * 5, **{f"all/head/L2{head}": 0.9 - drop + noise for head, drop in drops.items()})
    head = scores["condition"].str.extract(r"H(\d)$")[0].astype(float)
    scores = scores.assign(head=head, layer=head.where(head.isna(), 1.0), edges="all")
    scores["mode"] = head.notna().map({True: "head", False: ""})
    controls = [tidy(**{f"all/head/L2, random {i}": 0.9 - drop + noise}) for i, drop in enumerate(random)]
    return replace(cell_of(scores), controls=pd.concat(controls).assign(control="random", of="all/head/L2"))


def test_all_heads_of_a_layer_are_compared_with_the_same_random_cuts():
    cell = heads_of({"H0": 0.3, "H1": 0.06, "H2": 0.0}, np.linspace(0.03, 0.09, 20))
    ((_, verdicts),) = verdicts_of(findings_with(cell))
    assert [(one.verdict, one.reason) for one in verdicts] == [
        ("shown", ""),
        ("not shown", "random"),
        ("not shown", "zero"),
    ]
    assert {one.n_screened for one in verdicts} == {3} and all(one.cut.shares_random for one in verdicts)
    text = sentence(verdicts[0], cell)
    assert text.startswith("With edges of head H0 in L2 cut, accuracy falls by 30.0 pp")
    assert text.endswith("20 of 20 size-matched random cuts in L2 hurt less (p < .001, corrected for 3 cuts of heads).")
    answers = answers_to_questions(findings_with(cell))
    assert answers[SUMMARY][0].startswith("1 of 3 ablations with random controls has a clear and specific effect")
    assert answers[PLACES][0].startswith(
        "1 of 3 cuts of a single head has a clear and specific effect: edges of head H0"
    )
    assert list(layout_ranking(cell, verdicts)["Verdict"]) == ["shown", "not shown", "not shown"]
    assert [text.get_text() for text in figure_heads(cell, verdicts).axes[0].texts] == ["•"]


def test_of_many_heads_with_an_effect_the_sentence_names_the_largest():
    cell = heads_of({f"H{k}": 0.3 + k / 100 for k in range(6)}, np.linspace(0.03, 0.09, 20))
    text = answers_to_questions(findings_with(cell))[PLACES][0]
    assert "6 of 6 cuts" in text and text.count("edges of head") == 3 and "edges of head H5 in L2 35.0 pp" in text
    assert text.endswith("; 3 more in the table of verdicts.")


def test_heads_and_other_ablations_are_two_families():
    heads, other = heads_of({"H0": 0.3}, np.linspace(0.03, 0.09, 20)), without_superset(random=MILD)
    (_, (head,)), (_, (cut, _)) = verdicts_of(findings_with(heads, other))
    assert (head.n_screened, cut.n_screened) == (1, 1) and head.p_random < 0.001 < cut.p_random


def test_structural_nulls_have_no_verdict_and_equal_conditions_have_one():
    scores = tidy(baseline=[0.9, 0.8, 0.9, 0.85, 0.8], a=[0.5] * 5, b=[0.5] * 5, null=[0.9, 0.8, 0.9, 0.85, 0.8])
    same = scores["condition"].map({"baseline": "baseline", "a": "a", "b": "a", "null": "baseline"})
    scores = scores.assign(structural_null=scores["condition"] == "null", equivalent_to=same)
    table = verdict_table(findings_with(cell_of(scores)))
    assert table["condition"].tolist() == ["a"]
    assert set(table) == {
        *("condition", "verdict", "drop", "low", "high", "unit", "p", "p_random", "controls", "sentence")
    }


def test_the_answers_are_the_verdicts_by_question():
    text = answers_to_questions(findings_with(without_superset(random=MILD)))
    assert list(text) == [SUMMARY, EDGES, OTHERS]
    assert text[SUMMARY] == [
        "1 of 1 ablation with random controls has a clear and specific effect: all cross edges cut."
    ]
    assert text[EDGES][0].startswith("With all cross edges cut, accuracy falls by 35.0 pp")
    assert text[EDGES][0].endswith(
        "If, in addition, no other token may attend to CLS, accuracy is 0.300. What CLS itself attends to does not"
        " change."
    )


def test_a_larger_drop_that_is_not_shown_is_named_next_to_the_shown_layers():
    low, noise = np.array([0.5, 0.4, 0.45, 0.5, 0.4]), np.array([0.0, 0.01, -0.01, 0.02, -0.02])
    values = {"a": low + noise, "b": low - 0.1 + noise, "null": low + 0.4}
    scores = tidy(baseline=low + 0.4, **values)
    layer = scores["condition"].map({"a": 0.0, "b": 1.0, "null": 2.0})
    scores = scores.assign(layer=layer, mode=layer.notna().map({True: "individual", False: ""}), edges="unimodal")
    scores["structural_null"] = scores["condition"].isin(["baseline", "null"])
    scores["equivalent_to"] = scores["condition"].replace("null", "baseline")
    lost = {"a": [0.1] * 20, "b": [0.6, *[0.2] * 19]}
    controls = [
        tidy(**{f"{of}, {i}": low + 0.4 - x + noise}).assign(control="random", of=of)
        for of, some in lost.items()
        for i, x in enumerate(some)
    ]
    cell = replace(cell_of(scores), controls=pd.concat(controls))
    (text,) = answers_to_questions(findings_with(cell))[PLACES]
    assert text.startswith(
        "1 of 2 cuts of a single layer (without 1 structural null, which cannot have an effect) has a clear and"
        " specific effect: unimodal edges of L1 40.0 pp (95 % CI ["
    )
    assert "). The largest drop, 50.0 pp (95 % CI [" in text
    assert text.endswith(") for unimodal edges of L2, is not shown: not clearly above random controls.")


def test_layers_are_named_with_their_drops_or_the_largest_with_its_objection():
    def cell_with(random):
        scores = tidy(baseline=[0.9, 0.8, 0.9, 0.85, 0.8], a=[0.5, 0.4, 0.45, 0.5, 0.4], b=[0.9, 0.8, 0.9, 0.85, 0.79])
        layer = scores["condition"].map({"a": 0.0, "b": 1.0})
        scores = scores.assign(
            layer=layer, mode=layer.notna().map({True: "individual", False: ""}), edges="cross_modal"
        )
        controls = [tidy(**{f"a, {i}": [x] * 5}).assign(control="random", of="a") for i, x in enumerate(random)]
        return replace(cell_of(scores), controls=pd.concat(controls)) if controls else cell_of(scores)

    (shown,) = answers_to_questions(findings_with(cell_with([0.8] * 19 + [0.7])))[PLACES]
    assert shown.startswith(
        "1 of 2 cuts of a single layer has a clear and specific effect: cross-modal edges of L1 40.0 pp"
    )
    (largest,) = answers_to_questions(findings_with(cell_with([])))[PLACES]
    assert largest.startswith("No cut of a single layer has random controls. The largest drop")
    assert (
        "is for cross-modal edges of L1. Whether it is specific is open: the cut has every edge of its kinds" in largest
    )
    one_subject = tidy(baseline=[0.9], a=[0.5]).assign(
        edges="cross_modal", layer=[np.nan, 0.0], mode=["", "individual"]
    )
    (text,) = answers_to_questions(findings_with(cell_of(one_subject)))[PLACES]
    assert text.endswith("40.0 pp, is for cross-modal edges of L1."), (
        "without an interval there is no verdict to explain"
    )


@pytest.mark.parametrize("ways", [("resample", "mean"), ("mean",)])
def test_removed_sensors_are_answered_with_the_signals_of_another_trial_if_the_study_has_them(ways):
    values = {f"ACC {by}": [0.5, 0.4, 0.45, 0.5, 0.4] for by in ways}
    scores = tidy(baseline=[0.9, 0.8, 0.9, 0.85, 0.8], **values)
    removed = scores["condition"] != "baseline"
    scores = scores.assign(mode=removed.map({True: "removal", False: ""}), edges="acc", by=None)
    scores.loc[removed, "by"] = scores.loc[removed, "condition"].str.removeprefix("ACC ")
    cell = cell_of(scores, tags=("edges", "mode", "by"))
    (text,) = answers_to_questions(findings_with(cell))[SENSORS]
    assert text.startswith(f"With ACC {ways[0]}, accuracy falls by 40.0 pp (95 % CI [")


def test_one_sensor_removed_comes_before_all_but_one_removed():
    scores = tidy(
        baseline=[0.9, 0.8, 0.9, 0.85, 0.8],
        **{"all but ACC removed": [0.1] * 4 + [0.2], "EMG removed": [0.5] * 4 + [0.6]},
    )
    of = {"baseline": "", "all but ACC removed": "emg and gyro", "EMG removed": "emg"}
    scores = scores.assign(mode="removal", edges=scores["condition"].map(of), by="resample")
    scores.loc[scores["condition"] == "baseline", ["mode", "by"]] = ""
    findings = findings_with(cell_of(scores, tags=("edges", "mode", "by")))
    texts = answers_to_questions(findings)[SENSORS]
    assert [text.partition(",")[0] for text in texts] == ["With EMG removed", "With all but ACC removed"]
    assert list(ANSWERS.tables(findings)["Verdicts"]["Ablation"]) == ["EMG removed", "all but ACC removed"]
    labels = [label.get_text() for label in ANSWERS.figures(findings)["answers"].axes[0].get_yticklabels()]
    assert labels[1:] == ["EMG removed", "all but ACC removed"]


@pytest.mark.parametrize(("removed", "says_so"), [("acc", True), ("emg channels 1-2", False)])
def test_only_for_a_removed_sensor_random_removals_also_hit_other_sensors(removed, says_so):
    scores = tidy(baseline=[0.9, 0.8, 0.9, 0.85, 0.8], cut=[0.5, 0.4, 0.45, 0.5, 0.4])
    gone = scores["condition"] == "cut"
    scores = scores.assign(mode=gone.map({True: "removal", False: ""}), edges=removed)
    random = [[0.3, 0.31, 0.29, 0.3, 0.3], *[[0.8, 0.7, 0.8, 0.75, 0.7]] * 19]
    controls = [tidy(**{f"cut, {i}": some}).assign(control="random", of="cut") for i, some in enumerate(random)]
    cell = replace(cell_of(scores), controls=pd.concat(controls))
    text = sentence(verdict_on(cell, "cut"), cell)
    assert "1 of 20 random removals of as many channels hurt as much or more, so this drop is not specific" in text
    assert ("so they cannot show which sensor matters." in text) == says_so


def test_no_sentence_says_that_edges_carry_or_need_or_prove_anything():
    for cell in (
        made_up(),
        without_superset(random=MILD),
        made_up(random=()),
        cell_of(tidy(baseline=[0.9], cut=[0.5])),
    ):
        for question in answers_to_questions(findings_with(cell)).values():
            for text in question:
                assert not {"carry", "carries", "need", "prove", "proves", "bound"} & set(text.split()), text
    assert FUSION != EDGES
