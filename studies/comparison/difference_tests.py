"""Differences between two runs over subjects, with intervals and p values (docs/statistics.md §5.8)."""

import numpy as np
import pandas as pd
import scipy
from jaxtyping import Float

from emg_lens.studies.comparison.pairing import ScorePair
from emg_lens.studies.statistics import rank_tests
from emg_lens.studies.statistics.families import EXTRA, corrected_by_family, family_sizes
from emg_lens.studies.statistics.intervals import FEWEST, NO_INTERVAL, mean_interval
from emg_lens.studies.statistics.spec import StatisticsSpec
from emg_lens.sweeps.conditions import BASELINE

N_RESAMPLES = 9999
"""Random divisions of unpaired subjects; all divisions are used if there are fewer."""
PAIRED_TEST = {"mann-whitney": "sign_flip", "sign-flip": "sign_flip", "wilcoxon": "wilcoxon"}
"""The paired test of a comparison, by the test of the study."""

SubjectValues = Float[np.ndarray, "subject value"]


def model_difference(
    pair: ScorePair, spec: StatisticsSpec, is_fraction: bool, lower_is_better: bool = False, largest: float = 1.0
) -> pd.DataFrame:
    """Compare the unmasked models of two runs.

    Args:
        pair: The scores of both runs.
        spec: Confidence, test and seed.
        is_fraction: Whether the metric is a fraction, reported in percentage points.
        lower_is_better: Whether the metric is an error.
        largest: Largest value of a fraction.

    Returns:
        One row: the columns of `column_differences`, and `n_better`, the number of subjects with a better score in the
        other run (NaN if the runs are not paired).
    """
    values = [frame[[BASELINE]].to_numpy(dtype=float) for frame in (pair.reference, pair.other)]
    table = column_differences(
        values[0], values[1], spec, paired=pair.paired, bound=largest if is_fraction else np.inf, percent=is_fraction
    )
    change = rank_tests.difference(values[1], values[0]) if pair.paired else np.full((1, 1), np.nan)
    better = (-change if lower_is_better else change) > 0
    return table.assign(n_better=better.sum() if pair.paired else np.nan)


def drop_differences(
    pair: ScorePair, spec: StatisticsSpec, is_fraction: bool, lower_is_better: bool = False, largest: float = 1.0
) -> pd.DataFrame:
    """Compare the drops of all shared ablations between two runs. A drop is positive if the ablation does harm.

    Returns:
        One row an ablation: `condition`, then the columns of `column_differences` for the drops of a subject.
    """
    drops = []
    for frame in (pair.reference, pair.other):
        change = frame.drop(columns=BASELINE).sub(frame[BASELINE], axis=0)
        drops.append((change if lower_is_better else -change).to_numpy(dtype=float))
    table = column_differences(
        drops[0], drops[1], spec, paired=pair.paired, bound=2 * largest if is_fraction else np.inf, percent=is_fraction
    )
    return table.assign(condition=pair.reference.columns.drop(BASELINE).tolist())


def column_differences(
    reference: SubjectValues,
    other: SubjectValues,
    spec: StatisticsSpec,
    *,
    paired: bool,
    bound: float = np.inf,
    percent: bool = False,
) -> pd.DataFrame:
    """Compare columns of two arrays, other minus reference.

    Args:
        reference: One row a subject.
        other: One row a subject, with the same columns; if paired, the same subjects in the same order.
        spec: Confidence, test and seed.
        paired: Whether rows belong together.
        bound: Largest possible absolute difference.
        percent: Whether differences are returned in percentage points.

    Returns:
        One row a column: `n_subjects` (paired: of both; else NaN), `n_reference`, `n_other`, `reference` and `other`
        (means), `difference`, `ci_low`, `ci_high`, `smallest` and `largest` (change of a subject; NaN if not paired),
        `test` and `p` (two-sided, not corrected), and `p_t`, the p of the t test
        that belongs to the interval (NaN without an interval).

    Example:
        >>> a, b = np.array([[0.5], [0.6], [0.7], [0.5], [0.6]]), np.array([[0.6], [0.8], [0.8], [0.6], [0.8]])
        >>> table = column_differences(a, b, StatisticsSpec(), paired=True)
        >>> table[["difference", "ci_low", "ci_high", "p"]].round(3).to_dict("records")
        [{'difference': 0.14, 'ci_low': 0.072, 'ci_high': 0.208, 'p': 0.062}]
    """
    columns = {
        "n_subjects": len(other) if paired else np.nan,
        "n_reference": len(reference),
        "n_other": len(other),
        "reference": reference.mean(axis=0),
        "other": other.mean(axis=0),
        "difference": np.round(other.mean(axis=0) - reference.mean(axis=0), 12),
    }
    change = rank_tests.difference(other, reference) if paired else None
    if change is not None:
        columns |= {"difference": change.mean(axis=0), "smallest": change.min(axis=0), "largest": change.max(axis=0)}
    else:
        columns |= dict.fromkeys(("smallest", "largest"), np.full(reference.shape[1], np.nan))
    ends = _intervals(reference, other, paired, spec.confidence, bound)
    columns |= {"ci_low": ends[:, 0], "ci_high": ends[:, 1], "p_t": _p_of_t(reference, other, change, ends)}
    if not reference.shape[1]:
        columns |= {"test": "", "p": np.empty(0)}
    elif paired:
        test = PAIRED_TEST[spec.test]
        columns |= {"test": test.replace("_", "-"), "p": rank_tests.p_values(test, other, reference, spec.seed)}
    else:
        columns |= {"test": "permutation", "p": _permutation_p(reference, other, spec.seed)}
    table = pd.DataFrame(columns)
    if percent:
        scaled = ["difference", "ci_low", "ci_high", "smallest", "largest"]
        table[scaled] = 100 * table[scaled]
    return table


