"""Text of CTC outputs: greedy by hand, the beam against all sequences of symbols and against flashlight-text."""

import itertools
import math
import sys
from time import process_time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emg_lens.decoding import beam_decode, beam_hypotheses, greedy_decode
from emg_lens.decoding.arpa import _read
from emg_lens.validation import ArgumentError

BLANK = ""
LETTERS = ["a", "b", BLANK]
WORDS = ["a", "b", " ", BLANK]


def emissions(rng, n_steps, n_symbols, spread=2.0):
    logits = spread * rng.normal(size=(n_steps, n_symbols))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def every_text(log_probs, alphabet, blank):
    """The log-probability of each text, summed over all sequences of symbols one by one."""
    found = {}
    for path in itertools.product(range(len(alphabet)), repeat=len(log_probs)):
        collapsed = [symbol for symbol, _ in itertools.groupby(path) if symbol != blank]
        text = "".join(alphabet[symbol] for symbol in collapsed)
        score = sum(log_probs[step, symbol] for step, symbol in enumerate(path))
        found[text] = np.logaddexp(found.get(text, -np.inf), score)
    return found


def in_words(texts, score=lambda words: 0.0, lexicon=None):
    """Sum over texts of the same words, then add the score of the words."""
    found = {}
    for text, log_probability in texts.items():
        words = tuple(text.split())
        if lexicon is None or set(words) <= set(lexicon):
            found[words] = np.logaddexp(found.get(words, -np.inf), log_probability)
    return {" ".join(words): value + score(words) for words, value in found.items()}


def scores_of(hypotheses):
    assert len({one.text for one in hypotheses}) == len(hypotheses)
    assert [one.score for one in hypotheses] == sorted((one.score for one in hypotheses), reverse=True)
    return {one.text: one.score for one in hypotheses}


# --- greedy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [("aabba", "aba"), ("a_a", "aa"), ("__a__", "a"), ("____", ""), ("a_ab_b_", "aabb"), ("", "")],
)
@pytest.mark.parametrize("blank", [0, 1, 2])
def test_greedy_collapses_repeats_then_removes_blanks(path, expected, blank):
    alphabet = ["a", "b"]
    alphabet.insert(blank, "_")
    one_hot = np.eye(3)[[alphabet.index(symbol) for symbol in path]].reshape(-1, 3)
    assert greedy_decode(np.log(0.7 * one_hot + 0.1), alphabet, blank) == expected
    assert greedy_decode(np.log(0.7 * one_hot + 0.1), alphabet, blank - 3) == expected
    assert beam_decode(np.log(0.98 * one_hot + 0.02 / 3), alphabet, blank) == expected


# --- beam -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(0, 6), st.integers(0, 2))
def test_the_beam_equals_the_sum_over_all_sequences(seed, n_steps, blank):
    log_probs = emissions(np.random.default_rng(seed), n_steps, 3)
    alphabet = ["x", "y", "z"]
    expected = every_text(log_probs, alphabet, blank)
    found = scores_of(beam_hypotheses(log_probs, alphabet, blank, beam=1000))
    assert found == pytest.approx(expected)
    assert sum(map(math.exp, found.values())) == pytest.approx(1)


def test_a_hypothesis_has_the_ctc_loss_of_torch():
    log_probs = emissions(np.random.default_rng(0), 12, 5, spread=4.0)
    alphabet = ["a", "b", "c", "d", BLANK]
    for one in beam_hypotheses(log_probs, alphabet, beam=3000)[:20]:
        symbols = torch.tensor([alphabet.index(letter) for letter in one.text], dtype=torch.long)
        loss = torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None], symbols[None], [12], [len(symbols)], blank=4, reduction="sum"
        )
        assert -one.score == pytest.approx(float(loss), abs=1e-3)


def test_a_narrow_beam_is_never_better_and_a_beam_of_one_is_a_text():
    rng = np.random.default_rng(1)
    for _ in range(20):
        log_probs = emissions(rng, 6, 3)
        exact = every_text(log_probs, LETTERS, 2)
        best = max(exact.values())
        for beam in (1, 2, 4, 200):
            found = beam_hypotheses(log_probs, LETTERS, beam=beam)
            assert len(found) <= beam and found[0].score <= best + 1e-9
            assert found[0].score <= exact[found[0].text] + 1e-9
        assert found[0].score == pytest.approx(best)


def likes_b(words):
    """A bigram model by hand: `b` after `a` is likely."""
    before = words[-2] if len(words) > 1 else "<s>"
    return {("a", "b"): -0.1, ("<s>", "a"): -0.5}.get((before, words[-1]), -2.0 - 0.1 * len(words))


