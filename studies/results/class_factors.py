"""Classes that are combinations of factors: `"emg 0, acc 1, joint 2"` is one value of each of three.

What a cut costs the gesture may be lost of one factor alone; each is told with an accuracy of its own.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

PREFIX = "accuracy_of_"
"""Of the columns of scores that tell how well a factor is told."""


def factor_values(names: Sequence[str]) -> dict[str, list[str]]:
    """Each factor's value in every class; empty where the names do not all list values of the same factors.

    Args:
        names: Of the classes: `"emg 0, acc 1"`, each factor before its value. Factors with one value are left out.
    """
    listed = [[part.rpartition(" ")[::2] for part in name.split(", ")] for name in names]
    orders = {tuple(factor for factor, _ in parts) for parts in listed}
    if len(orders) != 1 or len(set(order := orders.pop())) < len(order) or len(order) < 2 or "" in order:
        return {}
    found = {factor: [parts[k][1] for parts in listed] for k, factor in enumerate(order)}
    return {factor: values for factor, values in found.items() if len(set(values)) > 1}


def factor_accuracies(
    logits: Float[np.ndarray, "trial class"],
    y: Int[np.ndarray, " trial"],
    weights: Float[np.ndarray, " trial"],
    names: Sequence[str],
) -> dict[str, float]:
    """For each factor of the classes, the share of trials whose told class has the right value of it.

    Args:
        logits: Under one condition.
        y: Class index of each trial.
        weights: Of the trials, as for `accuracy`.
        names: Of the classes.
    """
    told, found = logits.argmax(-1), {}
    for factor, values in factor_values(names).items():
        value = np.unique(values, return_inverse=True)[1]
        found[f"{PREFIX}{factor}"] = float(np.average(value[told] == value[y], weights=weights))
    return found
