"""The section "What this study does not show" of a report."""

from dataclasses import replace

from synthetic import by_factors, cell_of, findings_of, tidy
from test_answers import removals_of
from test_controls import made_up
from test_verdicts import MILD, findings_with, without_superset

from emg_lens.data.leakage import SHARED, Leakage
from emg_lens.data.pre_onset import Decodability
from emg_lens.studies.report.answers import LEVELS, SENSORS, SUMMARY, answers_to_questions
from emg_lens.studies.report.limits import warnings_of_split, what_is_not_shown
from emg_lens.studies.report.terminal import terminal_parts
from emg_lens.studies.results.findings import Cell
from emg_lens.studies.statistics.spec import StatisticsSpec


def not_shown_of(cell: Cell) -> list[str]:
    return what_is_not_shown(findings_with(cell))


def test_effects_are_listed_by_the_reason_why_they_are_not_shown():
    assert not [text for text in not_shown_of(without_superset(random=MILD)) if "cross, every layer 35.0 pp" in text]
    (text,) = [text for text in not_shown_of(made_up(random=MILD)) if "cross, every layer 35.0 pp" in text]
    assert text.startswith(
        "Cutting more (a superset ablation) hurts less, so lost information does not explain all of the drop: cross,"
        " every layer 35.0 pp"
    )
    (text,) = [text for text in not_shown_of(made_up(random=())) if "cross, every layer 35.0 pp" in text]
    assert text.startswith(
        "Too few other sets of this size exist, so it is open whether the drop is specific: cross, every layer 35.0 pp"
    )


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


def test_the_first_screen_warns_of_posture_and_of_blocks_next_to_what_they_weaken():
    emg, acc, both = (Decodability(name, x, 0.9, 0.1, 10) for name, x in (("emg", 0.15), ("acc", 0.5), ("all", 0.6)))
    report = Leakage(1, 10, 12, dict.fromkeys(SHARED, 0), (emg, acc, both), 0.5, 0.88, 0.05)
    cell = replace(removals_of({"EMG": 0.2, "ACC": 0.4}), leakage=report)
    of_model, of_order = warnings_of_split(cell)
    assert "decodes the class before movement onset with accuracy 0.60 (chance 0.10)." in of_model
    assert of_order.startswith("Gestures were recorded in blocks, so posture")
    of_acc, of_emg = answers_to_questions(findings_with(cell))[SENSORS]
    assert "decodes the class from ACC before movement onset with accuracy 0.50 (chance 0.10)." in of_acc
    assert of_emg.startswith("With EMG removed") and "before movement onset" not in of_emg
    screen = " ".join(str(part) for part in terminal_parts(findings_with(cell)))
    assert screen.index(of_model) < screen.index(of_order) < screen.index(SUMMARY)
    (only,) = warnings_of_split(replace(cell, leakage=replace(report, decodability=(acc,), class_repeats=0.05)))
    assert "with accuracy 0.50" in only, "of one sensor there is no entry for all"
    assert not [*warnings_of_split(replace(cell, leakage=None))]


def test_levels_are_named_where_they_differ_and_seeds_and_data_sets_are_counted():
    levels = {("both",): (0.9, 0.8, 0.7), ("emg",): (0.5, 0.6, 0.4)}
    findings = findings_of(by_factors(levels, ["sensors"]), factors={"sensors": {"both": {}, "emg": {}}})
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
    emg, acc = answers_to_questions(findings)[LEVELS]
    assert emg.startswith(
        "sensors “emg” compared with “both”: accuracy 0.490 compared with 0.810, a difference of −32.0 pp"
    )
    assert acc.startswith("sensors “acc” compared with “both”: no clear difference (accuracy 0.810")
    exact = {"test": "wilcoxon", "compare": [{"factor": "sensors", "to": "both"}]}
    text = what_is_not_shown(
        replace(findings, study=findings.study.model_copy(update={"statistics": StatisticsSpec(**exact)}))
    )
    assert any(one.startswith("Between levels: With 5 subjects, no test in a family of 2 tests") for one in text)
