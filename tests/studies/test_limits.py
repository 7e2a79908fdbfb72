"""The sections "Shown" and "Not shown" of a report: "Shown" holds only what every control supports."""

from dataclasses import replace

import pytest
from synthetic import by_factors, cell_of, findings_of, tidy
from test_controls import made_up

from emg_lens.data.leakage import SHARED, Leakage
from emg_lens.data.pre_onset import Decodability
from emg_lens.studies.report.limits import NOTHING_SHOWN, not_shown_of, shown_of, what_is_not_shown, what_is_shown
from emg_lens.studies.statistics.spec import StatisticsSpec

NO_GAIN = (-0.1, -0.11, -0.09, -0.1, -0.12)


def test_a_specific_effect_is_shown_if_no_control_objects():
    cell = made_up(gain=NO_GAIN, random=((0.9,) * 5, (0.85,) * 5) * 10)
    (text,) = shown_of(cell)
    assert "20 of 20 size-matched random cuts hurt less (0.850 to 0.900)." in text
    assert "accuracy changes by −35.0 pp" in text and "to 0.600." in text
    assert "No superset ablation (1 was run) hurts less on average." in text
    assert not [sentence for sentence in not_shown_of(cell) if "cannot be attributed" in sentence]


@pytest.mark.parametrize(
    ("changed", "objection"),
    [
        ({"random": ((0.9,) * 5, (0.4,) * 5), "gain": NO_GAIN}, "1 of 2 size-matched random cuts hurt as much or more"),
        (
            {"random": ((0.6, 0.5, 0.7, 0.55, 0.65),), "gain": NO_GAIN},
            "1 of 1 size-matched random cuts hurt as much or more",
        ),
        ({"random": ((0.9,) * 5,) * 20}, "a superset ablation hurts less"),
        ({"random": ((0.9,) * 5,) * 5, "gain": NO_GAIN}, "only 5 of at least 19 size-matched random cuts were run"),
        (
            {"random": ((0.9,) * 5,) * 20, "gain": (0.3, -0.01, 0.01, -0.01, 0.01)},
            "a superset ablation hurts less on average, but not clearly",
        ),
        ({"random": (), "gain": NO_GAIN}, "no random control was run"),
    ],
)
def test_an_effect_is_not_attributed_if_one_control_objects(changed, objection):
    cell = made_up(**changed)
    assert not list(shown_of(cell))
    assert any(
        objection in sentence and "cannot be attributed to these edges" in sentence for sentence in not_shown_of(cell)
    )


def test_a_cut_without_a_detectable_drop_shows_nothing():
    cell = made_up(cross=(0.96, 0.94, 0.95, 0.94, 0.96), gain=NO_GAIN, random=((0.95,) * 5,))
    assert not list(shown_of(cell))
    assert any(
        one.startswith("No detectable drop: cross") and "CI [" in one and "do nothing" in one
        for one in not_shown_of(cell)
    )


def test_a_drop_without_controls_is_not_interpreted():
    cell = cell_of(tidy(baseline=[0.95] * 5, zeroed=[0.6, 0.5, 0.7, 0.55, 0.65]))
    assert not list(shown_of(cell))
    assert "zeroed: no control was run; this drop is not interpreted." in list(not_shown_of(cell))


def test_indirect_paths_nulls_and_too_few_subjects_are_not_shown():
    cell = made_up()
    text = " ".join(not_shown_of(cell))
    assert "Information can still pass through CLS. Accuracy with that path open and closed" in text
    assert "0.600 and 0.300" in text
    three = cell_of(tidy(baseline=[0.9, 0.8, 0.9], cut=[0.5, 0.4, 0.6]))
    assert any(
        "With 3 subjects, no test in a family of one test can reach p < .05" in one for one in not_shown_of(three)
    )
    scores = tidy(baseline=[0.9] * 5, null=[0.9] * 5)
    null = scores["condition"] == "null"
    scores = scores.assign(
        mode=null.map({True: "individual", False: ""}), layer=null.map({True: 4.0, False: float("nan")})
    )
    scores = scores.assign(edges="unimodal", structural_null=True, equivalent_to="baseline")
    assert any(one.startswith("Not testable: Uni L5.") for one in not_shown_of(cell_of(scores)))


