"""Prefix beam search in the space of logarithms, with an optional lexicon and language model (Hannun et al. 2014).

A prefix is the text of the steps so far. It has two probabilities: of the sequences that end in a blank, and of those
that end in its last symbol. All prefixes and symbols of a step are extended at once.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emg_lens.validation import ArgumentError, short

SPACE, END = " ", "</s>"
ROOT, NO_SYMBOL, NO_WORD = 0, -1, -1


class Hypothesis(NamedTuple):
    """A text with its score: natural logarithm of its probability, plus the scores of its words."""

    text: str
    score: float


@dataclass(frozen=True)
class WordScores:
    """What is known of words: which ones exist, and how probable they are.

    Attributes:
        space: Symbol that separates words.
        children: Next node of the tree of all words by node and symbol, `NO_WORD` where no word goes on; None without
            a lexicon.
        ends: Nodes at which a word ends.
        language_model: Natural logarithm of the probability of the last word after the others; None: 0.
        weight: Weight of the language model.
        bonus: Added for each word.
    """

    space: int
    children: Int[np.ndarray, "node symbol"] | None
    ends: Bool[np.ndarray, " node"] | None
    language_model: Callable[[tuple[str, ...]], float] | None
    weight: float
    bonus: float

    @classmethod
    def of(
        cls,
        alphabet: Sequence[str],
        lexicon: Collection[str] | None,
        language_model: Callable[[tuple[str, ...]], float] | None,
        weight: float,
        bonus: float,
    ) -> "WordScores":
        """Check what is known of words, and build the tree of a lexicon."""
        if SPACE not in alphabet:
            raise ArgumentError(
                f"alphabet={short(list(alphabet))} has no ' '; lexicon, language model and bonus need a symbol that"
                " separates words"
            )
        written = [text for text in alphabet if text]
        if len(set(written)) < len(written):
            raise ArgumentError(f"alphabet={short(list(alphabet))} has a text twice; expected a different one each")
        space = list(alphabet).index(SPACE)
        if lexicon is None:
            return cls(space, None, None, language_model, weight, bonus)
        if isinstance(lexicon, str) or not lexicon:
            raise ArgumentError(f"lexicon={short(lexicon)}; expected at least one word in a list")
        return cls(space, *_tree_of(tuple(alphabet), frozenset(lexicon)), language_model, weight, bonus)

    def score(self, words: tuple[str, ...]) -> float:
        """Score the last word after the others."""
        score = 0.0 if words[-1] == END else self.bonus
        if self.language_model is not None and self.weight:
            score += self.weight * float(self.language_model(words))
        if math.isnan(score):
            raise ArgumentError(f"the language model returned NaN for {short(words)}; expected a log-probability")
        return score


@lru_cache(maxsize=4)
def _tree_of(
    alphabet: tuple[str, ...], lexicon: frozenset[str]
) -> tuple[Int[np.ndarray, "node symbol"], Bool[np.ndarray, " node"]]:
    """Build the tree of all words: next node by node and symbol, and whether a word ends at a node."""
    symbols = {text: k for k, text in enumerate(alphabet) if text != SPACE}
    rows: list[dict[int, int]] = [{}]
    ends: set[int] = set()
    for word in lexicon:
        if not isinstance(word, str) or not word:
            raise ArgumentError(f"{short(word)} in the lexicon is no word; remove it")
        node = ROOT
        for letter in word:
            if letter not in symbols:
                raise ArgumentError(
                    f"{short(word)} of the lexicon has {letter!r}, which is no letter of the alphabet; remove the word,"
                    " or write it with the letters of the alphabet"
                )
            symbol = symbols[letter]
            if symbol not in rows[node]:
                rows[node][symbol] = len(rows)
                rows.append({})
            node = rows[node][symbol]
        ends.add(node)
    children = np.full((len(rows), len(alphabet)), NO_WORD, np.int32)
    for node, row in enumerate(rows):
        children[node, list(row)] = list(row.values())
    return children, np.isin(np.arange(len(rows)), list(ends))


class _Prefixes(NamedTuple):
    """The prefixes of one step."""

    node: Int[np.ndarray, " prefix"]
    last: Int[np.ndarray, " prefix"]
    blank: Float[np.ndarray, " prefix"]
    """Log-probability of the sequences that end in a blank."""
    symbol: Float[np.ndarray, " prefix"]
    """Log-probability of the sequences that end in the last symbol."""
    words: Float[np.ndarray, " prefix"]
    """Score of the complete words."""
    place: Int[np.ndarray, " prefix"]
    """Node in the tree of the lexicon."""


class PrefixBeam:
    """The search for one utterance."""

    def __init__(self, alphabet: list[str], blank: int, beam: int, words: WordScores | None) -> None:
        self.alphabet, self.blank, self.beam, self.known = alphabet, blank, beam, words
        self.parents, self.symbols = [ROOT], [NO_SYMBOL]
        self.children: dict[tuple[int, int], int] = {}
        self.words: list[tuple[tuple[str, ...], str]] = [((), "")]
        """Complete words and begun word of each prefix; only where words are scored."""
        self.word_scores: dict[int, float] = {}

    def search(self, log_probs: Float[np.ndarray, "time symbol"]) -> list[Hypothesis]:
        """Return the texts of the last beam, best first."""
        zero, never, root = np.zeros(1), np.full(1, -np.inf), np.array([ROOT])
        prefixes = _Prefixes(root, np.array([NO_SYMBOL]), zero, never, zero, root)
        with np.errstate(invalid="ignore"):  # -inf - -inf inside of logaddexp
            for row in log_probs:
                prefixes = self._step(prefixes, row)
            if self.known is not None:  # a space ends the last word
                row = np.full(len(self.alphabet), -np.inf)
                row[self.known.space] = 0
                prefixes = self._step(prefixes, row)
            scores = np.logaddexp(prefixes.blank, prefixes.symbol) + prefixes.words
        found = [self._hypothesis(node, score) for node, score in zip(prefixes.node, scores.tolist(), strict=True)]
        return sorted(found, key=lambda one: (-one.score, one.text))

    def _hypothesis(self, node: int, score: float) -> Hypothesis:
        if self.known is not None:
            words = self.words[node][0]
            return Hypothesis(" ".join(words), score + self.known.score((*words, END)))
        symbols = []
        while node != ROOT:
            symbols.append(self.symbols[node])
            node = self.parents[node]
        return Hypothesis("".join(self.alphabet[symbol] for symbol in symbols[::-1]), score)

    def _step(self, now: _Prefixes, row: Float[np.ndarray, " symbol"]) -> _Prefixes:
        """Extend all prefixes by a blank, by their last symbol, and by every other symbol; keep the best."""
        begun = now.last != NO_SYMBOL
        total = np.logaddexp(now.blank, now.symbol)
        blank, symbol = total + row[self.blank], np.where(begun, now.symbol + row[now.last], -np.inf)
        longer = total[:, None] + row
        longer[begun, now.last[begun]] = (now.blank + row[now.last])[begun]  # a repeated letter needs a blank before it
        longer[:, self.blank] = -np.inf
        words = np.zeros_like(longer)
        if self.known is not None:
            space, between = self.known.space, ~begun | (now.last == self.known.space)
            symbol = np.where(between, total + row[space], symbol)  # a second space writes nothing
            longer = self._within_words(now, longer, between)
            for k in np.flatnonzero(longer[:, space] > -np.inf).tolist():
                words[k, space] = self._word_score(int(now.node[k]))
        self._merge(now, symbol, longer)
        stay = np.logaddexp(blank, symbol) + now.words
        scores = np.concatenate([stay, (longer + words + now.words[:, None]).ravel()])
        best = np.flatnonzero(scores > -np.inf)
        if len(best) > self.beam:
            best = best[np.argpartition(-scores[best], self.beam - 1)[: self.beam]]
        same = best[best < len(stay)]
        old, new = np.divmod(best[best >= len(stay)] - len(stay), len(row))
        nodes = [self._child(node, letter) for node, letter in zip(now.node[old].tolist(), new.tolist(), strict=True)]
        place = now.place[old]
        if self.known is not None and self.known.children is not None:
            place = np.where(new == self.known.space, ROOT, self.known.children[place, new])
        return _Prefixes(
            np.concatenate([now.node[same], np.array(nodes, int)]),
            np.concatenate([now.last[same], new]),
            np.concatenate([blank[same], np.full(len(new), -np.inf)]),
            np.concatenate([symbol[same], longer[old, new]]),
            np.concatenate([now.words[same], now.words[old] + words[old, new]]),
            np.concatenate([now.place[same], place]),
        )

    def _within_words(
        self, now: _Prefixes, longer: Float[np.ndarray, "prefix symbol"], between: Bool[np.ndarray, " prefix"]
    ) -> Float[np.ndarray, "prefix symbol"]:
        """Remove letters that continue no word of the lexicon, and spaces that end none."""
        assert self.known is not None
        after, may_end = longer[:, self.known.space], ~between
        if self.known.children is not None and self.known.ends is not None:
            longer = np.where(self.known.children[now.place] == NO_WORD, -np.inf, longer)
            may_end = may_end & self.known.ends[now.place]
        longer[:, self.known.space] = np.where(may_end, after, -np.inf)
        return longer

    def _merge(
        self, now: _Prefixes, symbol: Float[np.ndarray, " prefix"], longer: Float[np.ndarray, "prefix symbol"]
    ) -> None:
        """Add extensions that are already a prefix of the beam to this prefix."""
        at = {node: k for k, node in enumerate(now.node.tolist())}
        parents = np.array([at.get(self.parents[node], -1) if node != ROOT else -1 for node in at], int)
        is_child = parents >= 0
        places = parents[is_child], now.last[is_child]
        symbol[is_child] = np.logaddexp(symbol[is_child], longer[places])
        longer[places] = -np.inf

    def _child(self, node: int, symbol: int) -> int:
        """Return the number of a prefix that is one symbol longer; the same one whenever it occurs again."""
        child = self.children.setdefault((node, symbol), len(self.parents))
        if child == len(self.parents):
            self.parents.append(node)
            self.symbols.append(symbol)
            if self.known is not None:
                complete, begun = self.words[node]
                ends = symbol == self.known.space
                self.words.append(((*complete, begun), "") if ends else (complete, begun + self.alphabet[symbol]))
        return child

    def _word_score(self, node: int) -> float:
        """Score of the word that ends here."""
        if node not in self.word_scores:
            assert self.known is not None
            complete, begun = self.words[node]
            self.word_scores[node] = self.known.score((*complete, begun))
        return self.word_scores[node]
