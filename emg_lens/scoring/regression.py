"""Metrics of numbers: outputs and targets of one shape `[trial, target]`, as scikit-learn and scipy define them.

R² and the correlation are computed from sums of values and squares. They lose digits where the mean of a target is much
larger than its spread: at 1,000 times the spread, six of sixteen digits.
"""

import numpy as np
from jaxtyping import Float

from emg_lens.scoring.metric_registry import Counts, add_metric, columns_of

Numbers = Float[np.ndarray, "trial target"]
ManyNumbers = Float[np.ndarray, "trial *value"]
TargetSums = Float[np.ndarray, "*many part"]
NEGLIGIBLE = 1e-12
"""Variance, as a fraction of the mean square, below which values of 32 bits count as constant."""


@add_metric("mae", "values", better="lower", unit="target", repetitions="ignored")
def absolute_error(outputs: Numbers, targets: Numbers) -> Counts:
    """Sum of absolute errors, and number of values."""
    return _sum_and_number(np.abs(_errors(outputs, targets)))


@add_metric("reconstruction_error", "values", better="lower", repetitions="ignored")
def squared_difference(outputs: ManyNumbers, targets: ManyNumbers) -> Counts:
    """Sum of squared differences between a signal and its reconstruction, and number of values."""
    return _sum_and_number(_errors(outputs, targets) ** 2)


def _mean_rmse(sums: TargetSums) -> Float[np.ndarray, "*many"]:
    squares, n = sums[..., :-1], sums[..., -1:]
    return np.asarray(np.sqrt(squares / n).mean(-1))


@add_metric("rmse", "values", _mean_rmse, "lower", "target", repetitions="ignored")
def squared_error(outputs: Numbers, targets: Numbers) -> Counts:
    """Squared error of each target, and the count 1. The metric is the RMSE, averaged over targets."""
    return _moments(_errors(outputs, targets) ** 2)


def _mean_r2(sums: TargetSums) -> Float[np.ndarray, "*many"]:
    (residual, total, squares), n = _split(sums, 3)
    return np.asarray((1 - residual / _spread(total, squares, n)).mean(-1))


@add_metric("r2", "values", _mean_r2, repetitions="ignored")
def explained(outputs: Numbers, targets: Numbers) -> Counts:
    """Squared error, value and squared value of each target, and the count 1.

    The metric is the mean over targets of the coefficient of determination R²; NaN where a target is constant.
    """
    wide = targets.astype(np.float64)
    return _moments(_errors(outputs, targets) ** 2, wide, wide**2)


def _mean_correlation(sums: TargetSums) -> Float[np.ndarray, "*many"]:
    (a, b, aa, bb, ab), n = _split(sums, 5)
    products_of_deviations = ab - a * b / n
    return np.asarray((products_of_deviations / np.sqrt(_spread(a, aa, n) * _spread(b, bb, n))).mean(-1))


@add_metric("pearson", "values", _mean_correlation, repetitions="ignored")
def products(outputs: Numbers, targets: Numbers) -> Counts:
    """Value, squared value and product of each output and target, and the count 1.

    The metric is the mean over targets of Pearson's correlation; NaN where an output or a target is constant.
    """
    a, b = outputs.astype(np.float64), targets.astype(np.float64)
    return _moments(a, b, a**2, b**2, a * b)


def _errors(outputs: ManyNumbers, targets: ManyNumbers) -> ManyNumbers:
    return outputs.astype(np.float64) - targets.astype(np.float64)


def _sum_and_number(values: ManyNumbers) -> Counts:
    flat = values.reshape(len(values), -1)
    return columns_of(flat.sum(1), np.full(len(flat), flat.shape[1]))


def _moments(*parts: Numbers) -> Counts:
    return np.concatenate([*parts, np.ones((len(parts[0]), 1))], axis=1)


def _split(sums: TargetSums, parts: int) -> tuple[list[np.ndarray], np.ndarray]:
    return np.split(sums[..., :-1], parts, axis=-1), sums[..., -1:]


def _spread(total: np.ndarray, squares: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Sum of squared deviations from the mean; NaN where the values are constant."""
    spread = squares - total**2 / n
    return np.where(spread <= NEGLIGIBLE * squares, np.nan, spread)
