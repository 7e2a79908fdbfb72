"""The unknown column order of three-axis sensors, determined from gravity.

An accelerometer at rest measures 1 g in any orientation. The norm of three columns of one sensor is therefore near 1 g
at rest. The norm of three columns of different sensors is not.
"""

from typing import Literal

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

AxisOrder = Literal["auto", "electrode_major", "axis_major"]
"""x1, y1, z1, x2, ... or x1, x2, ..., y1, y2, ...; `auto` determines it from gravity."""
AXES = ("x", "y", "z")
MOST_ROWS = 20_000
SEPARABLE = 1.5
"""The order is clear if the other order's deviation from 1 g is larger by this factor."""

AccColumns = Float[np.ndarray, "time column"]


def electrode_major(data: AccColumns, order: str) -> AccColumns:
    """Reorder the columns to x1, y1, z1, x2, ..."""
    if order == "electrode_major":
        return data
    return rearrange(data, "time (xyz electrode) -> time (electrode xyz)", xyz=len(AXES))


def order_from_gravity(acc: AccColumns, at_rest: Bool[np.ndarray, " time"]) -> tuple[str, str]:
    """Return the order in which the norms of `acc` (g) are nearest to 1 g at rest, and a note with the deviations.

    If no row is at rest, all rows are used.
    """
    if acc.shape[1] == len(AXES):
        return "electrode_major", ""
    rows = np.flatnonzero(at_rest) if at_rest.any() else np.arange(len(acc))
    some = acc[rows[:: max(1, len(rows) // MOST_ROWS)]]
    deviation = {}  # root mean square of the norms' differences from 1 g
    for order in ("electrode_major", "axis_major"):
        triads = electrode_major(some, order).reshape(len(some), -1, len(AXES))
        deviation[order] = float(np.sqrt(np.mean((np.linalg.norm(triads, axis=2) - 1) ** 2)))
    best, other = sorted(deviation, key=deviation.__getitem__)
    listed = " and ".join(f"{deviation[order]:.3f} g ({order})" for order in (best, other))
    if deviation[other] < SEPARABLE * deviation[best]:
        unclear = f"acc: the column order is not clear from gravity (norms at rest deviate from 1 g by {listed})"
        return "electrode_major", f"{unclear}; electrode_major assumed, set acc_order"
    return best, f"acc: column order {best}, because norms at rest deviate from 1 g by {listed}"
