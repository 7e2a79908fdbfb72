"""Checks of the values that loaders read from files."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from emg_lens.data.recording import DataError


def check_finite(data: Float[np.ndarray, "time channel"], ch_names: tuple[str, ...], where: str) -> None:
    """Raise `DataError` if a sample is NaN or infinite; `where` is the file and the signal."""
    bad = np.flatnonzero(~np.isfinite(data).all(axis=0))
    if len(bad):
        row = int(np.argmin(np.isfinite(data[:, bad[0]]))) + 1
        raise DataError(f"{where} is NaN or infinite in channel {ch_names[bad[0]]}, row {row}; is the file complete?")


def whole_numbers(values: Shaped[np.ndarray, " row"], where: str) -> Int[np.ndarray, " row"]:
    """Convert labels or repetition numbers to integers; raise `DataError` if one is not a whole number from 0."""
    valid = (values >= 0) & (values <= np.iinfo(np.int32).max) & (values == np.round(values))  # false for NaN
    if not valid.all():
        raise DataError(f"{where} must contain whole numbers from 0; is the file complete?")
    return values.astype(np.int64)
