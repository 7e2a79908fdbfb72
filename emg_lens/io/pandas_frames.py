"""Read data frames that `DataFrame.to_hdf(format="fixed")` wrote, without pandas' reader and without running code.

Text columns are stored as a pickle of an array of objects. Only arrays of text are rebuilt from it; everything else in
the pickle is refused.
"""

import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emg_lens.io.binary import stored_dataset

ALLOWED = {
    (module, name)
    for module, names in {
        "numpy.core.multiarray": ("_reconstruct",),
        "numpy._core.multiarray": ("_reconstruct",),
        "numpy": ("ndarray", "dtype"),
    }.items()
    for name in names
}
"""Everything that a pickled array of text needs."""


class _TextUnpickler(pickle.Unpickler):
    """Rebuild arrays; refuse every other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(f"a text column refers to {module}.{name}; expected text alone")
        return super().find_class(module, name)


def frame_columns(path: Path, frames: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Read data frames by their keys; columns of each as arrays, text as object arrays.

    Raises:
        ValueError: A frame is missing, is not of the fixed format, or holds other objects than text.
    """
    with h5py.File(path) as file:
        for key in frames:
            group = file.get(key)
            kind = group.attrs.get("pandas_type", b"") if isinstance(group, h5py.Group) else b""
            if (kind.decode() if isinstance(kind, bytes) else str(kind)) != "frame":
                raise ValueError(f"it has no data frame {key!r} in pandas' fixed format")
            columns: dict[str, np.ndarray] = {}
            for block in range(int(group.attrs["nblocks"])):
                items = [_text(name) for name in stored_dataset(group, f"block{block}_items")[()]]
                values = group[f"block{block}_values"]
                if values.dtype == object:
                    values = _texts(np.asarray(values[0], np.uint8).tobytes(), f"{key}: block {block}")
                else:
                    values = stored_dataset(group, f"block{block}_values")[()]
                values = values[None] if values.ndim == 1 else values
                if values.ndim != 2 or len(items) not in values.shape:
                    raise ValueError(f"{key}: block {block} has the shape {values.shape} for {len(items)} columns")
                rows = values.T if values.shape[1] == len(items) else values
                columns |= dict(zip(items, rows, strict=True))
            yield key, columns


def _texts(pickled: bytes, what: str) -> np.ndarray:
    try:
        values = _TextUnpickler(io.BytesIO(pickled)).load()
    except ValueError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged pickle can raise anything
        raise ValueError(f"{what} cannot be read ({type(error).__name__})") from None
    if not isinstance(values, np.ndarray) or not all(isinstance(one, str) for one in values.ravel().tolist()):
        raise ValueError(f"{what} holds other objects than text")
    return values


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)
