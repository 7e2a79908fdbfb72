"""Save a `SequenceSet` as one HDF5 file: samples and frames end to end, other fields as JSON, and a checksum."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from emg_lens.data.recording import DataError
from emg_lens.data.storage import read_file, written
from emg_lens.io.checksums import PLACEHOLDER

FORMAT, VERSION = "emg-lens sequences", 1
SERIES = {"x": 1, "frames": 0, "frame_labels": 0}
"""Arrays of a sequence, and the axis of time."""
FACTS = ("channels", "fs", "event_names", "frame_names", "label_names", "notes")


def save_sequences(sequences: Any, path: Path) -> None:
    """Write a temporary file and move it to `path`."""
    with written(path) as file:
        file.attrs.update(checksum=PLACEHOLDER, format=FORMAT, version=VERSION)
        facts = {name: getattr(sequences, name) for name in FACTS}
        facts["channels"] = sequences.channels.to_dict("list")
        about = []
        for one in sequences.sequences:
            lengths = {
                name: None if getattr(one, name) is None else getattr(one, name).shape[axis]
                for name, axis in SERIES.items()
            }
            fields = {name: value for name, value in vars(one).items() if name not in SERIES}
            about.append(json.dumps({**fields, "lengths": lengths}))
        file.create_dataset("about", data=[json.dumps(facts), *about], dtype=h5py.string_dtype())
        for name, axis in SERIES.items():
            parts = [getattr(one, name) for one in sequences.sequences if getattr(one, name) is not None]
            if parts:
                file.create_dataset(name, data=np.concatenate(parts, axis))


def load_sequences(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the fields of a `SequenceSet`, and those of each sequence."""
    content = read_file(path, (*SERIES,), ("about",), FORMAT, VERSION, "SequenceSet.save")
    try:
        facts, *about = [json.loads(text) for text in content["about"]]
        facts["channels"] = pd.DataFrame(facts["channels"]).astype({"native_fs": float})
        facts |= {name: tuple(facts[name]) for name in FACTS if name not in ("channels", "fs")}
        lengths = [one.pop("lengths") for one in about]
        for name, axis in SERIES.items():
            start = 0
            for one, of in zip(about, lengths, strict=True):
                one[name] = None
                if of[name] is not None:
                    one[name] = np.take(content[name], range(start, start + of[name]), axis)
                    start += of[name]
        for one in about:
            one["events"] = None if one["events"] is None else tuple((name, time) for name, time in one["events"])
    except (KeyError, TypeError, ValueError, IndexError, RecursionError):
        raise DataError(f"{path}: its content cannot be read; the file was changed, so save it again") from None
    return facts, about
