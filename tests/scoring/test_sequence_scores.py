"""Text errors against jiwer and by hand, phonemes, and tables against plain loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.scoring import (
    ScoreError,
    character_errors,
    comparable_text,
    confused_pairs,
    event_table,
    paired_bootstrap,
    phoneme_confusions,
    phoneme_table,
    word_errors,
)

# --- text -------------------------------------------------------------------------------------------------


def edits(first, second):
    """Levenshtein distance, one plain loop."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row, before = [i], row
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


TEXT = st.lists(st.sampled_from(["go", "stop", "left", "right", "now"]), max_size=7).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=5), st.data())
def test_word_errors_are_edit_distances_and_pool_to_jiwers_rate(references, data):
    jiwer = pytest.importorskip("jiwer")
    hypotheses = [
        data.draw(st.sampled_from([text, "stop " + text, text[: len(text) // 2], "now"])) for text in references
    ]
    table = word_errors(references, hypotheses)
    counted = sum(table.counts[part] for part in ("substitutions", "deletions", "insertions"))
    expected = [edits(a.split(), b.split()) for a, b in zip(references, hypotheses, strict=True)]
    assert counted.tolist() == expected
    if any(references):
        assert table.pooled()["word_error_rate"] == pytest.approx(
            sum(expected) / sum(len(a.split()) for a in references)
        )
    if all(references):
        assert table.pooled()["word_error_rate"] == pytest.approx(jiwer.wer(references, hypotheses))


def test_word_errors_by_hand():
    table = word_errors(["go left now", "stop", ""], ["go right", "stop it", "now"], units=["a", "b", "c"])
    assert {key: values.tolist() for key, values in table.counts.items()} == {
        "hits": [1, 1, 0], "substitutions": [1, 0, 0], "deletions": [1, 0, 0], "insertions": [0, 1, 1],
    }  # fmt: skip
    assert table.pooled()["word_error_rate"] == 1
    assert np.isnan(table.by_unit().loc["c", "word_error_rate"])
    assert "the reference has no word" in table.summary().set_index("score").loc["word_error_rate", "note"]


def test_character_errors_count_spaces():
    assert character_errors(["go left"], ["goleft"]).pooled()["character_error_rate"] == pytest.approx(1 / 7)


def test_comparable_text_keeps_words_apart():
    assert comparable_text("“Well-known” CAFÉS: 3.5 %") == "well known cafes 35"


def test_texts_that_do_not_belong_together_are_refused():
    for call in (
        lambda: word_errors([], []),
        lambda: word_errors(["a"], []),
        lambda: word_errors(["a"], ["a"], ["x", "y"]),
    ):
        with pytest.raises(ScoreError, match="expected"):
            call()


# --- phonemes ---------------------------------------------------------------------------------------------


def test_phonemes_with_the_same_signal_are_confused_in_half_of_the_frames():
    rng = np.random.default_rng(0)
    target = rng.choice(list("pbst"), 20_000)
    guessed = np.where(np.isin(target, ["p", "b"]), rng.choice(["p", "b"], 20_000), target)
    table = phoneme_confusions(target.tolist(), guessed.tolist()).set_index(["first", "second"])
    assert table.loc[("b", "p"), "confusion"] == pytest.approx(0.5, abs=0.02)
    assert table.loc[("s", "t"), "confusion"] == 0
    assert table["confusion"].max() == table.loc[("b", "p"), "confusion"]


def test_an_alignment_chooses_the_frames():
    table = phoneme_table({"u": ["a", "b"]}, {"u": ["b", "a", "b"]}, {"u": np.array([1, 2])})
    assert table.pooled()["phoneme_accuracy"] == 1
    assert confused_pairs(table)["confusion"].tolist() == [0]
    for alignment in (np.array([1]), np.array([1, 3]), np.array([1.0, 2.0])):
        with pytest.raises(ScoreError, match="expected one frame number below 3"):
            phoneme_table({"u": ["a", "b"]}, {"u": ["b", "a", "b"]}, {"u": alignment})
    with pytest.raises(ScoreError, match="2 target frames and 3 predicted"):
        phoneme_table({"u": ["a", "b"]}, {"u": ["b", "a", "b"]})


# --- tables -----------------------------------------------------------------------------------------------


def scored(texts, units=None):
    return word_errors(["one two three", "four", "five six"] * 4, texts * 4, units)


def test_groups_and_pools_are_sums():
    texts = ["one two", "four five", "five six"]
    table = scored(texts)
    grouped = table.grouped(["a", "b", "c"] * 4)
    assert grouped.units == ("a", "b", "c")
    assert grouped.pooled() == table.pooled()
    assert grouped.by_unit()["word_error_rate"].tolist() == pytest.approx([1 / 3, 1, 0])


def test_the_bootstrap_equals_a_plain_loop():
    intact, cut = scored(["one two three", "four", "five six"]), scored(["one", "four four", "six"])
    row = paired_bootstrap(intact, cut, n_resamples=500, seed=3).set_index("score").loc["word_error_rate"]
    chosen = np.random.default_rng(3).integers(0, 12, (500, 12))
    differences = []
    for units in chosen:
        rates = []
        for table in (intact, cut):
            wrong = sum(table.counts[part][units].sum() for part in ("substitutions", "deletions", "insertions"))
            rates.append(
                wrong / sum(table.counts[part][units].sum() for part in ("hits", "substitutions", "deletions"))
            )
        differences.append(rates[1] - rates[0])
    assert [row["low"], row["high"]] == pytest.approx(np.percentile(differences, [2.5, 97.5]).tolist())
    assert row["low"] <= row["difference"] <= row["high"]


def test_an_undefined_resample_makes_the_interval_undefined():
    silent = event_table({"a": [([("tap", 1.0)], [], 10.0)], "b": [([("tap", 1.0)], [("tap", 1.0)], 10.0)]})
    row = paired_bootstrap(silent, silent, n_resamples=200).set_index("score").loc["cler"]
    assert np.isnan(row["low"]) and 0 < row["undefined"] < 1


def test_tables_of_other_units_are_not_compared():
    with pytest.raises(ScoreError, match="different units or scores"):
        paired_bootstrap(scored(["a", "b", "c"]), scored(["a", "b", "c"], [f"u{k}" for k in range(12)]))
    with pytest.raises(ScoreError, match="one unit"):
        paired_bootstrap(*itertools.repeat(word_errors(["a"], ["a"]), 2))