def with_corrections(table: pd.DataFrame, spec: StatisticsSpec, family: str) -> pd.DataFrame:
    """Add `family_size`, `p_corrected`, and whether a difference is `clear`.

    A difference is clear if the p of its t test, corrected in the same way, is below 1 − confidence. For a single
    hypothesis, this means that the interval excludes zero.

    Args:
        table: Rows of `column_differences`, with `condition`; for the families "mode" and "distinct" also with `mode`,
            `structural_null` and `equivalent_to`.
        spec: Correction and confidence.
        family: Hypotheses that are corrected together, as in `StatisticsSpec.family`.
    """
    sizes = family_sizes(table, family)
    label = table["mode"].replace("", EXTRA) if family == "mode" else pd.Series(family, table.index)
    corrected, of_t = (corrected_by_family(table, column, family, spec.correction) for column in ("p", "p_t"))
    n = label.map(sizes).fillna(0).astype(int)
    return table.assign(family_size=n, p_corrected=corrected, clear=of_t < 1 - spec.confidence)


def _intervals(
    reference: SubjectValues, other: SubjectValues, paired: bool, confidence: float, bound: float
) -> Float[np.ndarray, "value end"]:
    if paired:
        change = rank_tests.difference(other, reference)
        ends = [mean_interval(column, confidence, (-bound, bound)) for column in change.T]
    else:
        ends = [welch_interval(*columns, confidence, bound) for columns in zip(reference.T, other.T, strict=True)]
    return np.array(ends).reshape(-1, 2)


def _p_of_t(
    reference: SubjectValues, other: SubjectValues, change: SubjectValues | None, ends: Float[np.ndarray, "value end"]
) -> Float[np.ndarray, " value"]:
    """Two-sided p of the t test of each column; NaN for columns without an interval."""
    p, known = np.full(len(ends), np.nan), ~np.isnan(ends[:, 0])
    if known.any() and change is not None:
        p[known] = scipy.stats.ttest_1samp(change[:, known], 0).pvalue
    elif known.any():
        p[known] = scipy.stats.ttest_ind(other[:, known], reference[:, known], equal_var=False).pvalue
    return p


def welch_interval(
    reference: Float[np.ndarray, " subject"],
    other: Float[np.ndarray, " subject"],
    confidence: float = 0.95,
    bound: float = np.inf,
) -> tuple[float, float]:
    """Compute Welch's t interval of the difference of two means, for subjects that are not paired.

    Returns:
        Lower and upper end; NaN if a group has fewer than five subjects, or if both have equal values only.
    """
    if min(len(reference), len(other)) < FEWEST or max(np.ptp(reference), np.ptp(other)) <= 0:
        return NO_INTERVAL
    ends = scipy.stats.ttest_ind(other, reference, equal_var=False).confidence_interval(confidence)
    return float(max(ends.low, -bound)), float(min(ends.high, bound))


def _permutation_p(reference: SubjectValues, other: SubjectValues, seed: int) -> Float[np.ndarray, " value"]:
    def difference_of_means(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.round(np.mean(a, axis) - np.mean(b, axis), 12)

    done = scipy.stats.permutation_test(
        (other, reference), difference_of_means, n_resamples=N_RESAMPLES, vectorized=True, rng=seed, batch=500
    )
    return np.atleast_1d(done.pvalue)
