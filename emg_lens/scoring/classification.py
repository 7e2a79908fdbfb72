"""Metrics of class logits `[trial, class]` and class indices `[trial]`, as scikit-learn defines them."""

import numpy as np
from jaxtyping import Bool, Float, Int

from emg_lens.scoring.metric_registry import Counts, add_metric, log_probabilities

Logits = Float[np.ndarray, "trial class"]
ClassIndex = Int[np.ndarray, " trial"]
ClassSums = Float[np.ndarray, "*many part"]


def largest_class(y: ClassIndex, weights: Float[np.ndarray, " trial"], n_classes: int) -> float:
    """Accuracy of always predicting the most frequent class."""
    return np.bincount(y, weights, n_classes).max() / weights.sum()


def one_in_classes(y: ClassIndex, weights: Float[np.ndarray, " trial"], n_classes: int) -> float:  # noqa: ARG001
    """Balanced accuracy of always predicting one of the classes that occur."""
    return 1 / len(np.unique(y))


@add_metric("accuracy", "classes", unit="fraction", chance=largest_class)
def is_correct(logits: Logits, y: ClassIndex) -> Bool[np.ndarray, " trial"]:
    """Whether the largest logit of a trial is the logit of its class."""
    return logits.argmax(1) == y


add_metric("repetition_accuracy", "classes", unit="fraction", repetitions="pooled", chance=largest_class)(is_correct)


def _mean_recall(sums: ClassSums) -> Float[np.ndarray, "*many"]:
    correct, _, actual = _by_class(sums)
    return _mean_over_classes(correct, actual, actual > 0)


def _mean_f1(sums: ClassSums) -> Float[np.ndarray, "*many"]:
    correct, predicted, actual = _by_class(sums)
    return _mean_over_classes(2 * correct, predicted + actual, predicted + actual > 0)


@add_metric("balanced_accuracy", "classes", _mean_recall, unit="fraction", chance=one_in_classes)
@add_metric("macro_f1", "classes", _mean_f1, unit="fraction")
def class_counts(logits: Logits, y: ClassIndex) -> Counts:
    """For each class: correctly predicted trials, trials predicted as this class, trials of this class.

    Balanced accuracy is the mean recall over classes that occur. Macro F1 is the mean F1 over classes that occur or are
    predicted.
    """
    (n, n_classes), predicted, trials = logits.shape, logits.argmax(1), np.arange(len(y))
    counts = np.zeros((n, 3, n_classes))
    counts[trials, 0, y] = predicted == y
    counts[trials, 1, predicted] = 1
    counts[trials, 2, y] = 1
    return counts.reshape(n, -1)


@add_metric("log_prob", "classes", unit="nat")
def log_probability(logits: Logits, y: ClassIndex) -> Float[np.ndarray, " trial"]:
    """Natural log-probability of the true class: minus the cross-entropy."""
    return log_probabilities(logits)[np.arange(len(y)), y]


def _by_class(sums: ClassSums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    correct, predicted, actual = np.split(sums, 3, axis=-1)
    return correct, predicted, actual


def _mean_over_classes(numerator: np.ndarray, denominator: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Mean ratio over the classes that count, for each row."""
    rows = zip(*(part.reshape(-1, part.shape[-1]) for part in (numerator, denominator, counted)), strict=True)
    return np.reshape([(a[chosen] / b[chosen]).mean() for a, b, chosen in rows], numerator.shape[:-1])
