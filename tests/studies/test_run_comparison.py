"""Runs are compared over the subjects and trials that they share; everything else is said or refused."""

from collections.abc import Sequence
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import scipy
import yaml
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from tiny import NO_CONDITIONS, TINY

from emg_lens.scoring.metrics import METRICS
from emg_lens.studies import compare_runs, share_run
from emg_lens.studies.comparison.comparison_tables import ComparisonTables
from emg_lens.studies.comparison.difference_tests import (
    column_differences,
    drop_differences,
    model_difference,
    with_corrections,
)
from emg_lens.studies.comparison.pairing import ComparisonError, ScorePair
from emg_lens.studies.comparison.sentences import model_sentence
from emg_lens.studies.result import StudyResult
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.studies.study import Study
from emg_lens.sweeps.conditions import BASELINE
from emg_lens.validation import ArgumentError

SPEC = StatisticsSpec()
FRACTIONS = st.integers(0, 34).map(lambda n: n / 34)


def pairs(fewest: int = 1):
    """Two arrays of accuracies with the same shape."""
    shapes = st.tuples(st.integers(fewest, 12), st.integers(1, 3))
    return shapes.flatmap(lambda shape: st.tuples(*[arrays(float, shape, elements=FRACTIONS)] * 2))


# --- numbers ----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_a_run_does_not_differ_from_itself(both):
    table = column_differences(both[0], both[0].copy(), SPEC, paired=True, bound=1.0, percent=True)
    assert (table[["difference", "smallest", "largest"]] == 0).all(axis=None)
    assert (table["p"] == 1).all() and table["ci_low"].isna().all()  # no spread: no interval (docs/statistics.md §5.5)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_swapped_runs_have_the_opposite_difference(both):
    there, back = (column_differences(*pair, SPEC, paired=True, bound=1.0, percent=True) for pair in (both, both[::-1]))
    np.testing.assert_allclose(there["difference"], -back["difference"], atol=1e-9)
    np.testing.assert_allclose(there["ci_low"], -back["ci_high"], atol=1e-9)
    np.testing.assert_allclose(there["smallest"], -back["largest"], atol=1e-9)
    np.testing.assert_array_equal(there["p"], back["p"])


@settings(max_examples=40, deadline=None)
@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_subjects_does_not_matter(both, random):
    order = list(range(len(both[0])))
    random.shuffle(order)
    one = column_differences(*both, SPEC, paired=True, bound=1.0, percent=True)
    other = column_differences(both[0][order], both[1][order], SPEC, paired=True, bound=1.0, percent=True)
    pd.testing.assert_frame_equal(one, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs(5))
