"""Shapley values and interactions of a game: one value for every set of groups that are kept."""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats

from emg_lens.tables import WholeTable
from emg_lens.validation import ArgumentError

CLEAR = 0.05
"""Interactions below this fraction of the range of the game are not named."""
ROUNDING = 1e-5
"""Differences below this fraction of the metric are rounding errors of single precision."""


@dataclass(frozen=True, eq=False)
class ExactGame:
    """The metric of the model for every set of groups that are kept; all other candidates are cut.

    Attributes:
        groups: Names of the groups.
        values: The metric of each trial. Row number b keeps group i if bit i of b is set.
    """

    groups: tuple[str, ...]
    values: Float[np.ndarray, "coalition trial"]

    def __call__(self, coalitions: Bool[np.ndarray, "coalition group"]) -> Float[np.ndarray, " coalition"]:
        """Return the mean over trials for each set of kept groups, in the form that shapiq expects."""
        kept = np.asarray(coalitions)
        n = len(self.groups)
        if kept.dtype != bool or kept.ndim != 2 or kept.shape[1] != n:
            raise ArgumentError(
                f"coalitions are {kept.dtype} {list(kept.shape)}; expected booleans [coalition, group] with {n} groups"
            )
        return self.values.mean(1)[kept @ (1 << np.arange(n))]

    def shapley_values(self) -> Float[np.ndarray, "group trial"]:
        """Compute the mean gain of a group over all orders in which the groups are added (Shapley 1953)."""
        n = len(self.groups)
        found = np.zeros((n, self.values.shape[1]))
        for i in range(n):
            without, weight = _sets_without((i,), n)
            found[i] = weight @ (self.values[without | 1 << i] - self.values[without])
        return found

    def interactions(self) -> pd.DataFrame:
        """Compute the Shapley interaction index of every pair of groups (Grabisch & Roubens 1999).

        Returns:
            One row per pair: `a`, `b`, `interaction` (mean over trials, in units of the metric), `standard_error` over
            trials, and `gate`: `"AND"` if the interaction is clearly positive (more together than separately), `"OR"`
            if clearly negative (less together than separately), otherwise empty. It is clear if the 95 % interval over
            trials excludes 0 and the mean is at least 5 % of the range of the game. A pair with a group whose Shapley
            value is negative is never `"OR"`: this group lowers what the other adds, and cannot replace it.
        """
        n, v = len(self.groups), self.values
        mean = v.mean(1)
        rounding = ROUNDING * np.abs(mean).max()
        lowers = self.shapley_values().mean(1) < -rounding
        rows = []
        for i, j in combinations(range(n), 2):
            s, weight = _sets_without((i, j), n)
            gain = weight @ (v[s | 1 << i | 1 << j] - v[s | 1 << i] - v[s | 1 << j] + v[s])
            error = stats.sem(gain) if len(gain) > 1 else np.nan
            width = stats.t.ppf(0.975, len(gain) - 1) * error if len(gain) > 1 else np.inf
            size = abs(gain.mean())
            clear = size > width and size >= max(CLEAR * (mean.max() - mean.min()), rounding) > 0
            overlap = "" if lowers[i] or lowers[j] else "OR"
            gate = ("AND" if gain.mean() > 0 else overlap) if clear else ""
            rows.append((self.groups[i], self.groups[j], gain.mean(), error, gate))
        return WholeTable(rows, columns=["a", "b", "interaction", "standard_error", "gate"])


def every_subset(n: int) -> Bool[np.ndarray, "set element"]:
    """Return all 2ⁿ sets of n elements; set number b contains element i if bit i of b is set."""
    return (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)


def _sets_without(chosen: tuple[int, ...], n: int) -> tuple[np.ndarray, Float[np.ndarray, " coalition"]]:
    """Return the bit masks of all sets without the chosen groups, and their weights s! (n - s - k)! / (n - k + 1)!."""
    codes, k = np.arange(1 << n), len(chosen)
    codes = codes[codes & sum(1 << i for i in chosen) == 0]
    weight = np.array([1 / ((n - k + 1) * math.comb(n - k, size)) for size in range(n - k + 1)])
    return codes, weight[every_subset(n)[codes].sum(1)]
