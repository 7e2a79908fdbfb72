"""Minimal sufficient sets: search for subsets that keep a property, when each test of a subset is expensive.

`minimal_set` is QuickXplain (Junker 2004) on a prefix of a ranking; `minimal_sets` is the hitting-set tree of Reiter
(1987). Both are exact if the property is monotone: a superset of a sufficient set is sufficient.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

Elements = frozenset[int]
Enough = Callable[[Sequence[Elements]], Sequence[bool]]
"""Says for each of several sets whether it is sufficient."""
Rank = Callable[[Elements], Sequence[int]]
"""Ranks all elements except the given ones, the most important first."""


def minimal_set(enough: Enough, ranking: Sequence[int]) -> Elements | None:
    """Find one minimal sufficient set.

    The search starts with the shortest sufficient prefix of the ranking, so that a good ranking needs few tests.

    Args:
        enough: The property.
        ranking: The elements, the most important first.

    Returns:
        A sufficient set of which no element can be left out; None if all elements together are not sufficient.
    """
    if not _one(enough, ranking):
        return None
    chosen = _needed(enough, (), ranking[: _sufficient_prefix(enough, ranking)], background_grew=False)
    while spare := _spare(enough, chosen):
        for element in sorted(spare, key=ranking.index, reverse=True):  # if the property is not monotone
            if _one(enough, rest := [one for one in chosen if one != element]):
                chosen = rest
    return frozenset(chosen)


def minimal_sets(enough: Enough, elements: Elements, rank: Rank, limit: int) -> tuple[list[Elements], bool]:
    """Find all minimal sufficient sets: leave out one element of a known set, and search again.

    Args:
        enough: The property.
        elements: All elements.
        rank: Ranks the elements that are not left out; called for each search.
        limit: Largest number of sets.

    Returns:
        The sets in the order of their discovery, and whether the search stopped at the limit.
    """
    known: list[Elements] = []
    left_out: deque[Elements] = deque([frozenset()])
    seen = {frozenset()}
    while left_out:
        without = left_out.popleft()
        one = next((some for some in known if not some & without), None)
        if one is None:
            one = minimal_set(enough, rank(without)) if _one(enough, elements - without) else None
            if one is None:
                continue
            if len(known) == limit:
                return known, True
            known.append(one)
        for element in sorted(one):
            if (larger := without | {element}) not in seen:
                seen.add(larger)
                left_out.append(larger)
    return known, False


def _one(enough: Enough, elements: Iterable[int]) -> bool:
    return bool(enough([frozenset(elements)])[0])


def _sufficient_prefix(enough: Enough, ranking: Sequence[int]) -> int:
    """Return the length of a short sufficient prefix: double the length, then bisect."""
    low, high = 0, 1
    while high < len(ranking) and not _one(enough, ranking[:high]):
        low, high = high, 2 * high
    high = min(high, len(ranking))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _one(enough, ranking[:middle]) else (middle, high)
    return high


def _spare(enough: Enough, chosen: Sequence[int]) -> list[int]:
    """Return the elements that can be left out one at a time."""
    without = [frozenset(chosen) - {element} for element in chosen]
    return [element for element, still in zip(chosen, enough(without), strict=True) if still]


def _needed(
    enough: Enough, background: Sequence[int], candidates: Sequence[int], background_grew: bool
) -> Sequence[int]:
    """Return a minimal part of the candidates that is sufficient together with the background."""
    if background_grew and _one(enough, background):
        return ()
    if len(candidates) <= 1:
        return candidates
    half = len(candidates) // 2
    first, second = candidates[:half], candidates[half:]
    from_second = _needed(enough, [*background, *first], second, True)
    from_first = _needed(enough, [*background, *from_second], first, bool(from_second))
    return [*from_first, *from_second]
