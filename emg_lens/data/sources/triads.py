"""Three-axis sensors whose columns stand in an order that nobody states: found from gravity.

An accelerometer at rest measures 1 g, however it is turned. So the norm of three columns that belong to one sensor is
near 1 g on rest rows, and of three that do not it is anything.
"""

from typing import Literal

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

AxisOrder = Literal["auto", "electrode_major", "axis_major"]
"""x1, y1, z1, x2, ... or x1, x2, ..., y1, y2, ...; `auto` finds out."""
AXES = ("x", "y", "z")
ORDERS = ("electrode_major", "axis_major")
MOST_ROWS = 20_000
SEPARABLE = 1.5
"""The worse order's deviation from 1 g must be larger than the better one's by this factor."""

AccColumns = Float[np.ndarray, "time column"]


def electrode_major(data: AccColumns, order: str) -> AccColumns:
    """The columns as x1, y1, z1, x2, ..."""
    if order == "electrode_major":
        return data
    return rearrange(data, "time (xyz electrode) -> time (electrode xyz)", xyz=len(AXES))


def found_order(acc: AccColumns, at_rest: Bool[np.ndarray, " time"]) -> tuple[str, str]:
    """The order under which the sensors' norms are nearest 1 g at rest, and a note on how clear that is.

    Args:
        acc: In g; as many columns as three times the sensors.
        at_rest: Rows on which nothing moves; where there are none, all count.
    """
    if acc.shape[1] == len(AXES):
        return "electrode_major", ""
    rows = np.flatnonzero(at_rest) if at_rest.any() else np.arange(len(acc))
    some = acc[rows[:: max(1, len(rows) // MOST_ROWS)]]
    off = {order: _off_gravity(some, order) for order in ORDERS}
    best, other = sorted(ORDERS, key=off.__getitem__)
    told = " and ".join(f"{off[order]:.3f} g ({order})" for order in (best, other))
    if off[other] < SEPARABLE * off[best]:
        return (
            "electrode_major",
            f"acc: the order of its columns is not clear from gravity ({told} off 1 g at rest);"
            " electrode_major assumed, set acc_order",
        )
    return best, f"acc: columns taken as {best}: at rest their norms are {told} off 1 g"


def _off_gravity(acc: AccColumns, order: str) -> float:
    """Root mean square deviation of the sensors' norms from 1 g."""
    triads = rearrange(electrode_major(acc, order), "time (electrode xyz) -> time electrode xyz", xyz=len(AXES))
    return float(np.sqrt(np.mean((np.linalg.norm(triads, axis=2) - 1) ** 2)))
