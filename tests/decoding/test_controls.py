"""Controls: their distributions, and what they show of scores that a language model or a duration produces."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier

from emg_lens.decoding import (
    base_rate_events,
    beam_decode,
    event_rates,
    lexicon_coverage,
    score_text_conditions,
    shuffled_emissions,
    shuffled_labels,
    texts_by_duration,
)
from emg_lens.scoring import ScoreError, event_scores, word_errors

ALPHABET = [*"abc", " ", ""]


def emitted(text, rng, sharpness=4.0):
    """Emissions of a text: two steps a letter, with a blank after it."""
    path = [k for letter in text for k in (ALPHABET.index(letter), ALPHABET.index(letter), 4)]
    logits = sharpness * np.eye(5)[path] + rng.normal(size=(len(path), 5))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


# --- text -------------------------------------------------------------------------------------------------


def test_a_closed_lexicon_repairs_a_damaged_model_and_the_default_decoder_does_not():
    rng = np.random.default_rng(0)
    words = ["abba", "cacb", "bccb", "aacc"]
    said = {f"u{k}": " ".join(rng.choice(words, 3)) for k in range(8)}
    emissions = {
        "baseline": {name: emitted(text, rng, 7.0) for name, text in said.items()},
        "cut": {name: emitted(text, rng, 2.0) for name, text in said.items()},
    }
    opened = score_text_conditions(said, emissions, ALPHABET).to_frame()["word_error_rate"]
    closed = partial(beam_decode, lexicon=words)
    repaired = score_text_conditions(said, emissions, ALPHABET, decode=closed).to_frame()["word_error_rate"]
    assert opened["baseline"] < 0.1 and opened["cut"] > 0.8
    assert repaired["cut"] < 0.5 * opened["cut"]


@pytest.mark.parametrize("how", ["time", "utterances"])
def test_shuffled_emissions_show_what_a_language_model_knows_alone(how):
    rng = np.random.default_rng(1)
    said = {f"u{k}": "abc cba" if k % 4 else "bb a" for k in range(12)}
    real = {name: emitted(text, rng, 6.0) for name, text in said.items()}

    def model(words):  # knows the most frequent sentence
        return 0.0 if words == ("abc", "cba", "</s>")[: len(words)] else -30.0

    decode = partial(beam_decode, lexicon=["abc", "cba", "bb", "a"], language_model=model, weight=10.0)
    rate = {}
    for name, one in {"real": real, "shuffled": shuffled_emissions(real, how, seed=3)}.items():
        scores = score_text_conditions(said, {"baseline": one}, ALPHABET, decode=decode)
        rate[name] = scores.of("baseline").pooled()["word_error_rate"]
    greedy = score_text_conditions(said, {"baseline": shuffled_emissions(real, how, 3)}, ALPHABET).to_frame()
    assert rate["shuffled"] < 0.6  # most words are right although the signal is destroyed
    assert how == "utterances" or greedy["word_error_rate"].iloc[0] > 0.9
    assert rate["real"] == rate["shuffled"]  # with this weight, the score says nothing about the signal
    assert score_text_conditions(said, {"baseline": real}, ALPHABET).to_frame()["word_error_rate"].iloc[0] < 0.1


@given(st.integers(2, 20), st.integers(0, 1000))
def test_no_utterance_keeps_its_emissions(n, seed):
    emissions = {f"u{k}": np.full((1, 2), float(k)) for k in range(n)}
    exchanged = shuffled_emissions(emissions, "utterances", seed)
    values = {name: float(steps[0, 0]) for name, steps in exchanged.items()}
    assert sorted(values.values()) == list(range(n)) and list(values) == list(emissions)
    assert all(value != int(name[1:]) for name, value in values.items())


@given(st.integers(1, 30), st.integers(0, 1000))
def test_steps_are_exchanged_within_an_utterance(n, seed):
    steps = np.random.default_rng(seed).normal(size=(n, 3))
    shuffled = shuffled_emissions({"u": steps}, "time", seed)["u"]
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, steps))


def test_one_utterance_cannot_be_exchanged():
    with pytest.raises(ScoreError, match="expected at least 2"):
        shuffled_emissions({"u": np.zeros((1, 2))}, "utterances")


@given(st.integers(1, 20), st.integers(0, 10_000))
def test_texts_by_duration_are_those_of_the_nearest_neighbour(n, seed):
    rng = np.random.default_rng(seed)
    train, test = rng.uniform(0.5, 8, n), rng.uniform(0, 9, 15)
    texts = [f"text {k}" for k in range(n)]
    neighbour = KNeighborsClassifier(1).fit(train[:, None], texts)
    assert texts_by_duration(train, texts, test) == neighbour.predict(test[:, None]).tolist()


def test_of_equal_durations_the_first_is_taken():
    train = np.array([2.0, 1.0, 2.0, 1.0, 3.0])
    assert texts_by_duration(train, [*"abcde"], np.array([0.0, 1.0, 1.5, 2.0, 2.5, 9.0])) == [*"bbbaae"]
    for durations in (np.array([np.nan]), np.array([[1.0]])):
        with pytest.raises(ScoreError, match="expected one finite number"):
            texts_by_duration(train, [*"abcde"], durations)
    with pytest.raises(ScoreError, match="5 durations for 4 training texts"):
        texts_by_duration(train, [*"abcd"], train)


def test_lexicon_coverage_counts_words_and_names_what_is_missing():
    found = lexicon_coverage(["go left go", "now"], {"go", "left"})
    assert found == (4, 3, ("now",))
    assert lexicon_coverage([], ["go"]) == (0, 0, ())


# --- events -----------------------------------------------------------------------------------------------


def test_base_rate_events_are_poisson_processes():
    rates = {"tap": 120.0, "fist": 30.0}
    counts = np.array([
        [sum(name == one for name, _ in base_rate_events(rates, 1800.0, seed)) for one in rates] for seed in range(400)
    ])  # fmt: skip
    for column, rate in zip(counts.T, rates.values(), strict=True):
        expected = rate / 2
        assert abs(column.mean() - expected) < 4 * np.sqrt(expected / 400)
        assert 0.8 < column.var() / expected < 1.25
    assert abs(stats.pearsonr(*counts.T).statistic) < 0.2
    times = [time for seed in range(50) for _, time in base_rate_events(rates, 1800.0, seed)]
    assert stats.kstest(times, stats.uniform(0, 1800).cdf).pvalue > 1e-3
    assert times[: len(base_rate_events(rates, 1800.0, 0))] == sorted(times[: len(base_rate_events(rates, 1800.0, 0))])


def test_rates_add_up_over_recordings():
    with pytest.raises(ScoreError, match="there is no recording"):
        event_rates([])
    assert event_rates([([], 3600.0)]) == {}


def test_a_control_at_the_base_rate_is_worse_than_a_detector():
    rng = np.random.default_rng(5)
    labels = [(str(rng.choice(["tap", "fist"])), float(t)) for t in np.sort(rng.uniform(0, 3600, 600))]
    control = base_rate_events(event_rates([(labels, 3600.0)]), 3600.0, seed=6)
    assert event_scores(labels, control, 3600.0)["f1"] < 0.1
    shuffled = event_scores(labels, shuffled_labels(labels), 3600.0)
    assert shuffled["detected"] == 1 and 0.4 < shuffled["right"] < 0.6  # knows when, not what
    assert sorted(name for name, _ in shuffled_labels(labels)) == sorted(name for name, _ in labels)


# --- conditions -------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
def test_planned_errors_of_scripted_emissions_are_counted(seed):
    rng = np.random.default_rng(seed)
    said, written, planned = [], [], {"substitutions": 0, "deletions": 0, "insertions": 0}
    for k in range(12):  # words that occur once, so that only the planned alignment is the cheapest
        said.append(f"{'abc'[k % 3]}{'abc'[k // 3 % 3]}{'a' * (k // 9 + 1)}")
        change = str(rng.choice(["hit", "hit", *planned]))
        written += {"hit": [said[-1]], "substitutions": ["cccc"], "deletions": []}.get(change, [said[-1], "bbbb"])
        planned[change] = planned.get(change, 0) + 1
    reference, path = " ".join(said), [s for letter in " ".join(written) for s in (ALPHABET.index(letter), 4)]
    emissions = np.log(0.98 * np.eye(5)[path].reshape(-1, 5) + 0.004)
    counts = score_text_conditions({"u": reference}, {"baseline": {"u": emissions}}, ALPHABET).of("baseline").counts
    errors = sum(planned[part] for part in ("substitutions", "deletions", "insertions"))
    found = {part: int(counts[part][0]) for part in ("substitutions", "deletions", "insertions")}
    assert sum(found.values()) <= errors  # a deletion next to an insertion is one substitution
    assert found["deletions"] - found["insertions"] == planned["deletions"] - planned["insertions"]
    if not planned["deletions"] or not planned["insertions"]:
        assert found == {part: planned[part] for part in found}


def test_conditions_have_the_errors_of_their_texts():
    rng = np.random.default_rng(7)
    said = {"u1": "ab", "u2": "ca b"}
    emissions = {
        "intact": {n: emitted(t, rng, 9.0) for n, t in said.items()},
        "cut": {n: emitted("a", rng, 9.0) for n in said},
    }
    scores = score_text_conditions(said, emissions, ALPHABET, baseline="intact")
    expected = word_errors(list(said.values()), ["a", "a"]).by_unit()
    assert scores.of("cut").by_unit().to_numpy() == pytest.approx(expected.to_numpy())
    assert scores.of("intact").pooled()["word_error_rate"] == 0
    with pytest.raises(ScoreError, match="condition 'cut' has other utterances"):
        score_text_conditions(said, {"baseline": emissions["intact"], "cut": {"u1": emissions["cut"]["u1"]}}, ALPHABET)