def test_pre_onset_decodability_and_shared_subjects_are_reported():
    report = Leakage(
        1, 10, 12, {what: 0 for what in SHARED} | {"subject": 10}, (Decodability("all", 0.6, 0.9, 0.1, 10),), 0.5
    )
    text = " ".join(not_shown_of(replace(cell_of(tidy(baseline=[0.9, 0.8])), leakage=report)))
    assert "decodes the class before movement onset with accuracy 0.60 (chance 0.10)" in text
    assert "the test subjects are also in the training set" in text
    weak = replace(report, decodability=(Decodability("all", 0.15, 0.9, 0.1, 10),))
    assert "before movement onset" not in " ".join(
        not_shown_of(replace(cell_of(tidy(baseline=[0.9, 0.8])), leakage=weak))
    )


def test_above_chance_is_counted_over_subjects():
    (text,) = shown_of(cell_of(tidy(baseline=[0.9, 0.8, 0.1], cut=[0.9, 0.8, 0.1]), chance=0.2))
    assert "above chance (0.200) for 2 of 3 subjects" in text


def test_a_report_says_if_no_cut_has_a_clear_and_specific_effect():
    cut = findings_of(tidy(baseline=[0.95] * 5, zeroed=[0.6, 0.5, 0.7, 0.55, 0.65]).assign(accuracy_chance=0.2))
    above, of_cuts = what_is_shown(cut)
    assert above.startswith("Unmasked models: mean accuracy") and of_cuts == NOTHING_SHOWN
    assert NOTHING_SHOWN not in what_is_shown(findings_of(tidy(baseline=[0.95] * 5).assign(accuracy_chance=0.2)))
    four = findings_of(tidy(baseline=[0.95] * 4, zeroed=[0.6, 0.5, 0.7, 0.55]).assign(accuracy_chance=0.2))
    assert NOTHING_SHOWN not in what_is_shown(four), "without an interval, absence of an effect is not shown either"
    assert any(one.startswith("Whether any cut has an effect: with 4 subjects") for one in what_is_not_shown(four))


def test_levels_are_named_where_they_differ_and_seeds_and_data_sets_are_counted():
    levels = {("both",): (0.9, 0.8, 0.7), ("emg",): (0.5, 0.6, 0.4)}
    findings = findings_of(by_factors(levels, ["sensors"]), factors={"sensors": {"both": {}, "emg": {}}})
    assert what_is_shown(findings) == []
    text = what_is_not_shown(findings)
    assert any("variation between seeds" in one for one in text) and any(one.startswith("One data set") for one in text)
    seeded = findings_of(by_factors({("0",): (0.9, 0.8), ("1",): (0.9, 0.8)}, ["seed"]), factors={"seed": 2})
    assert not any("variation between seeds" in one for one in what_is_not_shown(seeded))


def test_levels_differ_only_if_the_interval_excludes_zero():
    levels = {
        ("both",): (0.9, 0.8, 0.7, 0.85, 0.8),
        ("emg",): (0.5, 0.6, 0.4, 0.5, 0.45),
        ("acc",): (0.95, 0.7, 0.75, 0.85, 0.8),
    }
    findings = findings_of(
        by_factors(levels, ["sensors"]),
        factors={"sensors": {"both": {}, "emg": {}, "acc": {}}},
        statistics={"compare": [{"factor": "sensors", "to": "both"}]},
    )
    (shown,) = what_is_shown(findings)
    assert shown.startswith("Unmasked models, sensors emg compared with both: −32.0 pp (95 % CI [")
    assert "), 5 subjects" in shown
    (left,) = [one for one in what_is_not_shown(findings) if one.startswith("No detectable difference between levels")]
    assert "sensors acc compared with both" in left and "emg compared" not in left
    assert "does not show that they are equal" in left
    exact = {"test": "wilcoxon", "compare": [{"factor": "sensors", "to": "both"}]}
    text = what_is_not_shown(
        replace(findings, study=findings.study.model_copy(update={"statistics": StatisticsSpec(**exact)}))
    )
    assert any(one.startswith("Between levels: With 5 subjects, no test in a family of 2 tests") for one in text)
