"""Unusual features of HDF5 in a file of arrays: links, external values, virtual data sets, ..."""

import zlib
from pathlib import Path

import h5py
import numpy as np

GIANT = 40 * 2**30
"""Size that a file declares, or unpacks to, in bytes."""
NEVER = ("external link", "external storage", "virtual", "giant", "giant chunks", "bomb")
"""A path that must not be read."""
HDF5_KINDS = (
    "external link", "external storage", "virtual", "soft link", "loop", "giant", "giant chunks", "bomb", "compound",
    "text", "variable text", "references", "group", "null", "enum", "half", "big-endian", "ragged", "region",
    "opaque", "unknown filter", "bad link to self", "bitfield array",
)  # fmt: skip


def odd_hdf5(file: h5py.File, key: str, shape: tuple[int, ...], kind: str, path: Path) -> None:
    """Insert an unusual feature into an HDF5 file."""
    secret = path.with_name("secret.bin")
    n = int(np.prod(shape))
    match kind:
        case "external link":
            with h5py.File(path.with_name("other.h5"), "w") as other:
                other[key] = np.ones(shape)
            file[key] = h5py.ExternalLink("other.h5", key)
        case "external storage":
            secret.write_bytes(bytes(8 * n))
            file.create_dataset(key, shape, np.float64, external=[(str(secret), 0, 8 * n)])
        case "virtual":
            with h5py.File(path.with_name("other.h5"), "w") as other:
                other[key] = np.ones(shape)
            layout = h5py.VirtualLayout(shape, np.float64)
            layout[...] = h5py.VirtualSource(str(path.with_name("other.h5")), key, shape)
            file.create_virtual_dataset(key, layout)
        case "soft link":
            file[key] = h5py.SoftLink("/nowhere")
        case "loop":
            file[key] = h5py.SoftLink(f"/{key}")
        case "bad link to self":
            file[key] = file["/"]
        case "giant":
            file.create_dataset(key, (GIANT // 8 // max(shape[-1], 1), *shape[1:]), np.float64, chunks=True)
        case "giant chunks":
            file.create_dataset(
                key, (2**40,) * len(shape), np.float64, chunks=(1,) * len(shape), maxshape=(None,) * len(shape)
            )
        case "bomb":
            packed = file.create_dataset(key, (GIANT // 2**3,), np.float64, chunks=(2**24,), compression="gzip")
            packed.id.write_direct_chunk((0,), zlib.compress(bytes(2**27)))
        case "compound":
            file[key] = np.zeros(shape, [("real", "f8"), ("imag", "f8")])
        case "text":
            file[key] = np.full(shape, b"abc")
        case "variable text":
            file.create_dataset(key, shape, h5py.string_dtype())
        case "references":
            file.create_dataset(key, shape, h5py.ref_dtype)
        case "region":
            file.create_dataset(key, shape, h5py.regionref_dtype)
        case "group":
            file.create_group(key)["x"] = 1
        case "null":
            file[key] = h5py.Empty("f8")
        case "enum":
            file.create_dataset(key, shape, h5py.enum_dtype({"OFF": 0, "ON": 1}))
        case "half":
            file[key] = np.ones(shape, np.float16)
        case "big-endian":
            file[key] = np.ones(shape, ">f8")
        case "ragged":
            file.create_dataset(key, shape, h5py.vlen_dtype(np.float64))
        case "opaque":
            file.create_dataset(key, shape, np.dtype("V8"))
        case "unknown filter":
            made = file.create_dataset(
                key, shape, np.float64, chunks=shape if n else None, compression="gzip" if n else None
            )
            if n:
                made.id.write_direct_chunk((0,) * len(shape), b"not packed")
        case "bitfield array":
            file[key] = np.zeros(shape, np.dtype((np.int32, (2,))))
