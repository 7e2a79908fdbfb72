"""What so few subjects can show at all: the smallest p of a design, and a warning before anybody waits."""

import itertools
from collections.abc import Mapping, Sequence
from math import comb
from typing import NamedTuple

from emg_lens.studies.statistics.rank_tests import EXACT_FLIPS, N_FLIPS
from emg_lens.studies.statistics.spec import StatisticsError, StatisticsSpec


class SmallestP(NamedTuple):
    """The smallest p that a design can give: raw, and after correction in the best case."""

    raw: float
    corrected: float


def smallest_p(n_subjects: int, family_size: int, spec: StatisticsSpec) -> SmallestP:
    """The smallest two-sided p that `spec.test` can give with so many subjects.

    Mann-Whitney: 2 / C(2n, n); Wilcoxon and sign flip: 2 / 2ⁿ (docs/protocol.md §5.6). Bonferroni and Holm
    multiply the smallest p of a family by its size; Benjamini-Hochberg may leave it as it is, if all are
    that small.
    """
    if n_subjects < 1 or family_size < 1:
        raise StatisticsError(f"needs at least one subject and one test, got {n_subjects} and {family_size}")
    raw = 2 / comb(2 * n_subjects, n_subjects) if spec.test == "mann-whitney" else 2 / 2**n_subjects
    if spec.test == "sign-flip" and n_subjects > EXACT_FLIPS:
        raw = max(raw, 1 / N_FLIPS)
    factor = 1 if spec.correction == "fdr_bh" else family_size
    return SmallestP(min(raw, 1.0), min(raw * factor, 1.0))


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
        sentences.append(
            f"With {_count(n_subjects, 'subject')} the {test} test cannot be significant in"
            f" {'family' if len(families) == 1 else 'the families'} {', '.join(families)}:"
            f" its smallest possible p is {raw:.2g}, {corrected:.2g} after {spec.correction} over"
            f" {_count(size, 'test')}, and alpha is {spec.alpha:g};"
            f" it takes {next(enough, 'over 500')} subjects."
        )
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
