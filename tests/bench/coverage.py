"""Measure how often intervals contain the true mean and exclude zero, and how often tests reject without an effect.

`python tests/bench/coverage.py [--cohorts N]` prints the tables of docs/statistics.md §5.3 and §5.5 (a minute for
2,000 cohorts): coverage of 95 % intervals of the mean change for 5, 8, 10 and 20 subjects (Student's, which reports
print, Hall's correction for skewness, and the BCa bootstrap, over five times as many cohorts); their power; and the
fraction of cohorts in which any of ten conditions is significant at 5 % although none has an effect, for every test
and correction.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float

from emg_lens.studies.statistics.corrections import CORRECTIONS, adjust
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.studies.statistics.rank_tests import TESTS, p_values

SUBJECTS = (5, 8, 10, 20)
CONFIDENCE, ALPHA = 0.95, 0.05
N_CONDITIONS, N_TRIALS = 10, 34
"""One mask mode of the IsoNet paper, and its test trials a subject: accuracies are multiples of 1 / 34."""
EFFECTS = (0, 0.5, 1, 2)
"""Mean changes in standard deviations over subjects; 0 gives the rate of intervals below zero without an effect."""

Changes = Float[np.ndarray, "cohort subject"]
Ends = Float[np.ndarray, "cohort end"]


class Population(NamedTuple):
    """Changes that subjects are drawn from.

    Attributes:
        words: What they are.
        draw: From a generator and a shape.
        mean: Their mean.
    """

    words: str
    draw: Callable[[np.random.Generator, tuple[int, int]], Changes]
    mean: float


POPULATIONS = (
    Population("normal", lambda rng, shape: rng.normal(-0.1, 0.05, shape), -0.1),
    Population("exponential", lambda rng, shape: -rng.exponential(0.1, shape), -0.1),
    Population("tied: one of 34 trials lost on average", lambda rng, shape: -rng.poisson(1, shape) / N_TRIALS, -1 / 34),
    Population(
        "rare: one subject in five loses 1 to 5 trials",
        lambda rng, shape: -1.0 * (rng.random(shape) < 0.2) * rng.integers(1, 6, shape) / N_TRIALS,
        -0.2 * 3 / N_TRIALS,
    ),
)


# --- intervals --------------------------------------------------------------------------------------------


def students(changes: Changes) -> Ends:
    """Student's t: the intervals of reports."""
    return np.array([mean_interval(cohort, CONFIDENCE) for cohort in changes])


def halls(changes: Changes) -> Ends:
    """Student's quantiles mapped through a cubic that removes skewness (Hall, J. R. Stat. Soc. B 54 (1992), 221)."""
    n, mean, sd = changes.shape[1], changes.mean(1), changes.std(1, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness = scipy.stats.skew(changes, axis=1)
        reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) / np.sqrt(n)
        shifted = np.array([reach, -reach])[:, None] - skewness / (6 * n)
        root = np.cbrt(1 + skewness * shifted)
        return (mean - sd * 3 * shifted / (root**2 + root + 1)).T


def bootstrapped(changes: Changes) -> Ends:
    """BCa bootstrap, 999 resamples; undefined where all changes are equal."""
    ends = np.full((len(changes), 2), np.nan)
    some = np.ptp(changes, axis=1) > 0
    options = {"confidence_level": CONFIDENCE, "n_resamples": 999, "batch": 50, "rng": 0, "axis": 1}
    interval = scipy.stats.bootstrap((changes[some],), np.mean, method="BCa", **options).confidence_interval
    ends[some] = np.stack([interval.low, interval.high], axis=1)
    return ends


METHODS = {"Student (ours)": students, "Hall": halls, "BCa bootstrap": bootstrapped}


def cohorts(population: Population, n_subjects: int, n_cohorts: int) -> Changes:
    """Random cohorts of a population."""
    return np.round(population.draw(np.random.default_rng(n_subjects), (n_cohorts, n_subjects)), 12)


