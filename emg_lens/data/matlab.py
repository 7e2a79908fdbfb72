"""Read variables from MATLAB files of any version."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from emg_lens.data.files import read_parts
from emg_lens.io.binary import matlab_variables


def read_mat(path: Path, keys: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Read those of some variables that a MATLAB file has, as arrays of numbers with MATLAB's order of axes.

    Raises:
        DataError: The file cannot be read, or a variable does not contain real numbers.
    """
    variables = read_parts(matlab_variables, path, "a MATLAB file", keys=list(keys))
    transposed = variables.pop("transposed")
    return {key: value.T if transposed else value for key, value in variables.items()}


def as_float32(data: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Convert samples to float32; too large values become infinite, which loaders reject."""
    with np.errstate(over="ignore"):
        return data.astype(np.float32, copy=False)