@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans(), st.booleans(), st.sampled_from([0.0, 1.5]))
def test_words_equal_the_sum_over_all_sequences(seed, n_steps, with_lexicon, with_model, bonus):
    log_probs = emissions(np.random.default_rng(seed), n_steps, 4)
    lexicon = ["a", "ab", "bb"] if with_lexicon else None
    model, weight = (likes_b if with_model else None), 0.7

    def score(words):
        total = bonus * len(words)
        if with_model:
            ended = (*words, "</s>")
            total += weight * sum(likes_b(ended[: k + 1]) for k in range(len(ended)))
        return total

    if not (with_lexicon or with_model or bonus):
        return
    expected = in_words(every_text(log_probs, WORDS, 3), score, lexicon)
    found = beam_hypotheses(log_probs, WORDS, 3, 10_000, lexicon, model, weight, bonus)
    assert scores_of(found) == pytest.approx(expected)
    assert beam_decode(log_probs, WORDS, 3, 10_000, lexicon, model, weight, bonus) == found[0].text


def test_a_text_that_no_word_of_the_lexicon_fits_is_empty():
    sure = np.log(np.array([[0.0, 1.0, 0.0, 0.0]]) + 1e-300)
    sure[sure < -600] = -np.inf
    assert beam_decode(sure, WORDS, lexicon=["a"]) == "" and beam_hypotheses(sure, WORDS, lexicon=["a"]) == []


# --- n-gram models ----------------------------------------------------------------------------------------

UNIGRAMS = {"<unk>": (-2.0, 0.0), "<s>": (-99.0, -0.3), "</s>": (-1.1, 0.0), "a": (-0.7, -0.2), "bb": (-0.9, -0.4)}
BIGRAMS = {("<s>", "bb"): -0.3, ("a", "bb"): -0.2, ("bb", "</s>"): -0.1, ("bb", "a"): -0.6}


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    file = tmp_path_factory.mktemp("arpa") / "words.arpa"
    unigrams = "".join(f"{p}\t{word}\t{backoff}\n" for word, (p, backoff) in UNIGRAMS.items())
    bigrams = "".join(f"{p}\t{' '.join(pair)}\n" for pair, p in BIGRAMS.items())
    head = f"\\data\\\nngram 1={len(UNIGRAMS)}\nngram 2={len(BIGRAMS)}\n"
    file.write_text(f"{head}\n\\1-grams:\n{unigrams}\n\\2-grams:\n{bigrams}\n\\end\\\n")
    return file


def by_hand(words):
    """Log-probability of a text by the definition of back-off, natural logarithm."""
    total, before = 0.0, "<s>"
    for word in (*words, "</s>"):
        known = word if word in UNIGRAMS else "<unk>"
        backed_off = UNIGRAMS[before][1] + UNIGRAMS[known][0]
        total += BIGRAMS.get((before, known), backed_off)
        before = known
    return total * math.log(10)


@given(st.integers(0, 10_000), st.sampled_from([None, ["a", "bb", "ab"]]))
def test_an_arpa_file_gives_the_scores_of_its_definition(arpa, seed, lexicon):
    pytest.importorskip("flashlight.lib.text.decoder")
    log_probs = emissions(np.random.default_rng(seed), 5, 4)
    expected = in_words(every_text(log_probs, WORDS, 3), lambda words: 0.8 * by_hand(words), lexicon)
    found = beam_hypotheses(log_probs, WORDS, 3, 10_000, lexicon, arpa, 0.8)
    assert scores_of(found) == pytest.approx(expected, abs=1e-5)


def flashlight_best(log_probs, alphabet, lexicon, file, weight, bonus):
    """The best words by flashlight's own lexicon decoder, with a wide beam; weight of the logarithm to base 10."""
    decoder = pytest.importorskip("flashlight.lib.text.decoder")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary").Dictionary(lexicon + ["<unk>"])
    model = pytest.importorskip("flashlight.lib.text.decoder.kenlm").KenLM(str(file), dictionary)
    space, blank, start = alphabet.index(" "), len(alphabet) - 1, model.start(False)
    trie = decoder.Trie(len(alphabet), space)
    for number, word in enumerate(lexicon):
        spelling = [alphabet.index(letter) for letter in word] + [space]
        trie.insert(spelling, number, model.score(start, number)[1])
    trie.smear(decoder.SmearingMode.MAX)
    options = decoder.LexiconDecoderOptions(
        2000, len(alphabet), 1e6, weight, bonus, -math.inf, 0.0, True, decoder.CriterionType.CTC
    )
    search = decoder.LexiconDecoder(options, trie, model, space, blank, len(lexicon), [], False)
    forced = np.full((1, len(alphabet)), -1e4)
    forced[0, space] = 0
    padded = np.ascontiguousarray(np.concatenate([log_probs, forced]), dtype=np.float32)
    best = search.decode(padded.ctypes.data, *padded.shape)[0]
    return " ".join(lexicon[word] for word in best.words if word >= 0), best.score


