"""The first screen of a report: the order of its answers, and what it says about removed sensors."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic import cell_of, findings_of, tidy
from test_verdicts import findings_with

from emg_lens.studies.report.answers import SENSORS, SUMMARY, answers_to_questions
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


@pytest.mark.parametrize(("n_emg", "random"), [(16, 0.5), (3, 0.5), (16, 0.05)], ids=["most", "half", "hurts more"])
def test_random_removals_that_hurt_as_much_cannot_judge_a_sensor_with_most_channels(n_emg, random):
    cell = removals_of({"EMG": 0.4}, random, emg=n_emg, acc=3)
    answers, why = answers_to_questions(findings_with(cell)), "EMG has 16 of 19 channels, so most random removals take"
    if (n_emg, random) == (16, 0.5):
        assert answers[SUMMARY] == [
            "0 of 1 ablation with random controls have a clear and specific effect.",
            f"The random controls cannot judge EMG removed (drop 40.0 pp): {why} its channels too.",
        ]
        assert f"{why} its channels too: they cannot show which sensor matters." in answers[SENSORS][0]
        assert "Most of these" not in answers[SENSORS][0]
    else:
        assert len(answers[SUMMARY]) == 1 and "take its channels" not in answers[SENSORS][0]
        assert ("Most of these random removals" in answers[SENSORS][0]) == (n_emg == 3)


@pytest.mark.parametrize(("second", "channels"), [(2, {"emg": 2, "acc": 1}), (3, {})], ids=["equal fits", "other fits"])
def test_a_cell_has_the_channels_of_its_fits(second, channels):
    findings = findings_of(tidy(baseline=[0.9, 0.8]))
    findings.facts["modalities"] = [{"emg": 2, "acc": 1}, {"emg": second, "acc": 1}]
    assert findings.cells[0].channels == channels


def test_the_first_removed_sensor_says_what_removed_means():
    cell = removals_of({"EMG": 0.2, "ACC": 0.4})
    texts = answers_to_questions(findings_with(cell, cell))[SENSORS]
    assert texts[0].startswith("With ACC removed") and texts[0].endswith(
        " (Removed: the signals of a random training trial in its place; a model trained without this sensor may lose"
        " much less.)"
    )
    assert len(texts) == 4 and not any("Removed:" in text for text in texts[1:])
    other = replace(cell, tests=cell.tests.assign(by=cell.tests["by"].replace("resample", "mean")))
    assert "Removed:" not in answers_to_questions(findings_with(other))[SENSORS][0]
