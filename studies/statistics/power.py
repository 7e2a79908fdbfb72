"""What so few subjects can show at all: the smallest p of a design, and a warning before anybody waits."""

import itertools
from collections.abc import Mapping, Sequence
from math import comb
from typing import NamedTuple

import scipy

from emg_lens.studies.statistics.rank_tests import EXACT_FLIPS, EXACT_MANN_WHITNEY, N_FLIPS
from emg_lens.studies.statistics.spec import StatisticsError, StatisticsSpec


class SmallestP(NamedTuple):
    """The smallest p that a design can give: raw, and after correction in the best case."""

    raw: float
    corrected: float


def smallest_p(n_subjects: int, family_size: int, spec: StatisticsSpec) -> SmallestP:
    """The smallest two-sided p that `spec.test` gives with so many subjects: that of a perfect separation.

    2 / C(2n, n) for Mann-Whitney, 2 / 2ⁿ for the paired tests, as far as these are exact (docs/statistics.md §5.6).
    Bonferroni and Holm multiply the smallest p of a family by its size; Benjamini-Hochberg may leave it as it is, if
    all are that small.

    Raises:
        StatisticsError: No subject, or no test.
    """
    if n_subjects < 1 or family_size < 1:
        raise StatisticsError(f"needs at least one subject and one test, got {n_subjects} and {family_size}")
    raw = _smallest_mann_whitney(n_subjects) if spec.test == "mann-whitney" else 2 / 2**n_subjects
    if spec.test == "sign-flip" and n_subjects > EXACT_FLIPS:
        raw = 1 / N_FLIPS
    factor = 1 if spec.correction == "fdr_bh" else family_size
    return SmallestP(raw, min(raw * factor, 1.0))


def _smallest_mann_whitney(n: int) -> float:
    """The p of n values that all lie below n others; approximated, it is smallest where each group is of one value."""
    if n <= EXACT_MANN_WHITNEY:
        return 2 / comb(2 * n, n)
    # Then U lies √(2n − 1) standard deviations from its mean n² / 2; the correction for continuity takes off 1 / n².
    return float(2 * scipy.stats.norm.sf((2 * n - 1) ** 0.5 * (1 - 1 / n**2)))


def power_warnings(n_subjects: int, sizes: Mapping[str, int] | Sequence[int], spec: StatisticsSpec) -> list[str]:
    """One sentence for each test and size of family that cannot be significant with so few subjects; ask first.

    Looks at the test that sets the stars, and at the paired Wilcoxon test beside it.

    Args:
        n_subjects: Subjects of the study.
        sizes: Family sizes, with or without names: the result of `family_sizes`, or `[10]`.
        spec: Test, correction and level.
    """
    named = sizes if isinstance(sizes, Mapping) else {f"of {size}": size for size in sizes}
    sentences = []
    for test, size in itertools.product(dict.fromkeys([spec.test, "wilcoxon"]), dict.fromkeys(named.values())):
        chosen = spec.model_copy(update={"test": test})
        raw, corrected = smallest_p(n_subjects, size, chosen)
        if corrected < spec.alpha:
            continue
        families = [repr(name) for name, of_size in named.items() if of_size == size]
        enough = (n for n in range(2, 500) if smallest_p(n, size, chosen).corrected < spec.alpha)
        which = f"the {test} test" + ", which is told beside it," * (test != spec.test)
        sentences.append(
            f"With {_count(n_subjects, 'subject')} {which} cannot be significant in"
            f" {'family' if len(families) == 1 else 'the families'} {', '.join(families)}:"
            f" its smallest possible p is {raw:.2g}, {corrected:.2g} after {spec.correction} over"
            f" {_count(size, 'test')}, and alpha is {spec.alpha:g};"
            f" it takes {next(enough, 'over 500')} subjects."
        )
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