def test_the_best_words_are_those_of_flashlight(arpa):
    rng = np.random.default_rng(3)
    lexicon = ["a", "bb", "ab", "ba"]
    for _ in range(25):
        log_probs = emissions(rng, 12, 4, spread=1.5)
        text, score = flashlight_best(log_probs, WORDS, lexicon, arpa, 0.9, 0.4)
        mine = beam_hypotheses(log_probs, WORDS, 3, 2000, lexicon, arpa, 0.9 / math.log(10), 0.4)[0]
        assert mine.text == text and mine.score == pytest.approx(score, abs=1e-3)


def test_a_language_model_resolves_what_sounds_alike(arpa):
    pytest.importorskip("flashlight.lib.text.decoder")
    certain = 0.01 + 0.96 * np.eye(4)[[2, 1, 3, 1]]  # space, b, blank, b
    steps = np.log(np.concatenate([[[0.48, 0.50, 0.01, 0.01]], certain]))
    assert greedy_decode(steps, WORDS) == "b bb"
    assert beam_decode(steps, WORDS, language_model=arpa) == "a bb"
    assert beam_decode(steps, WORDS, language_model=str(arpa), weight=0.0) == "b bb"


def test_700_frames_are_decoded_in_seconds():
    alphabet = [*"abcdefghijklmnopqrstuvwxyz0123456789", " ", BLANK]
    log_probs = emissions(np.random.default_rng(4), 700, 38, spread=3.0)
    start = process_time()
    beam_decode(log_probs, alphabet, beam=100)
    assert process_time() - start < 20


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"log_probs": np.zeros((3, 4))}, "the probabilities of a step sum to 4; expected 1; apply log_softmax"),
        ({"log_probs": np.full((3, 4), np.nan)}, "sum to nan"),
        ({"log_probs": np.zeros((3, 3))}, "one column for each of the 4 texts"),
        ({"blank": 4}, "blank=4; expected one of the 4 columns"),
        ({"lexicon": ["ac"]}, "'ac' of the lexicon has 'c', which is no letter of the alphabet"),
        ({"lexicon": []}, r"lexicon=\[\]; expected at least one word"),
        ({"lexicon": ["a", ""]}, "'' in the lexicon is no word"),
        ({"alphabet": ["a", "b", " ", "-"], "lexicon": ["a-b"]}, "has '-', which is no letter"),  # the blank
        ({"alphabet": ["a", "a", " ", BLANK], "lexicon": ["a"]}, "has a text twice"),
        ({"lexicon": ["a", 3]}, "3 in the lexicon is no word"),
        ({"lexicon": "ab"}, "lexicon='ab'; expected at least one word in a list"),
        ({"alphabet": ["a", "b", "c", BLANK], "insertion_bonus": 1.0}, "has no ' '"),
        ({"language_model": "nowhere.arpa"}, "nowhere.arpa cannot be read"),
        ({"language_model": lambda words: math.nan}, "the language model returned NaN"),
        ({"beam": 0}, "beam=0; expected a number greater than or equal to 1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(changed, message):
    arguments = {"log_probs": np.full((3, 4), np.log(0.25)), "alphabet": WORDS}
    with pytest.raises(ArgumentError, match=message):
        beam_decode(**(arguments | changed))


def test_a_file_that_is_no_arpa_file_is_refused(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder")
    (tmp_path / "no.arpa").write_text("nothing\n")
    with pytest.raises(ArgumentError, match="has no section"):
        beam_decode(np.full((3, 4), np.log(0.25)), WORDS, language_model=tmp_path / "no.arpa")


def test_without_flashlight_the_error_says_what_to_install(arpa, monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder.kenlm", None)
    _read.cache_clear()
    with pytest.raises(ArgumentError, match=r"not installed; run pip install 'emg-lens\[speech\]'"):
        beam_decode(np.full((3, 4), np.log(0.25)), WORDS, language_model=arpa)