def test_paired_intervals_are_those_of_scipy(both):
    table = column_differences(*both, SPEC, paired=True)
    for k, row in enumerate(table.to_dict("records")):
        change = both[1][:, k] - both[0][:, k]
        if np.ptp(np.round(change, 12)) == 0:
            assert np.isnan(row["ci_low"]) and np.isnan(row["p_t"])
            continue
        known = scipy.stats.ttest_rel(both[1][:, k], both[0][:, k])
        ends = known.confidence_interval(SPEC.confidence)
        np.testing.assert_allclose((row["ci_low"], row["ci_high"]), (ends.low, ends.high), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(row["p_t"], known.pvalue, rtol=1e-6)


def test_unpaired_intervals_and_p_are_those_of_scipy():
    rng = np.random.default_rng(0)
    reference, other = rng.random((7, 2)), rng.random((9, 2)) + 0.2
    table = column_differences(reference, other, SPEC, paired=False)
    known = scipy.stats.ttest_ind(other, reference, equal_var=False)
    ends = known.confidence_interval(0.95)
    np.testing.assert_allclose(table[["ci_low", "ci_high"]].T, [ends.low, ends.high])
    np.testing.assert_allclose(table["p_t"], known.pvalue)
    exact = scipy.stats.permutation_test(
        (other[:, 0], reference[:, 0]), lambda a, b: a.mean() - b.mean(), n_resamples=20_000
    ).pvalue
    assert abs(table["p"][0] - exact) < 0.01
    few = column_differences(reference[:4], other, SPEC, paired=False)
    assert few["ci_low"].isna().all() and few["n_subjects"].isna().all()


def test_differences_of_drops_are_differences_of_differences():
    rng = np.random.default_rng(1)
    frames = [pd.DataFrame(rng.random((6, 3)), columns=[BASELINE, "a", "b"]) for _ in range(2)]
    table = drop_differences(ScorePair(*frames, paired=True, notes=()), SPEC, is_fraction=True)
    drops = [frame[[BASELINE]].to_numpy() - frame[["a", "b"]].to_numpy() for frame in frames]
    np.testing.assert_allclose(table["difference"], 100 * (drops[1] - drops[0]).mean(0))
    errors = drop_differences(ScorePair(*frames, paired=True, notes=()), SPEC, False, lower_is_better=True)
    np.testing.assert_allclose(errors["difference"], -(drops[1] - drops[0]).mean(0))


def test_corrections_count_each_family_and_clear_needs_more_than_an_interval():
    rng = np.random.default_rng(2)
    reference = rng.random((8, 20))
    other = reference + 0.1 + rng.normal(0, 0.12, reference.shape)
    table = column_differences(reference, other, SPEC, paired=True)
    table = table.assign(condition=[f"c{k}" for k in range(20)], mode=["x"] * 19 + [""], structural_null=False)
    table["equivalent_to"] = table["condition"]
    done = with_corrections(table, SPEC, "mode")
    assert done["family_size"].tolist() == [19] * 19 + [1]
    np.testing.assert_allclose(done["p_corrected"][:19], np.minimum(19 * table["p"][:19], 1))
    outside = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    assert outside[:19].sum() > done["clear"][:19].sum()
    assert (done["clear"][:19] == (19 * table["p_t"][:19] < 0.05)).all()
    assert done["clear"][19] == outside[19]


# --- sentences --------------------------------------------------------------------------------------------


def said(reference: Sequence[float], other: Sequence[float], metric: str = "accuracy", paired: bool = True) -> str:
    """The first sentence about two runs with these scores of subjects."""
    kind = METRICS[metric]
    frames = [pd.DataFrame({BASELINE: some}) for some in (reference, other)]
    is_fraction, lower = kind.unit == "fraction", kind.better == "lower"
    table = model_difference(ScorePair(*frames, paired, ()), SPEC, is_fraction, lower).assign(condition="m")
    row = with_corrections(table, SPEC, "all").assign(run="B", level="").to_dict("records")[0]
    unit, empty = "pp" if is_fraction else kind.unit, pd.DataFrame()
    return model_sentence(row, ComparisonTables("A", metric, unit, lower, SPEC, empty, empty, empty, {}, empty))


HALF = [0.5, 0.55, 0.6, 0.5, 0.45, 0.52]


def ends(reference: Sequence[float], other: Sequence[float], paired: bool = True, scale: float = 100) -> str:
    """The interval by scipy, as text."""
    test = scipy.stats.ttest_rel if paired else partial(scipy.stats.ttest_ind, equal_var=False)
    low, high = (scale * end for end in test(other, reference).confidence_interval())
    low, high = sorted((low, high) if abs(low + high) == low + high else (-low, -high))
    return f"(95 % CI [{low:.{1 if scale > 1 else 3}f}, {high:.{1 if scale > 1 else 3}f}])"


BETTER, WORSE, SIMILAR = (
    [0.6, 0.75, 0.75, 0.6, 0.55, 0.72],
    [0.4, 0.5, 0.4, 0.45, 0.4, 0.4],
    [0.4, 0.6, 0.6, 0.55, 0.4, 0.5],
)
ERRORS, SMALLER_ERRORS = [1.0, 1.2, 1.1, 1.3, 1.0], [0.5, 0.4, 0.6, 0.5, 0.3]
OTHERS = [0.9, 0.95, 0.8, 0.9, 0.85]
ARE_BETTER, ARE_WORSE = "The models of B are better than those of A by", "The models of B are worse than those of A by"
HAVE = "subjects have better models in B."


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((HALF, BETTER), f"{ARE_BETTER} 14.2 pp {ends(HALF, BETTER)}: accuracy 0.662 and 0.520; 6 of 6 {HAVE}"),
        ((HALF, WORSE), f"{ARE_WORSE} 9.5 pp {ends(HALF, WORSE)}: accuracy 0.425 and 0.520; 0 of 6 {HAVE}"),
        (
            (HALF, SIMILAR),
            "No clear difference between B and A: accuracy 0.508 and 0.520, a change of −1.2 pp (95 % CI [−7.3, 5.0]);"
            f" 2 of 6 {HAVE}",
        ),
        (
            (HALF[:3], [0.6, 0.6, 0.6]),
            "No clear answer, because an interval needs 5 subjects. On average, the models of B are better than those"
            f" of A by 5.0 pp (changes from 0.0 to 10.0): accuracy 0.600 and 0.550; 2 of 3 {HAVE}",
        ),
        ((HALF, HALF), "No difference between B and A: all 6 subjects have the same accuracy in both (mean 0.520)."),
        (
            ([0.5] * 5, [0.75] * 5),
            f"{ARE_BETTER} 25.0 pp in all 5 subjects (accuracy 0.750 and 0.500). All changes are equal, so there is no"
            " interval.",
        ),
        (
            (ERRORS, SMALLER_ERRORS, "mae"),
            f"{ARE_BETTER} 0.660 {ends(ERRORS, SMALLER_ERRORS, scale=1)}: MAE 0.460 and 1.120; 5 of 5 {HAVE}",
        ),
        (
            (HALF, OTHERS, "accuracy", False),
            f"{ARE_BETTER} 36.0 pp {ends(HALF, OTHERS, paired=False)}: accuracy 0.880 and 0.520.",
        ),
    ],
)
def test_the_first_sentence_is_the_answer(arguments, sentence):
    assert said(*arguments) == sentence


