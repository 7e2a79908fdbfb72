"""Several conditions in one table, and the alignment that all of them share."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from emg_lens.scoring import (
    ConditionScores,
    ScoreError,
    confused_pairs,
    dtw_path,
    paired_bootstrap,
    phoneme_table,
    score_phoneme_conditions,
    word_errors,
)

SAID = ["one two three", "four", "five six"]
UNITS = ("u1", "u2", "u3")


def scores(**texts):
    units = [f"{condition}/{unit}" for condition in texts for unit in UNITS]
    table = word_errors(SAID * len(texts), sum(texts.values(), []), units)
    return ConditionScores(table, tuple(texts), UNITS, "intact")


def test_a_condition_is_the_table_of_its_units():
    both = scores(intact=SAID, cut=["one", "four four", "six"])
    alone = word_errors(SAID, ["one", "four four", "six"], UNITS)
    assert both.of("cut").by_unit().equals(alone.by_unit())
    assert both.to_frame().loc["cut"].to_dict() == alone.pooled()
    rows = both.differences(n_resamples=300, seed=2)
    expected = paired_bootstrap(word_errors(SAID, SAID, UNITS), alone, n_resamples=300, seed=2)
    assert rows["condition"].tolist() == ["cut"] * len(expected)
    for column in ("score", "baseline", "difference", "low", "high", "undefined"):
        assert rows[column].tolist() == expected[column].tolist()
    assert rows["value"].tolist() == expected["condition"].tolist()


def test_conditions_that_do_not_fit_are_refused():
    with pytest.raises(ScoreError, match="unknown condition 'cot'; did you mean 'cut'"):
        scores(intact=SAID, cut=SAID).of("cot")
    with pytest.raises(ScoreError, match="unknown baseline 'intact'"):
        scores(cut=SAID)
    with pytest.raises(ScoreError, match="there is no condition except 'intact'"):
        scores(intact=SAID).differences()
    with pytest.raises(ScoreError, match="the 2 units of each of 1 conditions"):
        ConditionScores(word_errors(SAID, SAID), ("a",), ("x", "y"), "a")


# --- phonemes ---------------------------------------------------------------------------------------------


def spoken(seed=0, n=60):
    """Phonemes of a target and of a silent utterance whose frames are spread by a known warp."""
    rng = np.random.default_rng(seed)
    target = [str(p) for p in rng.choice(["p", "b", "a", "s"], n)]
    path = np.concatenate([[0], np.cumsum(rng.integers(1, 3, n - 1))])
    of_target = np.searchsorted(path, np.arange(path[-1] + 1), side="right") - 1
    cost = (np.arange(n)[:, None] != of_target).astype(float)
    return target, [target[k] for k in of_target], path, cost


def test_the_path_of_the_baseline_is_used_for_all_conditions_and_a_new_one_hides_damage():
    target, source, path, cost = spoken()
    rng = np.random.default_rng(1)
    damaged = [str(p) for p in rng.choice(["p", "b", "a", "s"], len(source))]
    fitted = np.array([[0.0 if t == d else 1.0 for d in damaged] for t in target])
    predicted = {"baseline": {"u": source}, "cut": {"u": damaged}}
    costs = {"baseline": {"u": cost}, "cut": {"u": fitted}}
    frozen = score_phoneme_conditions({"u": target}, predicted, costs)
    expected = phoneme_table({"u": target}, {"u": damaged}, {"u": dtw_path(cost)}).pooled()
    assert frozen.to_frame().loc["cut"].to_dict() == expected
    assert frozen.to_frame()["phoneme_accuracy"]["baseline"] > 0.95
    assert dtw_path(cost)[2:].tolist() == path[2:].tolist()
    anew = score_phoneme_conditions({"u": target}, predicted, costs, align="each").to_frame()["phoneme_accuracy"]
    assert anew["cut"] > 2 * expected["phoneme_accuracy"]
    assert anew["baseline"] == frozen.to_frame()["phoneme_accuracy"]["baseline"]
    without = score_phoneme_conditions({"u": target}, predicted, {"baseline": costs["baseline"]})
    assert without.to_frame().equals(frozen.to_frame())


def test_costs_and_utterances_that_are_missing_are_named():
    target, source, _, cost = spoken()
    predicted = {"baseline": {"u": source}, "cut": {"u": source}}
    with pytest.raises(ScoreError, match="no cost of utterance 'u' in condition 'cut'"):
        score_phoneme_conditions({"u": target}, predicted, {"baseline": {"u": cost}}, align="each")
    with pytest.raises(ScoreError, match="condition 'cut' has other utterances"):
        score_phoneme_conditions({"u": target}, {"baseline": {"u": source}, "cut": {}})
    with pytest.raises(ScoreError, match="unknown baseline 'baseline'; .*conditions: cut"):
        score_phoneme_conditions({"u": target}, {"cut": {"u": source}})


def test_counts_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    phonemes = ["p", "b", "a", "s", "sil"]
    for _ in range(20):
        target, guess = ([str(p) for p in rng.choice(phonemes, 200)] for _ in range(2))
        table = phoneme_table({"u": target}, {"u": guess})
        expected = confusion_matrix(target, guess, labels=table.classes)
        np.testing.assert_array_equal(table.counts["frames"][0], expected)
        for _, row in confused_pairs(table).iterrows():
            i, j = (table.classes.index(row[side]) for side in ("first", "second"))
            frames = expected[i].sum() + expected[j].sum()
            assert row["confusion"] == pytest.approx((expected[i, j] + expected[j, i]) / frames)
            assert row["accuracy"] == pytest.approx((expected[i, i] + expected[j, j]) / frames)
