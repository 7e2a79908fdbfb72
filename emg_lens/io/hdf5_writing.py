"""Write HDF5 files so that a full disk is an error. The library itself crashes after a write that failed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import h5py

UNWRITTEN_BYTES = 4 << 20
"""The library writes the last bytes when it closes a file: at most 1 MiB of each data set, and the descriptions."""


@contextmanager
def new_hdf5_file(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, and close it after the block.

    Raises:
        OSError: The disk is full, for example. The content of the file is lost.
    """
    with h5py.File(path, "w", rdcc_nbytes=0) as file:  # no cache: what is written is written at once, or an error
        try:
            yield file
            with TemporaryFile(dir=path.parent) as room:  # an error when the file is closed could not be repaired
                room.write(bytes(UNWRITTEN_BYTES))
                room.flush()
        except BaseException:
            # The library keeps what it could not write, and tries again when it closes the file and at its end. It
            # crashes if that fails too. Here these writes go to memory, which is freed with the file.
            if hasattr(os, "memfd_create"):  # Linux
                memory = os.memfd_create("lost")
                os.dup2(memory, file.id.get_vfd_handle())  # pyright: ignore[reportAttributeAccessIssue]
                os.close(memory)
            raise
