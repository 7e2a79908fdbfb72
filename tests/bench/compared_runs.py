"""Measure how often `emg-lens compare` finds a clear difference between two runs that do not differ.

`python tests/bench/compared_runs.py [--cohorts N]` prints the table of docs/statistics.md §5.8. Two runs test the same
subjects, whose abilities differ, on 34 trials each. There is one comparison, or a family of ten.
With an effect, the models of the second run classify 5 % more trials, and each subject has the same abilities in both
runs. Unpaired comparisons get other people in the second run.
"""

import argparse

import numpy as np
import pandas as pd
from jaxtyping import Float

from emg_lens.studies.comparison.difference_tests import column_differences, with_corrections
from emg_lens.studies.statistics.spec import StatisticsSpec

SUBJECTS = (5, 8, 10, 20)
N_TRIALS, N_ABLATIONS = 34, 10
ABILITY, SPREAD, GAIN = 0.75, 0.1, 0.05
SPEC = StatisticsSpec()


def accuracies(
    rng: np.random.Generator, ability: Float[np.ndarray, "subject 1"], n_columns: int, gain: float = 0.0
) -> Float[np.ndarray, "subject column"]:
    """Fractions of correct trials of subjects with these abilities."""
    p = np.clip(ability + gain, 0.05, 0.98)
    return rng.binomial(N_TRIALS, np.broadcast_to(p, (len(p), n_columns))) / N_TRIALS


def any_clear(rng: np.random.Generator, n: int, n_columns: int, paired: bool, gain: float) -> tuple[bool, bool]:
    """Whether any difference is clear, and whether any corrected p is below .05."""
    first = rng.normal(ABILITY, SPREAD, (n, 1))
    second = first if paired else rng.normal(ABILITY, SPREAD, (n, 1))
    reference, other = accuracies(rng, first, n_columns), accuracies(rng, second, n_columns, gain)
    table = column_differences(reference, other, SPEC, paired=paired, bound=1.0, percent=True)
    table = with_corrections(table.assign(condition=[f"c{k}" for k in range(n_columns)]), SPEC, "all")
    return bool(table["clear"].any()), bool((table["p_corrected"] < SPEC.alpha).any())


def main() -> None:
    """Print one row for each number of subjects and kind of comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=1000)
    n_cohorts, rows = parser.parse_args().cohorts, []
    for paired in (True, False):
        for n in SUBJECTS:
            row = {"runs": "paired" if paired else "not paired", "subjects": n}
            for n_columns, gain, words in ((1, 0.0, "one"), (N_ABLATIONS, 0.0, "any of ten"), (1, GAIN, "5 pp better")):
                rng = np.random.default_rng(n)
                found = np.mean([any_clear(rng, n, n_columns, paired, gain) for _ in range(n_cohorts)], axis=0)
                row |= {f"{words}: clear": f"{found[0]:.3f}", f"{words}: p": f"{found[1]:.3f}"}
            rows.append(row)
    table = pd.DataFrame(rows).astype(str)
    lines = [" | ".join(table.columns), f"{':-- | ' * 2}{' | '.join(['--:'] * 6)}", *map(" | ".join, table.to_numpy())]
    print("\n".join(f"| {line} |" for line in lines))  # noqa: T201


if __name__ == "__main__":
    main()
