"""The smallest p value that a design can reach, and a warning for designs that can never be significant."""

from collections.abc import Mapping, Sequence
from math import comb
from typing import NamedTuple

import scipy

from emg_lens.studies.statistics.rank_tests import EXACT_FLIPS, EXACT_MANN_WHITNEY, N_FLIPS
from emg_lens.studies.statistics.spec import StatisticsError, StatisticsSpec

SHORT_TEST_NAMES = {"mann-whitney": "Mann-Whitney", "wilcoxon": "Wilcoxon", "sign-flip": "sign-flip"}


class SmallestP(NamedTuple):
    """Smallest p value of a design: raw, and after correction in the best case."""

    raw: float
    corrected: float


def smallest_p(n_subjects: int, family_size: int, spec: StatisticsSpec) -> SmallestP:
    """Compute the smallest two-sided p of `spec.test` with this number of subjects (perfect separation).

    For exact tests this is 2 / C(2n, n) for Mann-Whitney and 2 / 2ⁿ for the paired tests (docs/statistics.md §5.6).
    Bonferroni and Holm multiply the smallest p of a family by its size. Benjamini-Hochberg leaves it unchanged if all p
    values are that small.

    Raises:
        StatisticsError: Fewer than one subject or one test.
    """
    if n_subjects < 1 or family_size < 1:
        raise StatisticsError(
            f"{n_subjects} subjects and {family_size} tests; expected at least one subject and one test"
        )
    raw = _smallest_mann_whitney(n_subjects) if spec.test == "mann-whitney" else 2 / 2**n_subjects
    if spec.test == "sign-flip" and n_subjects > EXACT_FLIPS:
        raw = 1 / N_FLIPS
    factor = 1 if spec.correction == "fdr_bh" else family_size
    return SmallestP(raw, min(raw * factor, 1.0))


def _smallest_mann_whitney(n: int) -> float:
    """The p of n values that are all below n others; the approximation is smallest if each group has one value."""
    if n <= EXACT_MANN_WHITNEY:
        return 2 / comb(2 * n, n)
    # U is then √(2n − 1) standard deviations from its mean n² / 2; the continuity correction subtracts 1 / n².
    return float(2 * scipy.stats.norm.sf((2 * n - 1) ** 0.5 * (1 - 1 / n**2)))


def power_warnings(n_subjects: int, sizes: Mapping[str, int] | Sequence[int], spec: StatisticsSpec) -> list[str]:
    """Write one warning if tests of this many subjects cannot be significant, with the number of subjects they need.

    Checks the test that sets the stars, and the paired Wilcoxon test, in the largest family.

    Args:
        n_subjects: Subjects of the study.
        sizes: Family sizes, with or without names: the result of `family_sizes`, or `[10]`.
        spec: Test, correction and significance level.
    """
    if not sizes:
        return []
    largest = max(sizes.values() if isinstance(sizes, Mapping) else sizes)
    needs, can = [], ""
    for test in dict.fromkeys([spec.test, "wilcoxon"]):
        chosen = spec.model_copy(update={"test": test})
        if smallest_p(n_subjects, largest, chosen).corrected >= spec.alpha:
            enough = (str(n) for n in range(2, 500) if smallest_p(n, largest, chosen).corrected < spec.alpha)
            needs.append(f"{SHORT_TEST_NAMES[test]} needs {next(enough, 'more than 500')} subjects")
        else:
            can = f"; {SHORT_TEST_NAMES[test]} can"
    if not needs:
        return []
    subjects, comparisons = _count(n_subjects, "subject"), _count(largest, "comparison")
    limit = f"{spec.alpha:g}".lstrip("0")
    reach = f"tests over subjects cannot reach p < {limit} after correction for {comparisons}, however large the effect"
    return [f"With {subjects}, {reach}: {', '.join(needs)}{can}."]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
