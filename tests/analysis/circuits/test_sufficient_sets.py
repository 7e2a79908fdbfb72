"""The search for minimal sufficient sets, against families of sets that are known."""

from hypothesis import given
from hypothesis import strategies as st

from emg_lens.analysis.circuits.sufficient_sets import minimal_set, minimal_sets

ELEMENTS = 12


def every_set(minimal, ranking, limit):
    """All minimal sets, with the same ranking in every search."""
    return minimal_sets(
        Counted(minimal), frozenset(ranking), lambda left_out: [i for i in ranking if i not in left_out], limit
    )


class Counted:
    """A monotone property: a set is sufficient if it contains one of the minimal sets."""

    def __init__(self, minimal):
        self.minimal, self.runs = minimal, 0

    def __call__(self, sets):
        self.runs += len(sets)
        return [any(own <= one for own in self.minimal) for one in sets]


def antichain(sets):
    return {one for one in sets if not any(other < one for other in sets)}


families = st.sets(st.frozensets(st.integers(0, ELEMENTS - 1), min_size=1, max_size=4), min_size=1, max_size=4)


@given(families.map(antichain), st.permutations(range(ELEMENTS)))
def test_all_minimal_sets_are_found_in_any_order(minimal, ranking):
    known, limit_hit = every_set(minimal, ranking, 20)
    assert set(known) == minimal
    assert len(known) == len(minimal)
    assert not limit_hit


@given(families.map(antichain), st.permutations(range(ELEMENTS)))
def test_one_minimal_set_is_one_of_them(minimal, ranking):
    assert minimal_set(Counted(minimal), ranking) in minimal


def test_no_set_is_sufficient():
    assert minimal_set(Counted({frozenset({20})}), range(5)) is None
    assert every_set({frozenset({20})}, range(5), 3) == ([], False)


def test_the_empty_set_is_sufficient():
    assert minimal_set(Counted({frozenset()}), range(5)) == frozenset()


def test_the_search_stops_at_the_limit():
    minimal = {frozenset({i}) for i in range(6)}
    known, limit_hit = every_set(minimal, range(8), 3)
    assert len(known) == 3
    assert limit_hit


def test_a_good_ranking_needs_few_runs():
    enough = Counted({frozenset({0, 1, 2})})
    assert minimal_set(enough, range(1000)) == {0, 1, 2}
    assert enough.runs <= 12
    bad = Counted({frozenset({997, 998, 999})})
    assert minimal_set(bad, range(1000)) == {997, 998, 999}
    assert bad.runs < 60


def test_a_property_that_is_not_monotone_gives_a_set_without_spare_elements():
    # {0} is sufficient, {0, 1} is not (1 is negative), {0, 1, 2} is again.
    def enough(sets):
        return [0 in one and (1 not in one or 2 in one) for one in sets]

    assert minimal_set(enough, [0, 1, 2]) == {0}
    assert minimal_set(enough, [1, 2, 0]) == {0}
