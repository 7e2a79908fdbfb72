"""Read variables from MATLAB files of any version."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from emg_lens.data.files import read_parts
from emg_lens.data.recording import DataError
from emg_lens.io.binary import matlab_variables


def read_mat(path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Read variables of a MATLAB file, as arrays of numbers with MATLAB's order of axes; `optional` may be missing."""
    variables = read_parts(matlab_variables, path, "a MATLAB file", keys=[*dict.fromkeys((*keys, *optional))])
    transposed = variables.pop("transposed")
    missing = [key for key in keys if key not in variables]
    if missing:
        present = ", ".join(variables) or "none"
        raise DataError(f"{path}: no variable {missing[0]!r} (it has {present}); is the file complete?")
    return {key: value.T if transposed else value for key, value in variables.items()}


def as_float32(data: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Convert samples to float32; too large values become infinite, which loaders reject.

    Integers that float32 would round become float64: filters may remove the offset that makes them large.
    """
    if data.dtype.kind in "iu" and data.dtype.itemsize > 3 and (data != data.astype(np.float32)).any():
        return data.astype(np.float64)
    with np.errstate(over="ignore"):
        return data.astype(np.float32, copy=False)
