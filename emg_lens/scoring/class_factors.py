"""Accuracy per factor, for classes that combine factors: `"emg 0, acc 1, joint 2"` is one value of each of three.

A cut may remove the information about one factor only. The accuracy of each factor shows which one.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

PREFIX = "accuracy_of_"
"""Start of the score columns with the accuracy of a factor."""


def factor_values(names: Sequence[str]) -> dict[str, list[str]]:
    """Value of each factor in every class (`"emg 0, acc 1"`), without factors that have one value only.

    Empty if the class names do not all list values of the same factors.
    """
    listed = [[part.rpartition(" ")[::2] for part in name.split(", ")] for name in names]
    orders = {tuple(factor for factor, _ in parts) for parts in listed}
    if len(orders) != 1 or len(set(order := orders.pop())) < len(order) or len(order) < 2 or "" in order:
        return {}
    values_of = {factor: [parts[k][1] for parts in listed] for k, factor in enumerate(order)}
    return {factor: values for factor, values in values_of.items() if len(set(values)) > 1}


def factor_accuracies(
    logits: Float[np.ndarray, "trial class"],
    y: Int[np.ndarray, " trial"],
    weights: Float[np.ndarray, " trial"],
    names: Sequence[str],
) -> dict[str, float]:
    """For each factor, the weighted fraction of trials in which the predicted class has its correct value."""
    predicted, accuracies = logits.argmax(-1), {}
    for factor, values in factor_values(names).items():
        value = np.unique(values, return_inverse=True)[1]
        correct = value[predicted] == value[y]
        accuracies[f"{PREFIX}{factor}"] = float(np.average(correct, weights=weights))
    return accuracies
