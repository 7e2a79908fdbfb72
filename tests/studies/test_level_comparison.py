"""Levels of a factor against each other: paired by subject, seeds averaged first."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic import by_factors, findings_of

from emg_lens.studies.statistics.comparison import StatisticsError, compare, compare_levels
from emg_lens.studies.statistics.spec import LevelComparison, StatisticsSpec

QUICK = StatisticsSpec(test="wilcoxon")
TO_BOTH = LevelComparison(factor="sensors", to="both")
BOTH = [0.9, 0.8, 0.85, 0.95, 0.7, 0.75]
EMG = [0.81, 0.74, 0.86, 0.91, 0.5, 0.6]
ACC = [0.41, 0.3, 0.53, 0.47, 0.36, 0.2]


def sensors(**levels: list[float]) -> pd.DataFrame:
    return by_factors({(level,): values for level, values in levels.items()}, ["sensors"])


def test_means_differences_and_p_of_a_hand_made_case():
    table = compare_levels(sensors(both=BOTH, emg=EMG, acc=ACC), QUICK, TO_BOTH, metric="accuracy", factors=["sensors"])
    assert list(table.columns[:3]) == ["factor", "level", "to"]
    assert table[["factor", "level", "to"]].to_numpy().tolist() == [
        ["sensors", "emg", "both"],
        ["sensors", "acc", "both"],
    ]
    assert (table["n_subjects"] == 6).all() and (table["family_size"] == 2).all()
    for row, values in zip(table.to_dict("records"), (EMG, ACC), strict=True):
        change = np.subtract(values, BOTH)
        assert row["mean"] == pytest.approx(np.mean(values)) and row["baseline_mean"] == pytest.approx(np.mean(BOTH))
        assert row["difference"] == pytest.approx(100 * change.mean()) and row["unit"] == "pp"
        p = stats.wilcoxon(change, method="exact").pvalue
        assert row["p_wilcoxon"] == pytest.approx(p)
        assert row["p_mann_whitney"] == pytest.approx(stats.mannwhitneyu(values, BOTH, method="exact").pvalue)
        flip = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert row["p_sign_flip"] == pytest.approx(flip.pvalue)
        assert row["p_corrected"] == pytest.approx(min(1, 2 * p))


def test_it_is_paired_by_subject_whatever_the_order_of_the_rows():
    scores = sensors(both=BOTH, emg=EMG)
    options = {"metric": "accuracy", "factors": ["sensors"]}
    straight = compare_levels(scores, QUICK, TO_BOTH, **options)
    shuffled = compare_levels(scores.sample(frac=1, random_state=1), QUICK, TO_BOTH, **options)
    pd.testing.assert_frame_equal(straight, shuffled)


def test_only_unmasked_models_are_compared():
    scores = sensors(both=BOTH, emg=EMG)
    cut = scores.assign(condition="cut", accuracy=0.0)
    options = {"metric": "accuracy", "factors": ["sensors"]}
    with_cut = compare_levels(pd.concat([cut, scores]), QUICK, TO_BOTH, **options)
    pd.testing.assert_frame_equal(with_cut, compare_levels(scores, QUICK, TO_BOTH, **options))


def test_seeds_are_averaged_within_the_subject_first():
    # s0: both .6 (of .5, .7), emg .4; s1: both .9, emg .8 (of .7, .8, .9). By rows the difference would be otherwise.
    rows = [
        ("both", "s0", 0.5), ("both", "s0", 0.7), ("emg", "s0", 0.4),
        ("both", "s1", 0.9), ("emg", "s1", 0.7), ("emg", "s1", 0.8), ("emg", "s1", 0.9),
    ]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["sensors", "subject", "accuracy"]).assign(condition="baseline")
    row = compare_levels(scores, QUICK, TO_BOTH, metric="accuracy", factors=["sensors"]).iloc[0]
    assert row["mean"] == pytest.approx(0.6) and row["baseline_mean"] == pytest.approx(0.75)
    assert row["difference"] == pytest.approx(-15) and row["n_subjects"] == 2


def test_other_factors_make_comparisons_of_their_own():
    values = {("a", "both"): BOTH, ("a", "emg"): EMG, ("b", "both"): EMG, ("b", "emg"): ACC}
    scores = by_factors(values, ["architecture", "sensors"])
    table = compare_levels(scores, QUICK, TO_BOTH, metric="accuracy", factors=["architecture", "sensors"])
    assert list(table["architecture"]) == ["a", "b"] and (table["family_size"] == 1).all()
    assert table["difference"].to_numpy() == pytest.approx(
        [100 * np.subtract(EMG, BOTH).mean(), 100 * np.subtract(ACC, EMG).mean()]
    )


def test_an_error_is_compared_in_its_own_unit():
    scores = by_factors({("both",): [2.0, 4.0], ("emg",): [3.0, 6.0]}, ["sensors"], "mae")
    row = compare_levels(scores, QUICK, TO_BOTH, metric="mae", factors=["sensors"]).iloc[0]
    assert row["difference"] == pytest.approx(1.5) and row["unit"] == "target"


def test_a_level_may_be_called_baseline():
    """Once it was averaged with the level it was compared with."""
    scores = sensors(baseline=EMG, both=BOTH)
    row = compare_levels(scores, QUICK, TO_BOTH, metric="accuracy", factors=["sensors"]).iloc[0]
    assert row["level"] == "baseline" and row["family_size"] == 1
    assert row["difference"] == pytest.approx(100 * np.subtract(EMG, BOTH).mean())


@pytest.mark.parametrize("missing", ["emg", "both"])
def test_levels_over_different_subjects_are_refused_in_one_line(missing):
    scores = sensors(both=BOTH, emg=EMG)
    scores = scores[~((scores["sensors"] == missing) & (scores["subject"] == "s3"))]
    with pytest.raises(StatisticsError, match=rf"sensors '{missing}' has no score for subject\(s\) s3") as error:
        compare_levels(scores, QUICK, TO_BOTH, metric="accuracy", factors=["sensors"])
    assert "\n" not in str(error.value)


def test_a_level_that_no_fit_has_is_refused_in_one_line():
    with pytest.raises(StatisticsError, match="scores have no rows of sensors 'both'"):
        compare_levels(sensors(emg=EMG), QUICK, TO_BOTH, metric="accuracy", factors=["sensors"])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=2, max_size=7))
def test_the_other_way_round_is_the_same_p_and_the_opposite_difference(pairs):
    one, other = (list(np.array(values) / 20) for values in zip(*pairs, strict=True))
    scores = sensors(a=one, b=other)
    rows = [
        compare_levels(
            scores, QUICK, LevelComparison(factor="sensors", to=to), metric="accuracy", factors=["sensors"]
        ).iloc[0]
        for to in ("a", "b")
    ]
    assert rows[0]["difference"] == pytest.approx(-rows[1]["difference"])
    assert rows[0]["p_wilcoxon"] == pytest.approx(rows[1]["p_wilcoxon"])


def test_it_is_the_comparison_with_a_baseline_by_another_name():
    scores = sensors(both=BOTH, emg=EMG, acc=ACC)
    renamed = scores.assign(condition=scores["sensors"].replace("both", "baseline")).drop(columns="sensors")
    levels = compare_levels(scores, QUICK, TO_BOTH, metric="accuracy", factors=["sensors"])
    conditions = compare(renamed, QUICK.model_copy(update={"family": "all"}))
    same = [c for c in levels if c in conditions]
    pd.testing.assert_frame_equal(levels[same], conditions[same])


def test_a_study_asks_for_its_comparisons():
    factors = {"sensors": {"both": {}, "emg": {}}, "d": {"16": {}, "64": {}}}
    values = {("both", "16"): BOTH, ("both", "64"): BOTH, ("emg", "16"): EMG, ("emg", "64"): ACC}
    asked = [{"factor": "sensors", "to": "both"}, {"factor": "d", "to": "16"}]
    statistics = {"compare": asked}
    findings = findings_of(by_factors(values, ["sensors", "d"]), factors=factors, statistics=statistics)
    table = findings.level_tests
    assert list(table["factor"]) == ["sensors", "sensors", "d", "d"]
    assert table["d"].fillna("").tolist() == ["16", "64", "", ""]
    assert table["difference"].to_numpy() == pytest.approx(
        [
            100 * d
            for d in (np.subtract(EMG, BOTH).mean(), np.subtract(ACC, BOTH).mean(), 0, np.subtract(ACC, EMG).mean())
        ]
    )
    without = findings_of(by_factors(values, ["sensors", "d"]), factors=factors)
    assert without.level_tests.empty