# --- whole runs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[StudyResult]:
    """Two studies that differ in their epochs, and one with other test repetitions."""
    folder = tmp_path_factory.mktemp("runs")
    base = yaml.safe_load(TINY)
    base["cohort"]["options"]["simulation"]["n_subjects"] = 5
    base |= {"conditions": NO_CONDITIONS | {"extra": base["conditions"]["extra"]}, "views": ["single"]}
    changes = [
        {},
        {"name": "longer", "training": base["training"] | {"epochs": 12}},
        {"name": "moved", "split": {"by": "repetition", "test": [3, 4]}},
    ]
    return [Study.parse(yaml.safe_dump(base | change)).run(out=folder, jobs=1) for change in changes]


@pytest.mark.slow
def test_whole_runs_are_compared_and_written(runs, tmp_path):
    done = compare_runs(runs[0].folder, runs[1])
    change = (runs[1].cells[0].values - runs[0].cells[0].values)[BASELINE]
    np.testing.assert_allclose(done.models["difference"], 100 * change.mean())
    assert done.models["n_better"].item() == (change > 0).sum()
    assert done.settings["setting"].tolist() == ["training.epochs"]
    assert done.notes["longer", ""] == ("Paired by subject: 5 subjects, the same 80 test trials.",)
    back = compare_runs(runs[1], runs[0])
    np.testing.assert_allclose(back.models["difference"], -done.models["difference"])
    np.testing.assert_allclose(back.ablations["difference"], -done.ablations["difference"])
    for path in done.write(tmp_path / "new"):
        assert path.stat().st_size > 100
    read = pd.read_csv(tmp_path / "new" / "models.csv")
    np.testing.assert_allclose(read["difference"], done.models["difference"])
    assert (tmp_path / "new" / "answers.txt").read_text() == f"{done}\n"


@pytest.mark.slow
def test_a_whole_run_equals_itself(runs):
    done = compare_runs(runs[0], runs[0])
    assert str(done).startswith("No difference between tiny (2) and tiny (1): all 5 subjects have the same accuracy")
    assert (done.ablations[["difference", "smallest", "largest"]] == 0).all(axis=None) and done.settings.empty


@pytest.mark.slow
def test_runs_with_other_test_trials_are_compared_without_pairs(runs):
    done = compare_runs(runs[0], runs[2], runs[1])
    assert done.models["n_subjects"].isna().tolist() == [True, False]
    assert done.models["family_size"].tolist() == [2, 2]
    assert "were tested on other repetitions in the two runs" in done.notes["moved", ""][0]
    assert done.settings[["reference", "other"]].to_numpy().tolist()[0] == ["[1, 3]", ""]  # train: null is none
    values = [one.cells[0].values[BASELINE] for one in (runs[0], runs[2])]
    ends = scipy.stats.ttest_ind(values[1], values[0], equal_var=False).confidence_interval()
    np.testing.assert_allclose(done.models[["ci_low", "ci_high"]].iloc[0], [100 * ends.low, 100 * ends.high])


@pytest.mark.slow
def test_one_run_or_an_unknown_metric_is_refused(runs):
    with pytest.raises(ComparisonError, match="1 run given; expected two or more"):
        compare_runs(runs[0])
    with pytest.raises(ComparisonError, match="no metric 'acuracy'; did you mean 'accuracy'"):
        compare_runs(*runs, metric="acuracy")


@pytest.mark.slow
def test_a_level_is_compared_with_the_same_level(finished, runs, tmp_path):
    content = yaml.safe_load(TINY) | {"conditions": NO_CONDITIONS, "name": "levels", "views": ["confusion"]}
    content["factors"] = {"size": {"small": {}, "large": {"model": {"d_mlp": 32}}}}
    done = Study.parse(yaml.safe_dump(content)).run(out=tmp_path, jobs=1)
    table = compare_runs(done, done).models
    assert table["level"].tolist() == ["size: large", "size: small"] and (table["difference"] == 0).all()
    both = compare_runs(finished, done).models  # a run without this factor, and with two seeds
    assert both["level"].tolist() == ["size: large", "size: small"]


@pytest.mark.slow
def test_an_archive_is_compared_like_its_run(runs, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from emg_lens.cli import app

    archive = share_run(runs[0].folder, tmp_path / "a.zip")
    done = CliRunner().invoke(app, ["compare", str(archive), str(runs[1].folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    first = done.output.splitlines()[0]
    assert first == str(compare_runs(runs[0], runs[1])).splitlines()[0]
    assert (tmp_path / "out" / "comparison.png").is_file()


def test_a_metric_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="metric="):
        compare_runs(tmp_path, tmp_path, metric=np.ones(3))  # pyright: ignore
