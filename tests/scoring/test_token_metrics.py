"""Errors of greedily decoded text against jiwer and a plain collapse; planned errors; the chance level."""

import itertools

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.scoring import METRICS, MetricError, chances, edit_distances, greedy_symbols, measure

ALPHABET = ("a", "b", "c", "|", "blank")
SPACE, BLANK = 3, 4
TEXT = st.text("abc ", max_size=12)


def targets_of(texts, lengths=None):
    rows = np.full((len(texts), max(1, *map(len, texts)), 2), -1.0, np.float32)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text), 0] = ["abc ".index(letter) for letter in text]
    rows[..., 1] = 1.0 if lengths is None else np.array(lengths)[:, None]
    return rows


def path_of(text):
    """A CTC path of a text: a blank between two equal letters, and a repeated first letter."""
    path = []
    for k, letter in enumerate(text):
        if k and text[k - 1] == letter:
            path.append(BLANK)
        path += ["abc ".index(letter)] * (2 if k == 0 else 1)
    return path


def logits_of(texts):
    paths = [path_of(text) for text in texts]
    steps = max(map(len, paths)) + 1
    table = np.full((len(paths), steps), BLANK)
    for row, path in zip(table, paths, strict=True):
        row[: len(path)] = path
    return np.eye(len(ALPHABET))[table]


def collapsed(path):
    return [symbol for symbol, _ in itertools.groupby(path) if symbol != BLANK]


@given(st.lists(st.lists(st.integers(0, BLANK), min_size=7, max_size=7), min_size=1, max_size=4))
def test_greedy_symbols_equal_a_plain_collapse(paths):
    found = greedy_symbols(np.eye(len(ALPHABET))[np.array(paths)])
    assert [row.tolist() for row in found] == [collapsed(path) for path in paths]


def test_steps_after_the_end_of_an_utterance_do_not_count():
    logits = np.eye(len(ALPHABET))[np.array([[0, 1, 2, 1]])]
    assert greedy_symbols(logits, np.array([2]))[0].tolist() == [0, 1]
    measured = measure(["character_error_rate"], logits, targets_of(["ab"], [0.5]))
    assert measured["character_error_rate"] == 0, "the last two steps are padding"
    assert measure(["character_error_rate"], logits, targets_of(["ab"]))["character_error_rate"] == 1.0


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8)), max_size=5)
)
def test_edit_distances_equal_jiwer(pairs):
    pairs = [([9], [9]), *pairs]
    found = edit_distances([a for a, _ in pairs], [b for _, b in pairs])
    for (a, b), distance in zip(pairs, found.tolist(), strict=True):
        expected = len(b)
        if a:
            one = jiwer.process_words(" ".join(map(str, a)), " ".join(map(str, b)))
            expected = one.substitutions + one.deletions + one.insertions
        assert distance == expected


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_error_rates_equal_jiwer(pairs):
    said, decoded = ([" ".join(text.split()) for text in side] for side in zip(*pairs, strict=True))
    values = measure(["word_error_rate", "character_error_rate"], logits_of(decoded), targets_of(said))
    filled = [k for k, text in enumerate(said) if text]
    extra = [decoded[k] for k, text in enumerate(said) if not text]
    for name, process, length in (
        ("word_error_rate", jiwer.process_words, lambda text: len(text.split())),
        ("character_error_rate", jiwer.process_characters, len),
    ):
        total = sum(length(text) for text in said)
        if not total:
            assert np.isnan(values[name])
            continue
        one = process([said[k] for k in filled], [decoded[k] for k in filled])
        errors = one.substitutions + one.deletions + one.insertions + sum(map(length, extra))
        assert values[name] == pytest.approx(errors / total)


def test_counts_of_utterances_add_up():
    said, decoded = ["ab c", "a", "b b b"], ["ab", "a", "b c b"]
    metric = METRICS["word_error_rate"]
    counts = metric.counts(logits_of(decoded), targets_of(said))
    assert counts.tolist() == [[1, 2], [0, 1], [1, 3]]
    assert metric.value(counts.sum(0)) == pytest.approx(2 / 6)
    assert metric.value(counts).tolist() == pytest.approx([0.5, 0, 1 / 3])


def test_chance_is_the_best_single_answer():
    said = ["a b", "a b", "a c", "c"]
    found = chances(["word_error_rate"], targets_of(said), len(ALPHABET))
    assert found["word_error_rate"] == pytest.approx((0 + 0 + 1 + 2) / 7), "always 'a b'"
    assert chances(["word_error_rate"], targets_of(["a", "b b b", "c"]), len(ALPHABET))["word_error_rate"] == 0.8


def test_other_targets_are_refused_in_one_line():
    logits = logits_of(["ab"])
    for targets in (np.zeros((1, 3), np.float32), np.full((1, 2, 2), 7, np.float32)):
        with pytest.raises(MetricError, match=r"compares logits \[trial, step, symbol\] with text targets"):
            measure(["word_error_rate"], logits, targets)
