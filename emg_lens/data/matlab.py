"""Reading variables from MATLAB files of any version."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from emg_lens.data.recording import DataError


def read_mat(path: Path, keys: Sequence[str]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Some variables of a MATLAB file: version 5 by scipy, 7.3 by h5py (turned to MATLAB's axis order).

    Raises:
        DataError: The file cannot be read.
    """
    import h5py
    from scipy.io import loadmat

    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                return {key: np.asarray(file[key]).T for key in keys if key in file}
        found = loadmat(path, variable_names=keys)
        return {key: found[key] for key in keys if key in found}
    except Exception as error:  # scipy raises half a dozen kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as a MATLAB file ({reason}); is it complete?") from None
