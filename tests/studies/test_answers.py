"""The first screen of a report: the order of its answers, and what it says about removed sensors."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import cell_of, findings_of, tidy
from test_verdicts import findings_with

from emg_lens.studies.report.answers import SENSORS, SUMMARY, answers_to_questions
from emg_lens.studies.report.views.answers import ANSWERS
from emg_lens.studies.report.views.control_effects import layout_control_effects
from emg_lens.studies.results.findings import Cell


def removals_of(drops: dict[str, float], random: float = 0.05, **channels: int) -> Cell:
    """Five subjects; each sensor of `drops` is removed, and twenty random removals of each lose `random`."""
    noise = np.array([0.0, 0.01, -0.01, 0.02, -0.02])
    scores = tidy(baseline=[0.9] * 5, **{f"{name} removed": 0.9 - drop + noise for name, drop in drops.items()})
    scores["edges"] = scores["condition"].str.removesuffix(" removed").str.lower()
    removed = scores["condition"] != "baseline"
    scores["mode"], scores["by"] = np.where(removed, "removal", ""), np.where(removed, "resample", "")
    controls = [
        tidy(**{f"{name} removed, random {k}": 0.9 - random - k / 1000 + noise}).assign(
            control="random", of=f"{name} removed"
        )
        for name in drops
        for k in range(20)
    ]
    cell = cell_of(scores, tags=("edges", "mode", "by"))
    return replace(cell, controls=pd.concat(controls), channels=channels)


def test_the_summary_names_the_largest_drop_first():
    summary = answers_to_questions(findings_with(removals_of({"EMG": 0.2, "ACC": 0.4, "GYRO": 0.3})))[SUMMARY]
    assert summary[0].endswith("clear and specific effect: ACC removed, GYRO removed, EMG removed.")


@pytest.mark.parametrize("random", [0.5, 0.05])
def test_random_removals_do_not_judge_a_sensor_with_most_channels(random):
    cell = removals_of({"EMG": 0.4, "ACC": 0.2}, random, emg=16, acc=3)
    answers = answers_to_questions(findings_with(cell))
    assert answers[SUMMARY][0].startswith(f"{int(random < 0.2)} of 1 ablation with random controls")
    assert answers[SUMMARY][1] == "No random control can judge EMG removed (drop 40.0 pp), which takes most channels."
    (of_emg,) = [text for text in answers[SENSORS] if text.startswith("With EMG removed")]
    assert "open: the removal takes 16 of 19 channels, and random removals of as many take most of the same" in of_emg
    row = ANSWERS.tables(findings_with(cell))["Verdicts"].set_index("Ablation").loc["EMG removed"]
    assert (row["Verdict"], row["Random controls that hurt less"], row["p"]) == ("no control", "–", "–")


def test_half_of_the_channels_have_random_removals():
    cell = removals_of({"EMG": 0.4}, 0.5, emg=3, acc=3)
    answers = answers_to_questions(findings_with(cell))
    assert len(answers[SUMMARY]) == 1 and "Most of these random removals" in answers[SENSORS][0]


@pytest.mark.parametrize(("n", "why"), [(1, ": with one channel there are no other channels or edges"), (8, ".")])
def test_the_summary_says_so_if_nothing_has_random_controls(n, why):
    cell = replace(removals_of({"EMG": 0.4}), controls=pd.DataFrame(), channels={"emg": 2 * n - 1, "acc": n - 1})
    (text, *_) = answers_to_questions(findings_with(cell))[SUMMARY]
    assert text.startswith(f"No ablation has enough random controls, so no effect can be shown to be specific{why}")


def test_all_but_one_sensor_with_most_channels_has_no_control():
    cell = removals_of({"EMG and GYRO": 0.4}, emg=8, acc=3, gyro=3)
    (text,) = answers_to_questions(findings_with(cell))[SENSORS]
    assert "open: the removal takes 11 of 14 channels" in text


@pytest.mark.parametrize(("second", "channels"), [(2, {"emg": 2, "acc": 1}), (3, {})], ids=["equal fits", "other fits"])
def test_a_cell_has_the_channels_of_its_fits(second, channels):
    findings = findings_of(tidy(baseline=[0.9, 0.8]))
    findings.facts["modalities"] = [{"emg": 2, "acc": 1}, {"emg": second, "acc": 1}]
    assert findings.cells[0].channels == channels


def test_the_first_removed_sensor_says_what_removed_means():
    cell = removals_of({"EMG": 0.2, "ACC": 0.4})
    texts = answers_to_questions(findings_with(cell, cell))[SENSORS]
    assert texts[0].startswith("With ACC removed") and texts[0].endswith(
        " “Removed” means that signals of a random training trial replace this sensor. A model trained without this"
        " sensor may lose much less."
    )
    assert len(texts) == 4 and not any("“Removed”" in text for text in texts[1:])
    other = replace(cell, tests=cell.tests.assign(by=cell.tests["by"].replace("resample", "mean")))
    assert "“Removed”" not in answers_to_questions(findings_with(other))[SENSORS][0]


def test_a_condition_equal_to_a_removal_is_the_removal():
    cell = removals_of({"ACC": 0.4, "EMG": 0.5}, emg=16, acc=3)
    extra = tidy(**{name: cell.values[f"{name[:3]} removed"] for name in ("ACC resampled", "EMG resampled")})
    extra = extra.assign(equivalent_to=extra["condition"].str.replace("resampled", "removed"))
    scores = pd.concat([extra, cell.scores]).assign(structural_null=False)
    scores["equivalent_to"] = scores["equivalent_to"].fillna(scores["condition"])
    scores[["mode", "by"]] = scores[["mode", "by"]].fillna("")
    cell = replace(cell, scores=scores, tests=cell_of(scores, tags=("edges", "mode", "by")).tests)
    answers = answers_to_questions(findings_with(cell))
    assert [*answers] == [SUMMARY, SENSORS]
    assert "20 of 20 random removals of as many channels hurt less" in answers[SENSORS][0]
    assert "the removal takes 16 of 19 channels" in answers[SENSORS][1]
    table = layout_control_effects(cell).set_index("Ablation")
    assert (
        list(table.index) == ["ACC removed"]
        and table.loc["ACC removed", "Random controls that hurt less"] == "20 of 20"
    )
    assert table.attrs["notes"][0].startswith("A random control of a removal removes as many random channels.")
