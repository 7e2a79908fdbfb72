"""What a report says is shown, and what it says is not: only what every control allows stands under the first."""

from dataclasses import replace

import pytest
from synthetic import by_factors, cell_of, findings_of, tidy
from test_controls import made_up

from emg_lens.data.leakage import SHARED, Leakage
from emg_lens.data.pre_onset import Told
from emg_lens.studies.report.limits import NOTHING_SHOWN, not_shown_of, shown_of, what_is_not_shown, what_is_shown
from emg_lens.studies.statistics.spec import StatisticsSpec

NO_GAIN = (-0.1, -0.11, -0.09, -0.1, -0.12)


def test_a_price_is_shown_where_no_control_objects():
    cell = made_up(gain=NO_GAIN, random=((0.9,) * 5, (0.85,) * 5) * 10)
    (said,) = shown_of(cell)
    assert "the price is more than that of any of 20 random cuts" in said
    assert "accuracy 0.600; theirs 0.850 to 0.900" in said
    assert "each of 1 larger cuts costs as much or more on the mean" in said
    assert not [sentence for sentence in not_shown_of(cell) if "is open" in sentence]


@pytest.mark.parametrize(
    ("changed", "objection"),
    [
        ({"random": ((0.9,) * 5, (0.4,) * 5), "gain": NO_GAIN}, "1 of 2 random cuts cost as much or more"),
        ({"random": ((0.6, 0.5, 0.7, 0.55, 0.65),), "gain": NO_GAIN}, "1 of 1 random cuts cost as much or more"),
        ({"random": ((0.9,) * 5,) * 20}, "a larger cut costs less"),
        ({"random": ((0.9,) * 5,) * 5, "gain": NO_GAIN}, "5 random cuts are too few to tell from luck"),
        (
            {"random": ((0.9,) * 5,) * 20, "gain": (0.3, -0.01, 0.01, -0.01, 0.01)},
            "a larger cut costs less on the mean, if not beyond chance",
        ),
        ({"random": (), "gain": NO_GAIN}, "no random cuts stand beside it"),
    ],
)
def test_one_control_that_objects_leaves_a_price_open(changed, objection):
    cell = made_up(**changed)
    assert not list(shown_of(cell))
    assert any(objection in sentence and "is open" in sentence for sentence in not_shown_of(cell))


def test_a_cut_that_costs_nothing_shows_nothing_either():
    cell = made_up(cross=(0.96, 0.94, 0.95, 0.94, 0.96), gain=NO_GAIN, random=((0.95,) * 5,))
    assert not list(shown_of(cell))
    assert any(one.startswith("No change is found of") and "do nothing" in one for one in not_shown_of(cell))


def test_a_price_without_controls_is_told_to_have_none():
    cell = cell_of(tidy(baseline=[0.95] * 5, zeroed=[0.6, 0.5, 0.7, 0.55, 0.65]))
    assert not list(shown_of(cell))
    assert "What the prices of zeroed are worth: no control stands beside them." in list(not_shown_of(cell))


def test_detours_nulls_and_subjects_too_few_are_left_open():
    cell = made_up()
    said = " ".join(not_shown_of(cell))
    assert "can pass through CLS. With CLS read and unread" in said and "0.600 and 0.300" in said
    three = cell_of(tidy(baseline=[0.9, 0.8, 0.9], cut=[0.5, 0.4, 0.6]))
    assert any("3 subjects cannot reach it" in one for one in not_shown_of(three))
    scores = tidy(baseline=[0.9] * 5, null=[0.9] * 5)
    null = scores["condition"] == "null"
    scores = scores.assign(
        mode=null.map({True: "individual", False: ""}), layer=null.map({True: 4.0, False: float("nan")})
    )
    scores = scores.assign(edges="unimodal", structural_null=True, equivalent_to="baseline")
    assert any(one.startswith("Nothing about L5 Uni") for one in not_shown_of(cell_of(scores)))


def test_what_is_told_before_the_movement_and_shared_subjects_are_said():
    report = Leakage(1, 10, 12, {what: 0 for what in SHARED} | {"subject": 10}, (Told("all", 0.6, 0.9, 0.1, 10),), 0.5)
    said = " ".join(not_shown_of(replace(cell_of(tidy(baseline=[0.9, 0.8])), leakage=report)))
    assert "before it begins its class is told with an accuracy of 0.60 (chance 0.10)" in said
    assert "test trials are of subjects who were trained on" in said
    weak = replace(report, told=(Told("all", 0.15, 0.9, 0.1, 10),))
    assert "before it begins" not in " ".join(not_shown_of(replace(cell_of(tidy(baseline=[0.9, 0.8])), leakage=weak)))


def test_above_chance_is_counted_over_subjects():
    (said,) = shown_of(cell_of(tidy(baseline=[0.9, 0.8, 0.1], cut=[0.9, 0.8, 0.1]), chance=0.2))
    assert "above chance (0.200) for 2 of 3 subjects" in said


def test_where_the_unmasked_models_alone_are_shown_it_says_so_of_the_cuts():
    cut = findings_of(tidy(baseline=[0.95] * 5, zeroed=[0.6, 0.5, 0.7, 0.55, 0.65]).assign(accuracy_chance=0.2))
    above, of_cuts = what_is_shown(cut)
    assert above.startswith("The unmasked models' accuracy") and of_cuts == NOTHING_SHOWN
    assert NOTHING_SHOWN not in what_is_shown(findings_of(tidy(baseline=[0.95] * 5).assign(accuracy_chance=0.2)))


def test_levels_are_named_where_they_differ_and_seeds_and_data_sets_are_counted():
    levels = {("both",): (0.9, 0.8, 0.7), ("emg",): (0.5, 0.6, 0.4)}
    findings = findings_of(by_factors(levels, ["sensors"]), factors={"sensors": {"both": {}, "emg": {}}})
    assert what_is_shown(findings) == []
    said = what_is_not_shown(findings)
    assert any("another seed" in one for one in said) and any(one.startswith("One data set") for one in said)
    seeded = findings_of(by_factors({("0",): (0.9, 0.8), ("1",): (0.9, 0.8)}, ["seed"]), factors={"seed": 2})
    assert not any("another seed" in one for one in what_is_not_shown(seeded))


def test_levels_whose_interval_leaves_zero_are_told_apart_and_the_others_left_open():
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
    assert shown.startswith("Unmasked models, sensors emg against both: −32.0 [") and "pp (95 % CI) over 5" in shown
    (left,) = [one for one in what_is_not_shown(findings) if one.startswith("A difference between levels")]
    assert "sensors acc against both" in left and "emg against" not in left and "no sign that they are equal" in left
    exact = {"test": "wilcoxon", "compare": [{"factor": "sensors", "to": "both"}]}
    said = what_is_not_shown(
        replace(findings, study=findings.study.model_copy(update={"statistics": StatisticsSpec(**exact)}))
    )
    assert any(one.startswith("Between levels: Significance in families of 2 tests: 5 subjects cannot") for one in said)
