import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_sweep_table import paper_scores, with_extras
from scipy import stats
from statsmodels.stats.multitest import multipletests
from synthetic import head_scores, tidy

from emg_lens.studies.statistics.comparison import StatisticsError, StatisticsSpec, compare
from emg_lens.studies.statistics.corrections import CORRECTIONS, adjust, stars
from emg_lens.studies.statistics.families import family_sizes
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.studies.statistics.permutation import sign_flip_p
from emg_lens.studies.statistics.power import power_warnings, smallest_p
from emg_lens.studies.statistics.rank_tests import (
    EXACT_FLIPS,
    EXACT_MANN_WHITNEY,
    N_FLIPS,
    TESTS,
    difference,
    p_values,
    paired_rank_biserial,
    u_statistic,
)
from emg_lens.validation import ArgumentError

SPEC = StatisticsSpec()


def cohort(n: int, k: int = 3, seed: int = 0, grain: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies [subject, condition] and [subject, 1]; `grain` makes them fractions with many ties."""
    rng = np.random.default_rng(seed)
    baseline = rng.uniform(0.5, 0.9, (n, 1))
    masked = np.clip(baseline - rng.uniform(-0.1, 0.3, (n, k)), 0, 1)
    if grain is not None:
        masked, baseline = np.round(masked * grain) / grain, np.round(baseline * grain) / grain
    return masked, baseline


# --- one test each ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grain", [None, 34])
def test_mann_whitney_beyond_the_papers_cohort_is_scipys(grain):
    masked, baseline = cohort(EXACT_MANN_WHITNEY + 1, grain=grain)
    expected = [stats.mannwhitneyu(m, baseline[:, 0]).pvalue for m in masked.T]
    assert np.allclose(p_values("mann_whitney", masked, baseline), expected, rtol=1e-9)


@pytest.mark.parametrize(("n", "grain"), [(5, None), (12, None), (10, 10), (12, 10), (40, None)])
def test_wilcoxon_is_scipys_on_the_subjects_that_changed(n, grain):
    masked, baseline = cohort(n, grain=grain)
    changes = [d[d != 0] for d in difference(masked, baseline).T]
    expected = [stats.wilcoxon(d).pvalue for d in changes]
    assert np.allclose(p_values("wilcoxon", masked, baseline), expected)


def test_wilcoxon_of_a_large_cohort_in_which_few_changed_is_exact():
    baseline = np.full((40, 1), 0.9)
    masked = baseline.copy()
    masked[:3] = 0.5
    assert p_values("wilcoxon", masked, baseline)[0] == 2 / 2**3


def test_sign_flip_is_scipys_exact_permutation_test():
    masked, baseline = cohort(8, grain=20)
    for d, p in zip(difference(masked, baseline).T, p_values("sign_flip", masked, baseline), strict=True):
        exact = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert p == pytest.approx(exact.pvalue)


def test_random_sign_flips_agree_with_the_exact_ones_and_are_never_zero():
    masked, baseline = cohort(EXACT_FLIPS + 1, seed=3)
    masked = baseline + 0.12 * (masked - baseline) + np.random.default_rng(0).normal(0, 0.03, masked.shape)
    changes, p_of_changes = difference(masked, baseline).T, p_values("sign_flip", masked, baseline)
    for change, p in zip(changes, p_of_changes, strict=True):
        exact = sign_flip_p(change)
        assert p == pytest.approx(exact, abs=4 * np.sqrt(exact / N_FLIPS) + 2 / N_FLIPS)
    assert p_values("sign_flip", np.zeros((40, 1)), np.ones((40, 1)))[0] == 1 / N_FLIPS


def test_equal_fractions_are_ties_in_spite_of_rounding_errors():
    baseline = np.array([[33 / 34], [2 / 34], [20 / 34], [8 / 34]])
    masked = np.array([[32 / 34], [1 / 34], [19 / 34], [9 / 34]])
    assert len(set(np.abs(masked - baseline).ravel())) > 1, "the example must show the rounding error"
    assert len(set(np.abs(difference(masked, baseline)).ravel())) == 1
    # Three of four equal ranks with one sign: 2 * (4 + 1) of 16 sign vectors are at least as extreme.
    assert p_values("wilcoxon", masked, baseline)[0] == 10 / 16
    assert paired_rank_biserial(difference(masked, baseline))[0] == -0.5


def test_an_unknown_test_is_named_in_the_error():
    with pytest.raises(ValueError, match="unknown test 't'; known: mann_whitney"):
        p_values("t", np.zeros((2, 1)), np.zeros((2, 1)))


def test_effect_sizes_are_positive_where_the_masked_model_is_better():
    higher, lower = np.array([[0.8], [0.9]]), np.array([[0.1], [0.2]])
    assert u_statistic(higher, lower)[0] == 4 and u_statistic(lower, higher)[0] == 0
    assert paired_rank_biserial(higher - lower)[0] == 1
    assert paired_rank_biserial(lower - higher)[0] == -1
    table = compare(tidy(baseline=[0.1, 0.2], better=[0.8, 0.9], worse=[0.0, 0.05]), SPEC)
    assert list(table["rank_biserial"]) == [1, -1]
    assert list(table["rank_biserial_paired"]) == [1, -1]


def test_u_is_scipys():
    masked, baseline = cohort(15, grain=10)
    expected = [stats.mannwhitneyu(m, baseline[:, 0]).statistic for m in masked.T]
    assert np.allclose(u_statistic(masked, baseline), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=7))
def test_swapping_masked_and_baseline_keeps_p_and_turns_the_effect_round(pairs):
    masked, baseline = np.array(pairs, dtype=float).T[:, :, None] / 10
    for test in TESTS:
        p = p_values(test, masked, baseline)[0]
        assert 0 < p <= 1
        assert p == pytest.approx(p_values(test, baseline, masked)[0])
    n = len(pairs)
    assert u_statistic(masked, baseline)[0] + u_statistic(baseline, masked)[0] == n**2
    change = difference(masked, baseline)
    assert paired_rank_biserial(change)[0] == pytest.approx(-paired_rank_biserial(-change)[0])


# --- one condition among others ---------------------------------------------------------------------------


def test_the_interval_of_a_condition_does_not_depend_on_other_conditions():
    scores = paper_scores(10)
    few = scores[scores["condition"].isin(["baseline", "cross_modal/individual/L3"])]
    columns = ["ci_low", "ci_high", "p_mann_whitney", "p_wilcoxon", "p_sign_flip"]
    alone = compare(few, SPEC).set_index("condition")[columns]
    among = compare(scores, SPEC).set_index("condition")[columns]
    pd.testing.assert_frame_equal(alone, among.loc[alone.index])


# --- compare ----------------------------------------------------------------------------------------------


def test_the_numbers_of_a_hand_made_case():
    row = compare(tidy(baseline=[0.8, 1.0], cut=[0.4, 0.7]), SPEC, chance=0.1).iloc[0]
    assert row["mean"] == pytest.approx(0.55) and row["baseline_mean"] == pytest.approx(0.9)
    assert row["delta_percent"] == pytest.approx(100 * (0.55 - 0.9) / 0.9)
    assert row["difference"] == pytest.approx(-35) and row["unit"] == "pp"
    assert row["chance_corrected_drop_percent"] == pytest.approx(100 * 0.35 / 0.8)
    assert row["sd"] == pytest.approx(np.std([0.4, 0.7], ddof=1))
    assert row["n_subjects"] == 2 and row["n_changed"] == 2


def test_the_chance_corrected_drops_are_those_of_the_protocol():
    table = compare(paper_scores(3, spread=0), SPEC, chance=1 / 17).set_index("condition")
    drop = table["chance_corrected_drop_percent"]
    assert drop["cross_modal/from_end/L1"] == pytest.approx(32.5, abs=0.05)
    assert drop["unimodal/from_end/L1"] == pytest.approx(73.4, abs=0.06)


def test_chance_comes_from_the_scores_if_it_is_there():
    scores = paper_scores(3).assign(accuracy_chance=1 / 17)
    assert compare(scores, SPEC)["chance"].iloc[0] == pytest.approx(1 / 17)
    assert compare(scores.drop(columns="accuracy_chance"), SPEC)["chance_corrected_drop_percent"].isna().all()


def test_seeds_are_averaged_and_do_not_count_as_subjects():
    scores = tidy(baseline=[0.8, 0.9, 0.7], cut=[0.5, 0.6, 0.7])
    noise = scores.assign(accuracy=scores["accuracy"] + 0.05)
    quiet = scores.assign(accuracy=scores["accuracy"] - 0.05)
    twice = compare(pd.concat([noise, quiet]), SPEC)
    pd.testing.assert_frame_equal(twice, compare(scores, SPEC))
    assert twice["n_subjects"].iloc[0] == 3


def test_a_cut_that_changes_nothing_has_p_one_and_no_effect():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = compare(tidy(baseline=[0.8, 0.9, 0.7], cut=[0.8, 0.9, 0.7]), SPEC).iloc[0]
    assert [row[f"p_{t}"] for t in TESTS] == [1, 1, 1]
    assert row["stars"] == "ns" and not row["significant"]
    assert row["rank_biserial"] == 0 and row["rank_biserial_paired"] == 0
    assert (row["delta_percent"], row["n_changed"]) == (0, 0) and np.isnan([row["ci_low"], row["ci_high"]]).all()


def test_intervals_of_fractions_are_clipped_at_the_largest_possible_change():
    row = compare(tidy(baseline=[1.0] * 5, cut=[0.0, 0.0, 0.0, 0.0, 0.9]), SPEC).iloc[0]
    assert mean_interval(np.array([-1.0, -1, -1, -1, -0.1]))[0] < -1 and row["ci_low"] == -100


def test_one_subject_gives_a_table_without_significance():
    table = compare(paper_scores(1), SPEC)
    assert (table["p_corrected"] == 1).all() and table["ci_low"].isna().all() and table["sd"].isna().all()


def test_the_order_of_the_rows_does_not_matter():
    scores = paper_scores(6)
    shuffled = compare(scores.sample(frac=1, random_state=0), SPEC).set_index("condition")
    pd.testing.assert_frame_equal(shuffled.sort_index(), compare(scores, SPEC).set_index("condition").sort_index())


def test_scores_read_back_from_csv_give_the_same_numbers(tmp_path):
    scores = with_extras(paper_scores(6), joint=0.5)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    again = compare(pd.read_csv(tmp_path / "scores.csv"), SPEC)
    pd.testing.assert_frame_equal(again, compare(scores, SPEC), check_dtype=False)


def test_expected_accuracies_may_differ_between_subjects_and_are_averaged():
    scores = tidy(baseline=[0.8, 0.9], cut=[0.5, 0.6]).assign(expected=[np.nan, np.nan, 0.4, 0.6])
    assert compare(scores, SPEC)["expected"].iloc[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop(columns="accuracy"), r"have no columns \['accuracy'\]"),
        (lambda s: s[s["condition"] != "baseline"], "no rows of condition 'baseline'"),
        (lambda s: s.assign(accuracy=s["accuracy"] * 100), "expected a number from 0 to 1"),
        (lambda s: s.assign(accuracy=np.nan), "accuracy is nan .* expected a number from 0 to 1"),
        (lambda s: s.assign(subject=s["subject"].where(s["subject"] != "s2")), "31 rows of the scores have no subject"),
        (lambda s: s.iloc[:-1], r"'cross_modal/from_end/L5' has no score for subject\(s\) s3"),
        (lambda s: s.assign(mode=[f"m{i}" for i in range(len(s))]), "several values of 'mode'"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused_in_one_line(change, message):
    with pytest.raises(StatisticsError, match=message) as error:
        compare(change(paper_scores(3)), SPEC)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chance", [-0.1, 1.0, 5.9])
def test_an_impossible_chance_level_is_refused(chance):
    with pytest.raises(StatisticsError, match="expected an accuracy from 0 to below 1"):
        compare(paper_scores(3), SPEC, chance=chance)


def test_a_misspelt_setting_is_refused():
    with pytest.raises(ArgumentError, match="correktion"):
        StatisticsSpec.model_validate({"correktion": "holm"})
    with pytest.raises(ArgumentError):
        StatisticsSpec.model_validate({"test": "t-test"})


# --- other metrics than accuracy, other tags, names that look like missing values ---------------------------


def test_a_metric_that_is_not_a_fraction_keeps_its_unit():
    scores = tidy("mae", baseline=[2.0, 4.0, 3.0, 1.0, 5.0], cut=[5.0, 4.0, 9.0, 2.0, 10.0])
    table = compare(scores, SPEC, metric="mae").iloc[0]
    assert (table["mean"], table["baseline_mean"]) == (6.0, 3.0)
    assert table["difference"] == pytest.approx(3.0) and table["unit"] == "target"
    assert table["delta_percent"] == pytest.approx(100)
    assert (table["ci_low"], table["ci_high"]) == pytest.approx(mean_interval(np.array([3.0, 0, 6, 1, 5])))
    assert np.isnan(table["chance_corrected_drop_percent"])
    assert table["rank_biserial_paired"] == 1, "positive where the value rose, though that is worse"
    assert table["p_wilcoxon"] == pytest.approx(stats.wilcoxon([3.0, 6.0, 1.0, 5.0]).pvalue)


def test_a_relative_change_of_a_baseline_below_zero_means_nothing():
    table = compare(tidy("r2", baseline=[-0.5, 0.1], cut=[-0.7, 0.0]), SPEC, metric="r2").iloc[0]
    assert np.isnan(table["delta_percent"]) and table["difference"] == pytest.approx(-0.15)
    assert table["unit"] == "", "values below 0 and above 1 are not fractions"


def test_chance_is_that_of_the_metric_that_is_compared():
    scores = tidy("macro_f1", baseline=[0.8, 0.9], cut=[0.5, 0.4])
    scores = scores.assign(accuracy_chance=0.3, balanced_accuracy_chance=0.1)
    assert compare(scores, SPEC, metric="macro_f1")["chance"].isna().all()
    scores = scores.rename(columns={"macro_f1": "balanced_accuracy"})
    assert compare(scores, SPEC, metric="balanced_accuracy")["chance"].iloc[0] == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_in_one_line(bad):
    scores = tidy("r2", baseline=[0.5, 0.6], cut=[0.4, bad])
    with pytest.raises(StatisticsError, match=f"r2 is {bad} for condition 'cut', subject s1; expected a finite number"):
        compare(scores, SPEC, metric="r2")


def test_an_error_rate_with_insertions_may_exceed_one_and_its_interval_is_not_cut_off():
    base, cut = [0.0, 0.1, 0.0, 0.1, 0.0], [1.4, 0.9, 1.1, 0.8, 0.9]
    table = compare(tidy("word_error_rate", baseline=base, cut=cut), SPEC, metric="word_error_rate").iloc[0]
    expected = scipy.stats.ttest_1samp(np.subtract(cut, base), 0).confidence_interval()
    assert (table["ci_low"], table["ci_high"]) == pytest.approx((100 * expected.low, 100 * expected.high))
    assert table["ci_high"] > 100 and table["unit"] == "pp"
    with pytest.raises(StatisticsError, match="expected a finite number of at least 0"):
        compare(tidy("word_error_rate", baseline=[0.1, 0.2], cut=[-0.1, 0.2]), SPEC, metric="word_error_rate")


def test_every_tag_survives_the_shipped_ones_and_a_strangers():
    """Issue 10: without the head tag, heads could not be distinguished."""
    scores = head_scores(n_layers=2, n_heads=3).assign(colour=lambda s: s["edges"].map({"every": "red"}))
    table = compare(scores, SPEC, tags=("edges", "mode", "layer", "head", "colour")).set_index("condition")
    assert table.loc["every/head/L2H1", ["layer", "head", "mode", "colour"]].to_list() == [1, 1, "head", "red"]
    assert table["head"].notna().all() and table["colour"].eq("red").all()
    assert (table["family"] == "head").all() and (table["family_size"] == 6).all()


def test_a_tag_or_factor_that_would_hide_a_number_is_refused():
    scores = tidy(baseline=[0.8, 0.9], cut=[0.5, 0.4])
    for name in ("mean", "stars", "n_subjects", "chance"):
        with pytest.raises(StatisticsError, match=f"a factor or tag is named '{name}'"):
            compare(scores.assign(**{name: "x"}), SPEC, tags=(name,))
        with pytest.raises(StatisticsError, match=f"a factor or tag is named '{name}'"):
            compare(scores.assign(**{name: "x"}), SPEC, factors=(name,))


def test_subjects_and_levels_named_like_missing_values_are_subjects_and_levels():
    names = ["NA", "nan", "None", "null", "1"]
    values = [0.9, 0.8, 0.7, 0.6, 0.5]
    scores = tidy(baseline=values, cut=[v - 0.1 for v in values])
    scores["subject"] = scores["subject"].map({f"s{i}": name for i, name in enumerate(names)})
    scores = pd.concat([scores.assign(sensors=level) for level in ("NA", "None")])
    table = compare(scores, SPEC, factors=("sensors",))
    assert list(table["sensors"]) == ["NA", "None"]
    assert list(table["n_subjects"]) == [5, 5] and list(table["n_changed"]) == [5, 5]
    assert table["mean"].to_numpy() == pytest.approx([0.6, 0.6])


# --- factors ----------------------------------------------------------------------------------------------


def test_every_cell_is_compared_by_itself():
    one = tidy(baseline=[0.8, 0.9, 0.7], cut=[0.5, 0.6, 0.7], other=[0.8, 0.8, 0.8])
    two = tidy(baseline=[0.6, 0.5], cut=[0.6, 0.2])
    both = pd.concat([one.assign(sensors="both", site="a"), two.assign(sensors="emg", site="b")])
    table = compare(both, SPEC, factors=("sensors", "site"))
    assert list(table.columns[:3]) == ["sensors", "site", "condition"]
    for part, (sensors, site) in ((one, ("both", "a")), (two, ("emg", "b"))):
        here = table[(table["sensors"] == sensors) & (table["site"] == site)]
        alone = compare(part, SPEC)
        pd.testing.assert_frame_equal(here.drop(columns=["sensors", "site"]).reset_index(drop=True), alone)
    assert list(table["family_size"]) == [2, 2, 1]


def test_seeds_are_averaged_within_the_subject_before_anything_is_compared():
    # Subject s0 has two seeds, s1 one: by rows the baseline's mean is .7, by subjects .75.
    rows = [
        ("s0", "0", "baseline", 0.5), ("s0", "1", "baseline", 0.7), ("s1", "0", "baseline", 0.9),
        ("s0", "0", "cut", 0.3), ("s0", "1", "cut", 0.4), ("s1", "0", "cut", 0.8),
    ]  # fmt: skip
    table = compare(pd.DataFrame(rows, columns=["subject", "seed", "condition", "accuracy"]), SPEC).iloc[0]
    assert table["baseline_mean"] == pytest.approx(0.75) and table["mean"] == pytest.approx(0.575)
    assert table["difference"] == pytest.approx(100 * np.mean([0.35 - 0.6, 0.8 - 0.9]))
    assert table["sd"] == pytest.approx(np.std([0.35, 0.8], ddof=1)) and table["n_subjects"] == 2


# --- families, corrections, stars -------------------------------------------------------------------------


def test_the_paper_has_10_tests_a_mode_30_in_all_and_18_that_can_matter_and_differ():
    scores = paper_scores(3)
    assert family_sizes(scores, "mode") == {"individual": 10, "from_beginning": 10, "from_end": 10}
    assert family_sizes(scores, "all") == {"all": 30}
    assert family_sizes(scores, "distinct") == {"distinct": 18}
    assert family_sizes(compare(scores, SPEC), "distinct") == {"distinct": 18}
    assert family_sizes(with_extras(scores, joint=0.5), "mode")["extra"] == 1


def test_family_sizes_know_conditions_that_were_never_run():
    planned = pd.DataFrame({"condition": ["baseline", "a", "b"], "mode": ["", "individual", "individual"]})
    assert family_sizes(planned, "mode") == {"individual": 2}
    assert family_sizes(planned[["condition"]], "distinct") == {"distinct": 2}
    with pytest.raises(StatisticsError, match="unknown family 'layer'"):
        family_sizes(planned, "layer")


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("test", TESTS)
def test_corrections_are_statsmodels_within_each_family(test, correction):
    table = compare(paper_scores(8), SPEC)
    for _, family in table.groupby("family"):
        expected = multipletests(family[f"p_{test}"], method=correction)[1]
        assert np.allclose(family[f"p_{test}_{correction}"], expected)
        assert (family["family_size"] == 10).all()


def test_the_papers_correction_is_ten_times_p_capped_at_one():
    table = compare(paper_scores(40), SPEC)
    assert np.allclose(table["p_corrected"], np.minimum(10 * table["p_mann_whitney"], 1))
    thresholds = ((1e-4, "****"), (1e-3, "***"), (1e-2, "**"), (0.05, "*"), (np.inf, "ns"))
    drawn = [next(symbol for threshold, symbol in thresholds if p < threshold) for p in table["p_corrected"]]
    assert list(table["stars"]) == drawn
    assert set(table.loc[table["layer"].eq(1), "stars"]) <= {"****", "***"}


def test_stars_begin_strictly_below_their_thresholds():
    values = [0.0, 0.0001, 0.001, 0.01, 0.05, 1.0, np.nan]
    assert [stars(p) for p in values] == ["****", "***", "**", "*", "ns", "ns", "–"]


def test_distinct_leaves_out_structural_nulls_and_counts_equal_conditions_once():
    table = compare(paper_scores(12), StatisticsSpec(family="distinct")).set_index("condition")
    null = table.loc[["unimodal/individual/L5", "cross_modal/from_end/L5"]]
    assert null["p_corrected"].isna().all() and list(null["stars"]) == ["–", "–"]
    assert not null["significant"].any() and (null["family_size"] == 0).all()
    tested = table[~table["structural_null"]]
    assert (tested["family_size"] == 18).all()
    assert np.allclose(tested["p_corrected"], np.minimum(18 * tested["p_mann_whitney"], 1))
    first = table.loc["unimodal/individual/L4"]
    assert table.loc["unimodal/from_end/L4", "p_wilcoxon_holm"] == first["p_wilcoxon_holm"]


def test_other_families_keep_structural_nulls_and_flag_them():
    table = compare(paper_scores(12), SPEC).set_index("condition")
    null = table.loc["unimodal/individual/L5"]
    assert null["structural_null"] and null["stars"] == "ns" and null["p_corrected"] == 1


@pytest.mark.parametrize("test", ["mann-whitney", "wilcoxon", "sign-flip"])
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_the_spec_chooses_which_column_sets_the_stars(test, correction):
    spec = StatisticsSpec(test=test, correction=correction)
    table = compare(paper_scores(10), spec)
    chosen = table[f"p_{test.replace('-', '_')}_{correction}"]
    assert np.array_equal(table["p_corrected"], chosen)
    assert list(table["stars"]) == [stars(p) for p in chosen]


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from(CORRECTIONS))
def test_corrections_are_statsmodels_on_any_family(p, correction):
    assert np.allclose(adjust(np.array(p), correction), multipletests(p, method=correction)[1], rtol=1e-12, atol=1e-300)


def test_an_unknown_correction_is_named_in_the_error():
    with pytest.raises(ValueError, match="unknown correction 'sidak'; known: bonferroni, holm, fdr_bh"):
        adjust(np.array([0.1]), "sidak")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from(CORRECTIONS))
def test_corrected_p_is_no_smaller_never_above_one_and_keeps_the_order(p, correction):
    raw = np.array(p)
    corrected = adjust(raw, correction)
    assert (corrected >= raw - 1e-12).all() and (corrected <= 1).all()
    order = np.argsort(raw)
    assert (np.diff(corrected[order]) >= -1e-12).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), st.sampled_from(CORRECTIONS))
def test_tests_that_were_not_made_do_not_count(p, correction):
    with_gap = adjust(np.array([np.nan, *p]), correction)
    assert np.isnan(with_gap[0]) and np.allclose(with_gap[1:], adjust(np.array(p), correction))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_lies_between_bonferroni_and_benjamini_hochberg(p):
    raw = np.array(p)
    assert (adjust(raw, "holm") <= adjust(raw, "bonferroni") + 1e-12).all()
    assert (adjust(raw, "fdr_bh") <= adjust(raw, "holm") + 1e-12).all()


# --- what a cohort can show at all ------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["mann-whitney", "wilcoxon", "sign-flip"])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 10, 16, 17, 20, 36, 41, 60])
def test_the_smallest_p_that_is_announced_is_that_of_a_perfect_separation(test, n):
    """It was that of the exact Mann-Whitney where its normal approximation was used: 16 times too small at n = 10."""
    announced, baseline = smallest_p(n, 1, StatisticsSpec(test=test)).raw, np.full((n, 1), 0.9)
    alike = p_values(test.replace("-", "_"), baseline - 0.6, baseline)[0]
    assert announced == pytest.approx(alike, rel=1e-9)
    spread = np.linspace(0, 0.05, n)[:, None]
    differing = p_values(test.replace("-", "_"), baseline - 0.6 - spread**1.1, baseline + spread)[0]
    exact = test != "mann-whitney" or n <= EXACT_MANN_WHITNEY
    assert differing == pytest.approx(announced, rel=1e-9) if exact else differing > announced


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 6)] * 2), min_size=n, max_size=n)))
def test_no_cohort_goes_below_the_smallest_p_that_is_announced(pairs):
    masked, baseline = np.array(pairs, dtype=float).T[:, :, None] / 6
    for test in ("mann-whitney", "wilcoxon", "sign-flip"):
        p = p_values(test.replace("-", "_"), masked, baseline)[0]
        assert p >= smallest_p(len(pairs), 1, StatisticsSpec(test=test)).raw * (1 - 1e-9)


def test_a_warning_comes_exactly_where_a_perfect_separation_is_not_significant():
    """Nine subjects were promised what only their normal approximation denied them."""
    for n in range(1, 13):
        spread = np.linspace(0, 0.1, n)[:, None]
        masked, baseline = spread**2, 0.9 + spread
        for size in (1, 10, 30, 1000):
            warned = " ".join(power_warnings(n, [size], StatisticsSpec()))
            for test, name in (("mann_whitney", "Mann-Whitney"), ("wilcoxon", "Wilcoxon")):
                best = adjust(np.r_[p_values(test, masked, baseline), np.ones(size - 1)], "bonferroni")[0]
                assert (f"{name} needs" in warned) == (best >= 0.05), (n, size, test)


def test_five_subjects_cannot_be_significant_with_wilcoxon_whatever_the_effect():
    assert smallest_p(5, 1, StatisticsSpec(test="wilcoxon")) == (0.0625, 0.0625)
    assert smallest_p(4, 10, StatisticsSpec()) == pytest.approx((2 / 70, 20 / 70))
    assert smallest_p(4, 10, StatisticsSpec(correction="fdr_bh")).corrected == pytest.approx(2 / 70)
    with pytest.raises(StatisticsError, match="at least one subject"):
        smallest_p(0, 10, StatisticsSpec())


def test_one_warning_says_how_many_subjects_are_needed():
    (warning,) = power_warnings(4, {"individual": 10, "from_end": 10, "extra": 6}, StatisticsSpec())
    assert warning == (
        "With 4 subjects, tests over subjects cannot reach p < .05 after correction for 10 comparisons, however large"
        " the effect: Mann-Whitney needs 6 subjects, Wilcoxon needs 9 subjects."
    )
    (warning,) = power_warnings(6, [8], StatisticsSpec())
    assert warning.endswith("however large the effect: Wilcoxon needs 9 subjects; Mann-Whitney can.")
    assert smallest_p(5, 10, StatisticsSpec()).corrected >= 0.05 > smallest_p(6, 10, StatisticsSpec()).corrected


def test_a_large_cohort_gets_no_warning():
    assert power_warnings(40, {"individual": 10, "all": 30}, StatisticsSpec()) == []
    assert power_warnings(9, [10], StatisticsSpec(test="wilcoxon")) == []
    assert len(power_warnings(5, [10], StatisticsSpec(test="wilcoxon"))) == 1


def test_a_family_too_large_for_random_flips_is_reported_and_does_not_hang():
    (sentence, *_) = power_warnings(20, {"all": 10**9}, StatisticsSpec(test="sign-flip"))
    assert "needs more than 500 subjects" in sentence


# --- under the null ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def null_p_values():
    """Raw p of 400 cohorts of 12 subjects under 10 conditions that only add noise: `[cohort, condition]`."""
    n_cohorts, n_conditions, n_subjects = 400, 10, 12
    rng = np.random.default_rng(0)
    skill = rng.normal(0.85, 0.06, (n_subjects, n_cohorts, 1))
    baseline = skill + rng.normal(0, 0.04, (n_subjects, n_cohorts, 1))
    masked = skill + rng.normal(0, 0.04, (n_subjects, n_cohorts, n_conditions))
    masked, baseline = (np.round(np.clip(a, 0, 1) * 34) / 34 for a in np.broadcast_arrays(masked, baseline))
    flat = (n_subjects, n_cohorts * n_conditions)
    return {
        test: p_values(test, masked.reshape(flat), baseline.reshape(flat)).reshape(n_cohorts, n_conditions)
        for test in TESTS
    }


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_without_an_effect_a_family_rejects_at_most_at_its_level(null_p_values, test, correction):
    alpha, p = 0.05, null_p_values[test]
    family_wise = np.mean([(adjust(family, correction) < alpha).any() for family in p])
    assert family_wise <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / len(p))


@pytest.mark.parametrize("test", ["wilcoxon", "sign_flip"])
def test_without_an_effect_the_paired_tests_keep_their_level_and_use_it(null_p_values, test):
    assert 0.03 <= (null_p_values[test] < 0.05).mean() <= 0.06


def test_the_unpaired_test_is_conservative_for_the_same_subjects(null_p_values):
    assert (null_p_values["mann_whitney"] < 0.05).mean() < (null_p_values["wilcoxon"] < 0.05).mean()
