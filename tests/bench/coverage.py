"""What the statistics promise, counted: how often intervals cover, and how often tests reject where nothing is.

`python tests/bench/coverage.py [--cohorts N]` prints the tables of docs/statistics.md §5.3 and §5.5 (a minute for
2,000 cohorts): coverage of 95 % intervals of the mean change, for 5, 8, 10 and 20 subjects, beside Student's interval
and the BCa bootstrap, over five times as many cohorts; and the share of cohorts in which any of ten conditions is
significant at 5 % although none does anything, for every test and correction.
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


def halls(changes: Changes) -> Ends:
    """The shipped intervals."""
    return np.array([mean_interval(cohort, CONFIDENCE) for cohort in changes])


def students(changes: Changes) -> Ends:
    """Student's t."""
    found = scipy.stats.ttest_1samp(changes, 0, axis=1).confidence_interval(CONFIDENCE)
    return np.stack([found.low, found.high], axis=1)


def bootstrapped(changes: Changes) -> Ends:
    """BCa bootstrap, 999 resamples; undefined where all changes are alike."""
    ends = np.full((len(changes), 2), np.nan)
    some = np.ptp(changes, axis=1) > 0
    options = {"confidence_level": CONFIDENCE, "n_resamples": 999, "batch": 50, "rng": 0, "axis": 1}
    found = scipy.stats.bootstrap((changes[some],), np.mean, method="BCa", **options).confidence_interval
    ends[some] = np.stack([found.low, found.high], axis=1)
    return ends


METHODS = {"Hall (ours)": halls, "Student": students, "BCa bootstrap": bootstrapped}


def coverage(population: Population, n_subjects: int, n_cohorts: int) -> dict[str, tuple[float, float, float]]:
    """Of each method: the share of cohorts whose interval holds the mean, and its length beside Student's.

    The length as the median and as the 90th percentile over cohorts.

    A cohort without an interval is not covered.
    """
    changes = population.draw(np.random.default_rng(n_subjects), (n_cohorts, n_subjects))
    changes = np.round(changes, 12)
    ends = {name: method(changes) for name, method in METHODS.items()}
    unit = np.ptp(ends["Student"], axis=1)
    found = {}
    for name, (low, high) in ((name, e.T) for name, e in ends.items()):
        covers = (low <= population.mean + 1e-12) & (high >= population.mean - 1e-12)
        known = np.isfinite(high - low) & (unit > 0)
        lengths = np.quantile((high - low)[known] / unit[known], (0.5, 0.9))
        found[name] = float(covers.mean()), *map(float, lengths)
    return found


# --- tests ------------------------------------------------------------------------------------------------


def null_p_values(n_subjects: int, n_cohorts: int) -> dict[str, Float[np.ndarray, "cohort condition"]]:
    """Raw p of ten conditions that add noise and nothing else, of every test."""
    rng = np.random.default_rng(n_subjects)
    skill = rng.normal(0.85, 0.06, (n_subjects, n_cohorts, 1))
    baseline = skill + rng.normal(0, 0.04, (n_subjects, n_cohorts, 1))
    masked = skill + rng.normal(0, 0.04, (n_subjects, n_cohorts, N_CONDITIONS))
    shares = (np.round(np.clip(a, 0, 1) * N_TRIALS) / N_TRIALS for a in np.broadcast_arrays(masked, baseline))
    masked, baseline = (a.reshape(n_subjects, -1) for a in shares)
    return {test: p_values(test, masked, baseline).reshape(n_cohorts, N_CONDITIONS) for test in TESTS}


def level(p: Float[np.ndarray, "cohort condition"], correction: str) -> float:
    """The share of cohorts in which any corrected p is below 5 %."""
    return float(np.mean([(adjust(family, correction) < ALPHA).any() for family in p]))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=2000)
    n_cohorts = parser.parse_args().cohorts
    heading = " | ".join(f"{n} subjects" for n in SUBJECTS)
    lines = [f"| changes | interval | {heading} |", f"|{':--|' * 2}{'--:|' * len(SUBJECTS)}"]
    for population in POPULATIONS:
        found = [coverage(population, n, 5 * n_cohorts) for n in SUBJECTS]
        for method in METHODS:
            told = (of[method] for of in found)
            cells = [f"{share:.3f} ({length:.2f}, {tenth:.2f})" for share, length, tenth in told]
            lines.append(f"| {population.words} | {method} | {' | '.join(cells)} |")
    lines += ["", f"| test | subjects | one condition | {' | '.join(CORRECTIONS)} |", f"|{':--|' * 2}{'--:|' * 4}"]
    for n in SUBJECTS:
        for test, p in null_p_values(n, n_cohorts).items():
            cells = [(p < ALPHA).mean(), *(level(p, correction) for correction in CORRECTIONS)]
            lines.append(f"| {test} | {n} | {' | '.join(f'{share:.3f}' for share in cells)} |")
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main()
