"""Reading variables from MATLAB files of any version."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from emg_lens.data.files import read_parts
from emg_lens.io.binary import matlab_variables


def read_mat(path: Path, keys: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Some variables of a MATLAB file, as far as it has them; all are arrays of numbers, on MATLAB's axes.

    Raises:
        DataError: The file cannot be read, or a variable holds something else than real numbers.
    """
    found = read_parts(matlab_variables, path, "a MATLAB file", keys=list(keys))
    turned = found.pop("turned")
    return {key: value.T if turned else value for key, value in found.items()}


def as_float32(data: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Samples as float32; what is too large for it becomes infinite, which loaders refuse."""
    with np.errstate(over="ignore"):
        return data.astype(np.float32, copy=False)