def coverage(population: Population, n_subjects: int, n_cohorts: int) -> dict[str, tuple[float, float, float]]:
    """Fraction of cohorts with an interval that contains the mean, and the length relative to Student's, by method.

    The length is given as the median and the 90th percentile over cohorts. A cohort without an interval is not covered.
    """
    changes = cohorts(population, n_subjects, n_cohorts)
    ends = {name: method(changes) for name, method in METHODS.items()}
    unit = np.ptp(ends["Student (ours)"], axis=1)
    results = {}
    for name, (low, high) in ((name, e.T) for name, e in ends.items()):
        covers = (low <= population.mean + 1e-12) & (high >= population.mean - 1e-12)
        known = np.isfinite(high - low) & (unit > 0)
        lengths = np.quantile((high - low)[known] / unit[known], (0.5, 0.9))
        results[name] = float(covers.mean()), *map(float, lengths)
    return results


def power(effect: float, n_subjects: int, n_cohorts: int) -> dict[str, float]:
    """Fraction of cohorts with an interval below zero, for normal changes whose mean is this many SD below zero."""
    changes = cohorts(Population("", lambda rng, shape: rng.normal(-effect, 1, shape), -effect), n_subjects, n_cohorts)
    return {name: float((method(changes)[:, 1] < 0).mean()) for name, method in METHODS.items()}


# --- tests ------------------------------------------------------------------------------------------------


def null_p_values(n_subjects: int, n_cohorts: int) -> dict[str, Float[np.ndarray, "cohort condition"]]:
    """Raw p of ten conditions that add noise and nothing else, of every test."""
    rng = np.random.default_rng(n_subjects)
    skill = rng.normal(0.85, 0.06, (n_subjects, n_cohorts, 1))
    baseline = skill + rng.normal(0, 0.04, (n_subjects, n_cohorts, 1))
    masked = skill + rng.normal(0, 0.04, (n_subjects, n_cohorts, N_CONDITIONS))
    fractions = (np.round(np.clip(a, 0, 1) * N_TRIALS) / N_TRIALS for a in np.broadcast_arrays(masked, baseline))
    masked, baseline = (a.reshape(n_subjects, -1) for a in fractions)
    return {test: p_values(test, masked, baseline).reshape(n_cohorts, N_CONDITIONS) for test in TESTS}


def level(p: Float[np.ndarray, "cohort condition"], correction: str) -> float:
    """Fraction of cohorts in which any corrected p is below 5 %."""
    return float(np.mean([(adjust(family, correction) < ALPHA).any() for family in p]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=2000)
    n_cohorts = parser.parse_args().cohorts
    heading = " | ".join(f"{n} subjects" for n in SUBJECTS)
    lines = [f"| changes | interval | {heading} |", f"|{':--|' * 2}{'--:|' * len(SUBJECTS)}"]
    for population in POPULATIONS:
        results = [coverage(population, n, 5 * n_cohorts) for n in SUBJECTS]
        for method in METHODS:
            of_method = (result[method] for result in results)
            cells = [f"{fraction:.3f} ({length:.2f}, {tenth:.2f})" for fraction, length, tenth in of_method]
            lines.append(f"| {population.words} | {method} | {' | '.join(cells)} |")
    lines += ["", f"| mean change | interval | {heading} |", f"|{':--|' * 2}{'--:|' * len(SUBJECTS)}"]
    for effect in EFFECTS:
        results = [power(effect, n, n_cohorts) for n in SUBJECTS]
        lines += [f"| {-effect or 0:g} SD | {m} | {' | '.join(f'{r[m]:.3f}' for r in results)} |" for m in METHODS]
    lines += ["", f"| test | subjects | one condition | {' | '.join(CORRECTIONS)} |", f"|{':--|' * 2}{'--:|' * 4}"]
    for n in SUBJECTS:
        for test, p in null_p_values(n, n_cohorts).items():
            cells = [(p < ALPHA).mean(), *(level(p, correction) for correction in CORRECTIONS)]
            lines.append(f"| `{test}` | {n} | {' | '.join(f'{fraction:.3f}' for fraction in cells)} |")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
